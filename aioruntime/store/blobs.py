"""Reading blobs (L2, blocking): opened without following links, hashed on the way."""

from __future__ import annotations

__all__ = (
    "ALGORITHMS",
    "BlobReader",
    "digests",
    "holds",
    "open_blob",
    "read",
    "remove_damaged",
    "skim_damaged",
)

import errno
from typing import TYPE_CHECKING

from aioruntime.errors import DigestMismatch, InvalidReference, LayersMissing, SizeMismatch, StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import files

if TYPE_CHECKING:
    from aioruntime.store.layout import Layout

_CHUNK = 2**20
_SKIMMED_AT_ONCE = 32 * _CHUNK
ALGORITHMS = ("sha256", "sha512")


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
        f"{layout.blob(digest)} was altered: its content is {actual}; pull the image again",
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
    if not digest.matches(data):
        hasher = digest.hasher()
        hasher.update(data)
        raise _altered(layout, digest, f"{digest.algorithm}:{hasher.hexdigest()}")
    return data


def holds(layout: Layout, digest: ImageDigest, data: bytes) -> bool:
    """Tell whether the blob is there and has just these bytes."""
    file = files.open_regular(layout.blob(digest))
    if file is None:
        return False
    with file:
        return file.read_at(0, len(data) + 1) == data


class BlobReader:
    """Reads a blob from its beginning and hashes it; its last bytes are given out only if all are right.

    Args:
        layout: the store's paths.
        digest: the blob's digest.
        size: its size in bytes; None to take that of the file.
    """

    def __init__(self, layout: Layout, digest: ImageDigest, size: int | None) -> None:
        self.status: files.Status | None = None
        self._layout = layout
        self._digest = digest
        self._size = size
        self._offset = 0
        self._hash = digest.hasher()
        self._file: files.File | None = None

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

    def skim(self) -> bool:
        """Hash the next piece; True at the end, with all as it should be."""
        return any(not self.next() for _ in range(_SKIMMED_AT_ONCE // _CHUNK))

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
        actual = f"{self._digest.algorithm}:{self._hash.hexdigest()}"
        if actual != self._digest:
            raise _altered(self._layout, self._digest, actual)

    def _other_size(self, expected: int, actual: int) -> SizeMismatch:
        return SizeMismatch(
            f"{self._layout.blob(self._digest)} has {actual} bytes instead of {expected}; "
            "pull the image again",
            expected=expected,
            actual=actual,
        )


def skim_damaged(reader: BlobReader) -> bool | None:
    """Hash the next piece; True if the blob is damaged, False if it is sound to its end, None to go on."""
    try:
        return False if reader.skim() else None
    except LayersMissing:
        return False  # removed since it was listed
    except StoreError as exc:
        cause = exc.__cause__
        if isinstance(cause, OSError) and cause.errno not in (errno.EIO, errno.ELOOP, errno.ENXIO):
            raise  # such as a lack of permission, which says nothing about the content
        return True


def remove_damaged(layout: Layout, digest: ImageDigest, seen: files.Status | None) -> bool | None:
    """Remove a blob found damaged, unless it was replaced since; None if its writer is at work.

    Args:
        layout: the store's paths.
        digest: the blob's digest.
        seen: the file that was found damaged; None if it was not even a file.
    """
    lock = files.open_locked(layout.partial(digest)) if layout.prepare() else None
    if lock is None:
        return None
    with lock:
        found = files.lookup(layout.blob(digest))
        remove = found is not None and (found == seen if seen else not found.regular)
        if remove:
            files.unlink(layout.blob(digest))
            files.sync_directory(layout.blob(digest).parent)
        if not lock.status().size:
            lock.unlink()
    return remove


def digests(layout: Layout) -> list[ImageDigest]:
    """List what has a blob's name, sorted."""
    found = []
    for algorithm in ALGORITHMS:
        for name in files.names_in(layout.blobs(algorithm)):
            try:
                found.append(ImageDigest(f"{algorithm}:{name}"))
            except InvalidReference:
                continue  # such as a temporary file of another tool
    return found
