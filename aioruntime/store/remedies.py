"""What a failed call to the file system means for the user (L2): decided without I/O."""

from __future__ import annotations

__all__ = ("WRITABLE", "explained", "is_full", "not_a_file", "tells_damage")

import errno
from typing import TYPE_CHECKING

from aioruntime.errors import LayersMissing, StoreError, StoreFull

if TYPE_CHECKING:
    from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_A_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
# These tell of the content; others, such as a lack of permission, say nothing about it.
_DAMAGES = (errno.EIO, *_NOT_A_FILE)
_STORE = "set AIORUNTIME_STORE to"
_ELSEWHERE = "{use} a file system that has locks, such as a local disk"
_OWNED = "have its owner make it accessible, or {use} a directory that you own"
_WRITABLE = "mount it writable, or {use} a directory that is"
WRITABLE = _WRITABLE.format(use=_STORE)
_REMEDIES = {
    errno.EACCES: _OWNED,
    errno.EPERM: _OWNED,
    errno.EROFS: _WRITABLE,
    errno.ENOTDIR: "a part of the path is not a directory; remove what is in the way",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or use a file system that takes larger files",
    errno.EIO: "the disk reports an error; look at the system's log before trying again",
    errno.ENOLCK: _ELSEWHERE,
    errno.ENOSYS: _ELSEWHERE,
    errno.EOPNOTSUPP: _ELSEWHERE,
}


def is_full(exc: OSError) -> bool:
    """Tell whether *exc* says that the disk or the user's quota is full."""
    return exc.errno in _FULL


def tells_damage(exc: StoreError) -> bool:
    """Tell whether *exc*, met when a blob was read, points to damage rather than to us, or to its absence."""
    if isinstance(exc, LayersMissing | StoreFull):
        return False
    # A gzip stream that is none is an OSError too, but not one of the system.
    number = exc.__cause__.errno if isinstance(exc.__cause__, OSError) else None
    return number is None or number in _DAMAGES


def not_a_file(path: Path) -> StoreError:
    """Return the error for something else than a file where the store keeps one."""
    return StoreError(f"{path} is not a regular file; remove it, it was not made by the store")


def explained(exc: OSError, path: Path, *, need: int = 0, have: int = 0, use: str = _STORE) -> StoreError:
    """Return the store's error for *exc*.

    Args:
        exc: what the system answered.
        path: what was worked on.
        need: bytes that were to be written.
        have: bytes free on that disk.
        use: how another directory is chosen.
    """
    if is_full(exc):
        return StoreFull(
            f"no space left for {path}: {need} bytes to write, {have} free (a disk can also run out of "
            f"files, see df -i); free some, or {use} a directory on a larger disk",
            need=need,
            have=have,
        )
    if exc.errno in _NOT_A_FILE:
        return not_a_file(path)
    remedy = _REMEDIES.get(exc.errno or 0, "check that the path is usable, or {use} another directory")
    return StoreError(f"{path}: {exc.strerror or exc}; {remedy.format(use=use)}")
