"""A blob being written (L2, blocking): claimed, resumed, grown, and made a blob or left for the next try.

The partial file is its own lock, so a killed writer frees it and no lock file stays behind.
"""

from __future__ import annotations

__all__ = ("CHUNK", "Claim", "Partial", "put")

import enum
from contextlib import suppress
from typing import TYPE_CHECKING

from aioruntime.errors import DigestMismatch, SizeMismatch, StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import blobs, directories, files

if TYPE_CHECKING:
    from aioruntime.store.layout import Layout

CHUNK = 2**20
_HASHED_AT_ONCE = 32 * CHUNK


class Claim(enum.Enum):
    """How an attempt to become a blob's only writer ended."""

    HELD = "held"
    PRESENT = "present"


class Partial:
    """A blob being written, by one writer at a time in all processes. All calls block.

    Args:
        layout: the store's paths.
        digest: the blob's digest.
        size: its size in bytes; None if that is not known.
    """

    def __init__(self, layout: Layout, digest: ImageDigest, size: int | None) -> None:
        self.digest = digest
        self.size = size
        self.length = 0
        self._layout = layout
        self._path = layout.partial(digest)
        self._blob = layout.blob(digest)
        self._hash = digest.hasher()
        self._file: files.File | None = None
        self._found = 0

    @property
    def held(self) -> bool:
        """Whether we are the blob's writer."""
        return self._file is not None

    @property
    def resumed(self) -> bool:
        """Whether all that an earlier attempt left has been hashed again."""
        return self.length >= self._found

    def claim(self, *, replace: bool = False) -> Claim | None:
        """Become the blob's only writer; None if another is it and we must wait.

        Args:
            replace: whether a blob of the right size that is already there is to be written anew.
        """
        if self.present() and not replace:
            return Claim.PRESENT
        self._file = self._layout.hold(self.digest, self.size or 0)
        if self._file is None:
            return None
        try:
            # Its last writer may have finished between our look and our lock.
            if self.present() and not replace:
                self.drop()
                return Claim.PRESENT
            self._begin(self._file)
        except BaseException:
            self.release()
            raise
        return Claim.HELD

    def _begin(self, file: files.File) -> None:
        directories.make(self._blob.parent)
        found = directories.lookup(self._blob)
        if found is not None and not found.regular:
            self._layout.put_aside(self._blob)
        self._found = file.status().size
        if self.size is not None and self._found > self.size:
            file.truncate(0)
            self._found = 0
        self.resume()

    def present(self) -> bool:
        """Tell whether the blob is in the store, with the right size if that is known."""
        found = directories.lookup(self._blob)
        return found is not None and found.regular and self.size in (None, found.size)

    def resume(self) -> None:
        """Hash the next piece of what an earlier attempt left; to be repeated until `resumed`."""
        end = min(self._found, self.length + _HASHED_AT_ONCE)
        while self.length < end:
            data = self._open.read_at(self.length, min(CHUNK, end - self.length))
            if not data:
                self._found = end = self.length
            self._hash.update(data)
            self.length += len(data)

    @property
    def _open(self) -> files.File:
        if self._file is None:
            raise StoreError(f"{self.digest} is no longer being written")
        return self._file

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write and hash *data*."""
        file = self._open
        need = len(data) if self.size is None else self.size - self.length
        try:
            file.write_at(self.length, data, need)
        except StoreError:
            with suppress(StoreError):
                file.truncate(self.length)
            raise
        self._hash.update(data)
        self.length += len(data)

    def restart(self) -> None:
        """Forget what has been written."""
        self._open.truncate(0)
        self._hash = self.digest.hasher()
        self.length = self._found = 0

    def seal(self, source: str) -> None:
        """Check the content and make it a blob, durable when this returns.

        Args:
            source: where the bytes came from, to be named if they are wrong.

        Raises:
            SizeMismatch: bytes are missing; they can still come.
            DigestMismatch: these are not the blob's bytes; they are removed.
        """
        file = self._open
        self._check(source)
        try:
            file.sync(self.length)
        except BaseException:
            # Linux marks pages clean after a failed fsync: to try again would succeed without the data.
            self.drop()
            raise
        named = False
        try:
            with directories.synced(self._blob.parent):
                file.rename(self._blob)
                named = True
                file.protect()
        except BaseException:
            if named:
                # Nor is this tried again; and whoever finds the blob would take its name for durable.
                with suppress(StoreError):
                    directories.unlink(self._blob)
            raise
        finally:
            self._file = None
            file.close()

    def _check(self, source: str) -> None:
        if self.size is not None and self.length != self.size:
            raise SizeMismatch(
                f"{self.digest} from {source} has {self.length} bytes, {self.size} were declared; try again",
                expected=self.size,
                actual=self.length,
            )
        actual = ImageDigest.of_hash(self._hash)
        if actual != self.digest:
            self.drop()
            kept = f" ({self._found} bytes of it from an earlier attempt)" if self._found else ""
            raise DigestMismatch(
                f"content from {source}{kept} is not {self.digest} but {actual}; it was removed, try again",
                expected=self.digest,
                actual=actual,
            )

    def drop(self) -> None:
        """Remove what has been written and stop being the writer."""
        try:
            self._open.unlink()
        finally:
            self._close()

    def release(self, rest: bytes | bytearray = b"") -> None:
        """Stop being the writer; what has been written, and *rest*, stay for the next attempt."""
        file = self._file
        if file is None:
            return
        # The reason for leaving is already on its way to the caller, and what is lost can be fetched again.
        with suppress(StoreError):
            if rest:
                file.write_at(self.length, rest, len(rest))
            if not file.status().size:
                file.unlink()
        self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def put(layout: Layout, digest: ImageDigest, data: bytes) -> bool | None:
    """Store a whole small blob whose hash was checked; None if another writes it and we must wait."""
    if blobs.holds(layout, digest, data):
        # Who wrote it may have died before its name was on the disk.
        directories.sync(layout.blob(digest).parent)
        return True
    partial = Partial(layout, digest, len(data))
    if partial.claim(replace=True) is None:
        return None
    try:
        partial.restart()
        partial.append(data)
        partial.seal("the caller")
    finally:
        partial.release()
    return True
