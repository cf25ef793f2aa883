"""A blob's file as the standard library's streams want it, its errors told as the store's are (L2)."""

from __future__ import annotations

__all__ = ("as_stream",)

import io
import os
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from aioruntime.store.files import File

_BUFFER = 256 * 1024


def as_stream(file: File) -> BinaryIO:
    """Return a buffered stream that reads *file*, and closes it when it is closed."""
    return cast("BinaryIO", io.BufferedReader(_Raw(file), _BUFFER))


class _Raw(io.RawIOBase):
    def __init__(self, file: File) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}
        self._position = offset + (start[whence] if whence in start else self._file.status().size)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        with memoryview(buffer) as view:
            data = self._file.read_at(self._position, len(view))
            view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
