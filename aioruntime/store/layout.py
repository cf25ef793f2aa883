"""Where things are in the store (L2): an OCI image layout, and beside it our locks, partials and notes.

Follows ``image-layout.md`` of the OCI image specification::

    oci-layout  index.json  blobs/<algorithm>/<hex>     the layout, for every tool to read
    ingest/<algorithm>-<hex>                            a blob being written; its lock is on this file
    aioruntime/lock  aioruntime/<name>.json             lock of all that is listed here, but blobs; our notes
    aioruntime/images.json                              the named images, from which index.json is made
    aioruntime/<name>.lock                              held by whoever does what only one may do at a time
    aioruntime/leases/<random>                          digests in use; its owner holds a lock on it
    aioruntime/used/<algorithm>-<hex>                   its time is when the image was last used
    aioruntime/damaged/<name>.<random>                  what was put aside
    aioruntime/owners/<owner>/<container>.json          containers of one runtime, which locks `lock` there

All of it has the permissions of the root, and blobs but for the right to write.
"""

from __future__ import annotations

__all__ = ("Layout", "digest_of_partial", "hash_put_aside")

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec, StoreError, one_line
from aioruntime.store import directories, files, index

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioruntime.oci.digest import ImageDigest

_VERSION = b'{"imageLayoutVersion":"1.0.0"}'
_NOTE_NAME = re.compile(r"[a-z0-9._-]{1,128}", re.ASCII)
_LIST_LIMIT = 64 * 2**20


def digest_of_partial(name: str) -> str:
    """Return the digest of the blob whose partial file has that name, as plain text."""
    return name.replace("-", ":", 1)


