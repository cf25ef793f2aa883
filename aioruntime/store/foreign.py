"""An image layout that is not the store (L2, blocking): what it names, what is wrong with it, adding to it.

Follows ``image-layout.md`` of the OCI image specification.
"""

from __future__ import annotations

__all__ = ("ForeignLayout",)

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aioruntime.errors import DigestMismatch, LayersMissing, SizeMismatch, StoreError, StoreFull, one_line
from aioruntime.store import blobs, directories, files, index
from aioruntime.store.layout import Layout
from aioruntime.store.remedies import explained
from aioruntime.store.tree import Tree, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.documents import Descriptor

_VERSION = "1.0.0"
_AGAIN = "copy the image there again"


class _Version(msgspec.Struct, rename="camel"):
    image_layout_version: str


@contextmanager
def _not_the_store(root: Path, use: str) -> Iterator[None]:
    """Have errors of the system advise to *use* another directory than *root*, not another store."""
    try:
        yield
    except StoreError as exc:
        cause = exc.__cause__
        if not isinstance(cause, OSError):
            raise
        need, have = (exc.need, exc.have) if isinstance(exc, StoreFull) else (0, 0)
        path = Path(cause.filename or root)
        raise explained(cause, path, need=need, have=have, use=use) from cause


class ForeignLayout:
    """An OCI image layout, whichever tool made it. All calls block.

    Args:
        root: its directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.layout = Layout(self.root)
        self.reading = partial(_not_the_store, self.root, "copy the layout to")
        self.writing = partial(_not_the_store, self.root, "export to")
        self._lock: files.File | None = None

    def images(self) -> dict[str, Descriptor]:
        """Return the images that are listed there, by name, or by digest if they have none.

        Raises:
            StoreError: it is no image layout, or of another version.
        """
        with self.reading():
            if not self._is_layout():
                raise StoreError(
                    f"{self.root} is not an OCI image layout, it has no file oci-layout; name a directory "
                    "such as skopeo copy makes for oci:DIRECTORY, and unpack archives first"
                )
            return self._understood(self.layout.read(self.layout.index))[0]

    def tree(self, root: ImageDigest) -> Tree:
        """List the blobs of an image that is listed there.

        Raises:
            StoreError: a document can't be read.
        """
        with self.reading():
            return read_tree(self.layout, root)

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
        with self.writing():
            return self._taken()

    def _taken(self) -> bool | None:
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
        with self.writing():
            for directory in directories.names_in(self.root / "blobs"):
                directories.sync(self.root / "blobs" / directory)
            raw = self.layout.read(self.layout.index)
            changed = self._understood(raw, {name: descriptor})[1]
            if changed != raw:
                files.replace(self.layout.index, changed)
