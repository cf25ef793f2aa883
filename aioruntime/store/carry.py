"""Single blobs out of another image layout, and into one (L2, blocking): a little at a time, hashed."""

from __future__ import annotations

__all__ = ("Placing", "Reading")

from typing import TYPE_CHECKING

from aioruntime.errors import LayersMissing, StoreError
from aioruntime.store import blobs, directories, files
from aioruntime.store.remedies import tells_damage

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.store.foreign import ForeignLayout
    from aioruntime.store.layout import Layout

_CHUNK = 2**20
_PIECES_AT_ONCE = 32


class Reading:
    """A blob read from another layout. All calls block.

    Args:
        source: the layout.
        digest: the blob's digest.
        size: its size in bytes.
    """

    def __init__(self, source: ForeignLayout, digest: ImageDigest, size: int) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._file: files.File | None = None

    def next(self, offset: int) -> bytes:
        """Return up to 1 MiB from *offset* on, empty at the end of the size that it has to have.

        Raises:
            LayersMissing: it is not there.
            SizeMismatch: it ends before that.
            StoreError: it can't be read.
        """
        with self._source.reading():
            if self._file is None:
                try:
                    self._file = blobs.open_blob(self._source.layout, self._digest)
                except LayersMissing:
                    raise self._source.fault(self._digest, self._size) from None
            data = self._file.read_at(offset, min(_CHUNK, self._size - offset))
        if not data and offset < self._size:
            raise self._source.fault(self._digest, self._size)
        return data

    def close(self) -> None:
        """Close the file; harmless if it is not open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


class Placing:
    """A blob of the store on its way into another layout. All calls block.

    Args:
        store: the store's paths.
        target: the layout, taken.
        digest: the blob's digest.
        size: its size in bytes.
    """

    def __init__(self, store: Layout, target: ForeignLayout, digest: ImageDigest, size: int) -> None:
        self._size = size
        self._target = target
        self._path = target.layout.blob(digest)
        self._temporary = target.temporary(digest)
        self._link = self._temporary.with_suffix(".link")
        self._there: blobs.BlobReader | None = blobs.BlobReader(target.layout, digest, size)
        self._reader = blobs.BlobReader(store, digest, size)
        self._file: files.File | None = None
        self._cloned = self._linked = False
        self._length = 0

    def advance(self) -> bool:
        """Do some of the work, up to 32 MiB of it; True at the end.

        A blob that the layout has is hashed, and replaced if it is wrong. What is placed is hashed too.

        Raises:
            LayersMissing: the blob is not in the store.
            SizeMismatch: it has another size there.
            DigestMismatch: it has other content.
            StoreError: it can't be read, or the layout not be read or written.
        """
        if self._there is not None:
            return self._kept(self._there)
        file = self._file or self._begun()
        for _ in range(_PIECES_AT_ONCE):
            data = self._reader.next()
            if not data:
                with self._target.writing():
                    self._finish(file)
                return True
            if not self._cloned and not self._linked:
                with self._target.writing():
                    file.write_at(self._length, data, self._size - self._length)
                self._length += len(data)
        return False

    def _kept(self, there: blobs.BlobReader) -> bool:
        """Hash some of what is there; True if it is right to the end."""
        try:
            with self._target.writing():
                return not all(there.next() for _ in range(_PIECES_AT_ONCE))
        except StoreError as exc:
            if not isinstance(exc, LayersMissing) and not tells_damage(exc):
                raise
        there.close()
        self._there = None
        return False

    def _begun(self) -> files.File:
        blob = self._reader.open()
        with self._target.writing():
            directories.make(self._path.parent)
            self._file = file = files.create(self._temporary)
            self._cloned = file.clone(blob)
            self._linked = not self._cloned and files.link(blob, self._link, file)
        return file

    def _finish(self, file: files.File) -> None:
        if self._linked:
            directories.rename(self._link, self._path)
        else:
            file.sync(self._size)
            file.protect()
            directories.rename(self._temporary, self._path)

    def close(self) -> None:
        """Close the files, and remove what is not whole; harmless if there is none."""
        self._reader.close()
        if self._there is not None:
            self._there.close()
        file, self._file = self._file, None
        if file is not None:
            try:
                directories.unlink(self._temporary)
                directories.unlink(self._link)
            finally:
                file.close()
