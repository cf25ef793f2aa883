"""An image layout that is not the store (L2, blocking): what it names, what is wrong with it, adding to it.

Follows ``image-layout.md`` of the OCI image specification.
"""

from __future__ import annotations

__all__ = ("ForeignLayout", "Placing", "Reading")

from typing import TYPE_CHECKING

import msgspec

from aioruntime.errors import DigestMismatch, LayersMissing, SizeMismatch, StoreError, one_line
from aioruntime.store import blobs, directories, files, index
from aioruntime.store.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.documents import Descriptor

_VERSION = "1.0.0"
_CHUNK = 2**20
_PIECES_AT_ONCE = 32
_AGAIN = "copy the image there again"


class _Version(msgspec.Struct, rename="camel"):
    image_layout_version: str


class ForeignLayout:
    """An OCI image layout, whichever tool made it. All calls block.

    Args:
        root: its directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.layout = Layout(self.root)
        self._lock: files.File | None = None

    def images(self) -> dict[str, Descriptor]:
        """Return the images that are listed there, by name, or by digest if they have none.

        Raises:
            StoreError: it is no image layout, or of another version.
        """
        if not self._is_layout():
            raise StoreError(
                f"{self.root} is not an OCI image layout, it has no file oci-layout; name a directory "
                "such as skopeo copy makes for oci:DIRECTORY, and unpack archives first"
            )
        return self._understood(self.layout.read(self.layout.index))[0]

    def _is_layout(self) -> bool:
        path = self.root / "oci-layout"
        found = directories.lookup(self.root)
        raw = None if found is not None and found.regular else self.layout.read(path)
        if raw is None:
            return False
        try:
            version = msgspec.json.decode(raw, type=_Version).image_layout_version
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            version = None
        if version != _VERSION:
            told = "it names no version" if version is None else f"version {one_line(version)}"
            raise StoreError(f"{path}: {told}, only {_VERSION} is understood; use a tool that writes that")
        return True

    def _understood(
        self, raw: bytes | None, named: dict[str, Descriptor] | None = None
    ) -> tuple[dict[str, Descriptor], bytes]:
        source = str(self.layout.index)
        try:
            return index.listed(raw, source), index.updated(raw, named or {}, (), source)
        except index.NotAnIndex as exc:
            raise StoreError(f"{source} is not an image index; {_AGAIN}") from exc

    def fault(self, digest: ImageDigest, size: int) -> StoreError:
        """Return the error for a blob that is not there, or not as it should be."""
        path = self.layout.blob(digest)
        found = directories.lookup(path)
        if found is None:
            return LayersMissing(
                f"{self.root} lacks {digest}, a part of the image; {_AGAIN}, whole (skopeo copy --all)",
                digests=[digest],
            )
        if not found.regular:
            return StoreError(f"{path} is not a regular file; {_AGAIN}")
        if found.size != size:
            return SizeMismatch(
                f"{path} has {found.size} bytes instead of {size}; {_AGAIN}", expected=size, actual=found.size
            )
        with blobs.open_blob(self.layout, digest) as file:
            actual = digest.actual(file.read_at(0, size))
        return self.altered(digest, actual)

    def altered(self, digest: ImageDigest, actual: str) -> DigestMismatch:
        """Return the error for a blob that has other content, of the digest *actual*."""
        return DigestMismatch(
            f"{self.layout.blob(digest)} was altered: its content is {actual}; {_AGAIN}",
            expected=digest,
            actual=actual,
        )

    @property
    def lock_file(self) -> Path:
        """Held by who of us adds to it."""
        return self.root / f"{directories.UNFINISHED}lock"

    def take(self) -> bool | None:
        """Become the only one of us who adds to it, made if it is not there; None if we must wait.

        Raises:
            StoreError: something else is in the directory, or it can't be written.
        """
        self._refuse()
        directories.make_root(self.root, 0o777)
        self._lock = files.open_locked(self.lock_file)
        if self._lock is None:
            return None
        for name in directories.names_in(self.root):  # of an export that was killed
            if name.startswith(directories.UNFINISHED) and self.root / name != self._lock.path:
                directories.remove(self.root / name)
        directories.make(self.root / "blobs")
        if not self._is_layout():
            files.replace(self.root / "oci-layout", msgspec.json.encode(_Version(_VERSION)))
        if directories.lookup(self.layout.index) is None:
            files.replace(self.layout.index, index.EMPTY)
        return True

    def _refuse(self) -> None:
        there = set(directories.names_in(self.root))
        if "aioruntime" in there:
            raise StoreError(f"{self.root} is an image store of its own; import the image there instead")
        # What an export that was killed early leaves does not count.
        others = {name for name in there if not name.startswith(directories.UNFINISHED)} - {
            ".oci-layout.new",
            "blobs",
        }
        if others and not self._is_layout():
            raise StoreError(
                f"{self.root} is not an image layout but has {one_line(min(others))} in it; "
                "name a directory that is empty, does not exist, or is a layout"
            )

    def give_back(self) -> None:
        """Let others add to it; harmless if that was not hindered."""
        file, self._lock = self._lock, None
        if file is not None:
            try:
                file.unlink()
            finally:
                file.close()

    def temporary(self, digest: ImageDigest) -> Path:
        """Where a blob is while it is written."""
        return self.root / f"{directories.UNFINISHED}{digest.algorithm}-{digest.hex}"

    def add(self, name: str, descriptor: Descriptor) -> None:
        """Name an image whose blobs are there, in place of what had that name; durable when this returns."""
        for directory in directories.names_in(self.root / "blobs"):
            directories.sync(self.root / "blobs" / directory)
        raw = self.layout.read(self.layout.index)
        changed = self._understood(raw, {name: descriptor})[1]
        if changed != raw:
            files.replace(self.layout.index, changed)


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
        self._path = target.layout.blob(digest)
        self._temporary = target.temporary(digest)
        self._link = self._temporary.with_suffix(".link")
        self._reader = blobs.BlobReader(store, digest, size)
        self._file: files.File | None = None
        self._cloned = self._linked = False
        self._length = 0

    def begin(self) -> bool:
        """Tell whether the layout lacks the blob; then `copy` has to be called.

        Raises:
            LayersMissing: it is not in the store.
            SizeMismatch: it has another size there.
            StoreError: the layout can't be written.
        """
        found = directories.lookup(self._path)
        if found is not None and found.regular and found.size == self._size:
            return False
        blob = self._reader.open()
        directories.make(self._path.parent)
        self._file = files.create(self._temporary)
        self._cloned = self._file.clone(blob)
        self._linked = not self._cloned and files.link(blob, self._link, self._file)
        return True

    def copy(self) -> bool:
        """Copy the next pieces, their hash checked; True at the end. Of a clone or link, only check the hash.

        Raises:
            SizeMismatch: the blob has another size.
            DigestMismatch: it has other content.
            StoreError: it can't be read, or the layout not be written.
        """
        assert self._file is not None  # `begin` made it
        for _ in range(_PIECES_AT_ONCE):
            data = self._reader.next()
            if not data:
                self._finish(self._file)
                return True
            if not self._cloned and not self._linked:
                self._file.write_at(self._length, data, self._size - self._length)
                self._length += len(data)
        return False

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
        file, self._file = self._file, None
        if file is not None:
            try:
                directories.unlink(self._temporary)
                directories.unlink(self._link)
            finally:
                file.close()
