"""What the store needs of a file system (L2, blocking): tried where the store is or will be."""

from __future__ import annotations

__all__ = ("lacking",)

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.errors import StoreError
from aioruntime.store import directories, files
from aioruntime.store.remedies import explained

if TYPE_CHECKING:
    from collections.abc import Callable


def lacking(root: Path) -> list[str]:
    """Try what the store needs, in a directory that is gone afterwards; tell in words what does not work."""
    place = next(path for path in (root, *root.parents) if directories.lookup(path))
    if directories.read_only(place):
        return [f"{place} may only be read: what is in the store can be used, nothing can be added"]
    found = []
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=directories.UNFINISHED) as name:
            for need, (works, consequence) in _NEEDS.items():
                try:
                    reason = "" if works(Path(name)) else "without effect"
                except StoreError as exc:
                    cause = exc.__cause__
                    reason = (isinstance(cause, OSError) and cause.strerror) or str(exc)
                if reason:
                    found.append(f"{place} has no {need} ({reason}): {consequence}")
    except OSError as exc:
        found.append(str(explained(exc, place)))
    return found


def _excludes(directory: Path) -> bool:
    held = files.open_locked(directory / "lock")
    if held is None:
        return False
    with held:
        second = files.open_locked(directory / "lock")
        if second is not None:
            second.close()
        return second is None


def _replaces(directory: Path) -> bool:
    path = directory / "document"
    for content in (b"old", b"new"):
        files.replace(path, content)
    file = files.open_regular(path)
    if file is None:
        return False
    with file:
        return file.read_at(0, 4) == b"new"


def _links(directory: Path) -> bool:
    with files.create(directory / "blob") as file:
        return files.link(file, directory / "linked", file)


_NEEDS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "locks (flock)": (_excludes, "no store can be kept here"),
    "renaming over an existing file": (_replaces, "no store can be kept here"),
    "fsync of directories": (directories.sync, "a power cut can take what was just stored"),
    "hard links": (_links, "exported images are copies, which take room"),
}