def hash_put_aside(name: str) -> str:
    """Return the hash of the blob that was put aside under that name, if it was one."""
    return name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths in the store at *root*, and the small documents among them. All calls block."""

    root: Path

    @property
    def version(self) -> Path:
        """What makes the directory an image layout."""
        return self.root / "oci-layout"

    @property
    def index(self) -> Path:
        """The index of named images."""
        return self.root / "index.json"

    def blobs(self, algorithm: str) -> Path:
        """The directory of the blobs hashed with *algorithm*."""
        return self.root / "blobs" / algorithm

    def blob(self, digest: ImageDigest) -> Path:
        """Where the blob is, once it is whole."""
        return self.blobs(digest.algorithm) / digest.hex

    def partial(self, digest: ImageDigest) -> Path:
        """Where the blob is while it is written."""
        return self.root / "ingest" / f"{digest.algorithm}-{digest.hex}"

    def note(self, name: str) -> Path:
        """Where our note of that name is.

        Raises:
            InvalidSpec: *name* has characters other than ``a-z 0-9 . _ -``, or is that of the record.
        """
        path = self._ours(name, "json")
        if path == self.images:
            raise InvalidSpec(f"{name!r} is the name of the store's own record; give the note another")
        return path

    def turn(self, name: str) -> Path:
        """Where the lock of that name is.

        Raises:
            InvalidSpec: *name* has characters other than ``a-z 0-9 . _ -``.
        """
        return self._ours(name, "lock")

    def _ours(self, name: str, kind: str) -> Path:
        if _NOTE_NAME.fullmatch(name) is None:
            raise InvalidSpec(f"not a note's name: {one_line(repr(name))}; use a-z, 0-9, '.', '_' and '-'")
        return self.root / "aioruntime" / f"{name}.{kind}"

    @property
    def images(self) -> Path:
        """The record of named images."""
        return self.root / "aioruntime" / "images.json"

    @property
    def leases(self) -> Path:
        """The directory of leases."""
        return self.root / "aioruntime" / "leases"

    def used(self, digest: ImageDigest) -> Path:
        """The file whose time tells when the image of that digest was last used."""
        return self.used_files / f"{digest.algorithm}-{digest.hex}"

    @property
    def used_files(self) -> Path:
        """The directory of those files."""
        return self.root / "aioruntime" / "used"

    @property
    def damaged(self) -> Path:
        """The directory of what was put aside."""
        return self.root / "aioruntime" / "damaged"

    @property
    def owners(self) -> Path:
        """The directory of what runtimes record of their containers."""
        return self.root / "aioruntime" / "owners"

    def put_aside(self, path: Path) -> None:
        """Move what is at *path*, of whatever kind, to where `damaged` files are; harmless if it is gone."""
        for directory in (self.damaged.parent, self.damaged):
            directories.make(directory)
        if directories.rename(path, self.damaged / f"{path.name}.{secrets.token_hex(4)}", missing_ok=True):
            directories.sync(path.parent)

    def hold(self, digest: ImageDigest, need: int = 0) -> files.File | None:
        """Become the only one to write, replace or put aside a blob; None if another is it and we must wait.

        What is in the place of its partial file, and no file, is put aside.

        Args:
            digest: the blob's digest.
            need: bytes that are to be written.

        Returns:
            The partial file, locked; it was made if it was not there.
        """
        path = self.partial(digest)
        return files.open_locked(path, need) if self.prepare() and self._clear(path) else None

    def _clear(self, path: Path) -> bool:
        """Put aside what is at *path* if it is no file; False if we must wait."""
        found = directories.lookup(path)
        if found is None or found.regular:
            return True
        lock = files.open_locked(self.lock_file)
        if lock is None:
            return False
        with lock:
            # Another may have done it meanwhile, and write there by now.
            found = directories.lookup(path)
            if found is not None and not found.regular:
                self.put_aside(path)
        return True

    @property
    def ingest(self) -> Path:
        """The directory of blobs being written, and of files without a name."""
        return self.root / "ingest"

    def prepare(self) -> bool:
        """Make what of the layout is not there; False if another process is at it and we must wait.

        It is looked for at every write, since whoever tidies up may remove directories that seem empty.
        """
        directories.refuse_trap(self.root)
        places = (self.root / "blobs", self.root / "ingest", self.root / "aioruntime")
        if all(directories.lookup(path) for path in (self.version, *places)):
            return True
        self.refuse_foreign()
        directories.make_root(self.root)
        for path in places:
            directories.make(path)
        lock = files.open_locked(self.lock_file)
        if lock is None:
            return False
        with lock:
            if directories.lookup(self.version) is None:
                # Last, so that lists of names which are not there then were there once, and are lost.
                for path, empty in ((self.images, b"{}"), (self.index, index.EMPTY)):
                    if directories.lookup(path) is None:
                        files.replace(path, empty)
                files.replace(self.version, _VERSION)
        return True

    @property
    def read_only(self) -> bool:
        """Whether the store is there but we may only read it: nobody has to be kept from what we do."""
        return directories.read_only(self.root)

    def is_there(self) -> bool:
        """Tell whether there is a store; False if its directory is not there, empty, or just being made one.

        Raises:
            StoreError: something else is there.
        """
        there = {name for name in directories.names_in(self.root) if not name.startswith(".")}
        if "oci-layout" in there:
            return True
        # These come first, whether we or another tool make a layout; that one may have temporary files here.
        if there - {"lost+found"} and there.isdisjoint(("blobs", "ingest", "aioruntime")):
            raise StoreError(
                f"{self.root} is no image store, it has no oci-layout; name the directory of one"
            )
        return False

    def refuse_foreign(self) -> None:
        """Raise StoreError if the directory has other things in it; harmless if it is not there."""
        there = set(directories.names_in(self.root))
        # Our directories are made before anything else, by whichever process; a disk's root has its own.
        foreign = {name for name in there if not name.startswith(".")} - {"blobs", "ingest", "lost+found"}
        if foreign and there.isdisjoint(("oci-layout", "aioruntime")):
            raise StoreError(
                f"{self.root} is not an image layout but has {one_line(min(foreign))} in it; "
                "name a directory that is empty or does not exist as the store"
            )

    @property
    def lock_file(self) -> Path:
        """The lock of all that is listed, held for moments only."""
        return self.root / "aioruntime" / "lock"

    def lock(self) -> files.File | None:
        """Take the store's lock, for a moment; None if another holds it and we must wait."""
        return files.open_locked(self.lock_file) if self.prepare() else None

    def update(self, path: Path, change: Callable[[bytes | None], bytes]) -> bytes | None:
        """Replace a small document under the store's lock; None if another holds it and we must wait.

        In a store that may only be read, what is already so is no error, and a note is not kept.

        Args:
            path: the document.
            change: gets the present content, None if there is none, and returns the new; again if the lock
                was lost meanwhile.
        """
        if self.read_only:
            before = self.read(path)
            return change(before)
        lock = self.lock()
        if lock is None:
            return None
        with lock:
            before = self.read(path)
            after = change(before)
            if not lock.in_place():
                return None  # somebody removed it, and others may have changed the document since
            if after != before:
                files.replace(path, after)
            return after

    def read(self, path: Path) -> bytes | None:
        """Return the content of a small document; None if it is not there."""
        file = files.open_regular(path)
        if file is None:
            return None
        with file:
            data = file.read_at(0, _LIST_LIMIT + 1)
        if len(data) > _LIST_LIMIT:
            raise StoreError(f"{path} is larger than {_LIST_LIMIT} bytes; move it away, it can't be ours")
        return data
