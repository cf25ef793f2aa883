"""A file without a name, for what is needed for a while and too large for memory (L2, blocking)."""

from __future__ import annotations

__all__ = ("Scratch",)

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from aioruntime.store.files import File


class Scratch:
    """Bytes on the store's disk that are gone when it is closed, or when this process ends.

    It is written by one thread at its end, and read from anywhere. All calls block. Made by
    `ImageStore.open_scratch`.

    Attributes:
        size: bytes that were written.
    """

    def __init__(self, file: File) -> None:
        self.size = 0
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def write(self, data: bytes | bytearray) -> None:
        """Add *data* at the end.

        Raises:
            StoreFull: the disk is full.
            StoreError: it can't be written.
        """
        self._file.write_at(self.size, data, len(data))
        self.size += len(data)

    def read(self, offset: int, count: int) -> bytes:
        """Return up to *count* bytes from *offset* on; fewer only at the end.

        Raises:
            StoreError: it can't be read.
        """
        return self._file.read_at(offset, count)

    def close(self) -> None:
        """Let the bytes go; harmless if that was done."""
        self._file.close()
