"""Who may use the store (L2): decided on what the system tells of files and directories, without I/O."""

from __future__ import annotations

__all__ = ("directory_mode", "file_mode", "is_shared", "is_trap", "is_unfinished")

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os


def file_mode(parent: os.stat_result) -> int:
    """Return the permissions that a file gets: who may use its directory may use it as well."""
    return parent.st_mode & 0o666


def directory_mode(parent: os.stat_result) -> int:
    """Return the permissions that a directory gets, the group that is handed down (setgid) included."""
    return parent.st_mode & 0o2777


def is_shared(directory: os.stat_result) -> bool:
    """Tell whether others than the owner may use what is in a directory."""
    return bool(directory.st_mode & 0o077)


def is_unfinished(file: os.stat_result, parent: os.stat_result) -> bool:
    """Tell whether a file was made, under a umask, by one that has not given it its permissions yet.

    Nothing is lost with it: permissions come before the lock and before any content.
    """
    return stat.S_ISREG(file.st_mode) and not file.st_size and bool(file_mode(parent) & ~file.st_mode)


def is_trap(directory: os.stat_result, user: int) -> bool:
    """Tell whether somebody else made a directory for everybody to write in, as one does in ``/tmp``."""
    return bool(directory.st_mode & stat.S_IWOTH) and directory.st_uid not in (0, user)
