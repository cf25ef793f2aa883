"""A blob being written, for async code (L2): `Ingest`, as `ImageStore.ingest` gives it."""

from __future__ import annotations

__all__ = ("Ingest",)

from typing import TYPE_CHECKING

from aioruntime.errors import SizeMismatch, StoreError
from aioruntime.store.partial import CHUNK

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.store.partial import Partial
    from aioruntime.store.threads import Threads


class Ingest:
    """A blob that only we write, until the context it came from is left. One task uses it at a time.

    Attributes:
        kept: bytes that an earlier attempt left, already hashed again.
    """

    def __init__(self, partial: Partial, threads: Threads) -> None:
        self.kept = partial.length
        self._partial = partial
        self._threads = threads
        self._buffer = bytearray()

    @property
    def digest(self) -> ImageDigest:
        """The blob's digest."""
        return self._partial.digest

    @property
    def size(self) -> int | None:
        """The blob's size in bytes; None if it is not known."""
        return self._partial.size

    @property
    def offset(self) -> int:
        """Bytes that we have, kept ones included: where the next `write` goes on."""
        return self._partial.length + len(self._buffer)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append *data*. It is gathered and goes to the disk in pieces of about 1 MiB.

        Raises:
            SizeMismatch: that would make more bytes than declared; none of *data* is kept.
            StoreFull: the disk is full; what was written stays for the next attempt.
            StoreError: the file can't be written, or the blob was committed.
        """
        if not self._partial.held:
            raise StoreError(f"{self.digest} is no longer being written")
        with memoryview(data).cast("B") as view:
            offset = self.offset + len(view)
            if self.size is not None and offset > self.size:
                raise SizeMismatch(
                    f"{self.digest} goes on after {self.size} bytes, the size that was declared; "
                    "its source is wrong",
                    expected=self.size,
                    actual=offset,
                )
            if len(self._buffer) + len(view) < CHUNK:
                self._buffer += view
            else:
                await self._threads.run(self._drain, view)

    def _drain(self, data: bytes | memoryview = b"") -> None:
        # In the thread, all of it: were the task cancelled between the two, bytes would come twice.
        # And taken first: what met a full disk is not tried again when the context is left.
        buffer, self._buffer = self._buffer, bytearray()
        for piece in (buffer, data):
            if piece:
                self._partial.append(piece)

    async def restart(self) -> None:
        """Forget all bytes and begin at 0, as when a server sends the whole blob instead of the rest."""
        self._buffer = bytearray()
        await self._threads.run(self._partial.restart)
        self.kept = 0

    async def commit(self, source: str) -> None:
        """Check the content and make it a blob; it is on the disk when this returns.

        Args:
            source: where the bytes came from, such as the host; named if they are wrong.

        Raises:
            SizeMismatch: bytes are missing; those that came stay for the next attempt.
            DigestMismatch: the bytes are not those that the digest names; they were removed.
            StoreFull: the disk is full.
            StoreError: the file can't be written; after a failed fsync it was removed.
        """
        await self._threads.run(self._seal, source)

    def _seal(self, source: str) -> None:
        self._drain()
        self._partial.seal(source)

    def release(self) -> None:
        """Leave without commit (blocking): put what was gathered on the disk and let go of the lock."""
        buffer, self._buffer = self._buffer, bytearray()
        self._partial.release(buffer)
