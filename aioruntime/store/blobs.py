"""Reading blobs (L2, blocking): opened without following links, hashed on the way."""

from __future__ import annotations

__all__ = ("ALGORITHMS", "BlobReader", "holds", "open_blob", "read")

import hashlib
from typing import TYPE_CHECKING

from aioruntime.errors import DigestMismatch, LayersMissing, SizeMismatch, StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import directories, files

if TYPE_CHECKING:
    from aioruntime.store.layout import Layout

_CHUNK = 2**20
ALGORITHMS = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


def open_blob(layout: Layout, digest: ImageDigest) -> files.File:
    """Open a blob for reading.

    Raises:
        LayersMissing: it is not in the store.
        StoreError: what is in its place is not a regular file, or can't be opened.
    """
    file = files.open_regular(layout.blob(digest))
    if file is None:
        raise LayersMissing(f"{digest} is not in the store at {layout.root}; pull it first", digests=[digest])
    return file


def _altered(layout: Layout, digest: ImageDigest, actual: str) -> DigestMismatch:
    return DigestMismatch(
        f"{layout.blob(digest)} was altered: its content is {actual}; put it aside (aioruntime store verify "
        "--repair, ImageStore.verify(repair=True)), then pull or import the image again",
        expected=digest,
        actual=actual,
    )


def read(layout: Layout, digest: ImageDigest, limit: int) -> bytes:
    """Return a whole blob of up to *limit* bytes, its hash checked."""
    with open_blob(layout, digest) as file:
        data = file.read_at(0, min(file.status().size, limit) + 1)
    if len(data) > limit:
        raise StoreError(
            f"{layout.blob(digest)} has more than {limit} bytes; it is too large to be read whole"
        )
    actual = digest.actual(data)
    if actual != digest:
        raise _altered(layout, digest, actual)
    return data


def holds(layout: Layout, digest: ImageDigest, data: bytes) -> bool:
    """Tell whether the blob is there and has just these bytes; what can't be read has not."""
    return files.read_small(str(layout.blob(digest)), len(data) + 1) == data


class BlobReader:
    """Reads a blob from its beginning and hashes it; its last bytes are given out only if all are right.

    Args:
        layout: the store's paths.
        digest: the blob's digest.
        size: its size in bytes; None to take that of the file.
    """

    def __init__(self, layout: Layout, digest: ImageDigest, size: int | None) -> None:
        self.status: directories.Status | None = None
        self._layout = layout
        self._digest = digest
        self._size = size
        self._offset = 0
        self._hash = digest.hasher()
        self._file: files.File | None = None

    def open(self) -> files.File:
        """Return the file that is read, opened when it is first asked for.

        Raises:
            LayersMissing: the blob is not in the store.
            SizeMismatch: the file has another size.
        """
        return self._opened()[0]

    def next(self) -> bytes:
        """Return the next 1 MiB or the rest; empty at the end.

        Raises:
            LayersMissing: the blob is not in the store.
            SizeMismatch: the file has another size.
            DigestMismatch: the file has other content; told instead of giving out its last bytes.
        """
        file, size = self._opened()
        if self._offset == size:
            if not size:
                self._check()
            return b""
        wanted = min(_CHUNK, size - self._offset)
        data = file.read_at(self._offset, wanted)
        self._offset += len(data)
        if len(data) < wanted:
            raise self._other_size(size, self._offset)
        self._hash.update(data)
        if self._offset == size:
            self._check()
        return data

    def close(self) -> None:
        """Close the file; harmless if it is not open."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _opened(self) -> tuple[files.File, int]:
        if self._file is None:
            self._file = open_blob(self._layout, self._digest)
            self.status = self._file.status()
            if self._size is None:
                self._size = self.status.size
            if self.status.size != self._size:
                raise self._other_size(self._size, self.status.size)
        assert self._size is not None  # set with the file
        return self._file, self._size

    def _check(self) -> None:
        actual = ImageDigest.of_hash(self._hash)
        if actual != self._digest:
            raise _altered(self._layout, self._digest, actual)

    def _other_size(self, expected: int, actual: int) -> SizeMismatch:
        return SizeMismatch(
            f"{self._layout.blob(self._digest)} has {actual} bytes instead of {expected}; "
            "pull or import the image again",
            expected=expected,
            actual=actual,
        )
