"""Blobs in use (L2, blocking): each user lists them in a file that it holds a lock on while it lives."""

from __future__ import annotations

__all__ = ("Lease", "leased")

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from aioruntime.errors import StoreError
from aioruntime.store import directories, files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.store.layout import Layout


class Lease:
    """What one user of the store works with; it goes with its user, however that ends.

    It is written under the store's lock, so that who collects under that lock knows of all blobs in use.

    Args:
        layout: the store's paths.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = layout.leases / secrets.token_hex(8)
        self._file: files.File | None = None
        self._size = 0

    def take(self, digests: Iterable[ImageDigest], image: ImageDigest | None) -> bool | None:
        """Add blobs, here or still to come; None if another holds the store's lock and we must wait.

        In a store that we can't write there is no lease: whoever can may collect what we read.

        Args:
            digests: the blobs.
            image: an image that counts as used now.
        """
        if self._layout.read_only:
            return True
        lock = self._layout.lock()
        if lock is None:
            return None
        with lock:
            # Whoever looks at leases without the store's lock may have taken ours for a dead one's.
            if not self._add("".join(f"{digest}\n" for digest in digests).encode()):
                return None
            if image is not None:
                directories.make(self._layout.used_files)
                files.touch(self._layout.used(image))
        return True

    def _add(self, lines: bytes) -> bool:
        if self._file is None:
            directories.make(self._layout.leases)
            self._file = files.open_locked(self._path)
        if self._file is None:
            return False
        self._file.write_at(self._size, lines, len(lines))
        self._size += len(lines)
        return True

    def give_back(self, used: Collection[ImageDigest] = ()) -> None:
        """Let the blobs go; harmless if none were taken.

        Args:
            used: blobs that count as used now, since no image may have them yet.
        """
        for digest in used:
            with suppress(StoreError):  # such as that of another user
                files.touch(self._layout.blob(digest), make=False)
        file, self._file = self._file, None
        if file is not None:
            try:
                file.unlink()
            finally:
                file.close()


def leased(layout: Layout) -> set[str]:
    """Return the digests of all blobs in use, and remove what users left who ended without a word."""
    found: set[str] = set()
    for name in directories.names_in(layout.leases):
        file = files.open_regular(layout.leases / name)
        if file is None:
            continue
        with file:
            if file.try_lock():
                if not layout.read_only:
                    file.unlink()
            else:
                found.update(file.read_at(0, file.status().size).decode(errors="replace").split())
    return found
