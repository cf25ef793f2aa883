"""Decide where a Debian package's files go in an image whose /bin, /sbin and /lib* are symlinks into /usr."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tarfile

__all__ = ("MOVED", "Rewriter", "merged_link", "merged_path")

MOVED = frozenset({"bin", "lib", "lib32", "lib64", "libx32", "sbin"})
"""The top-level directories that live below /usr."""


def merged_path(path: str) -> str:
    """Say where a package's path is in the image.

    Args:
        path: As in the package: "./lib/x86_64-linux-gnu/libz.so.1".

    Returns:
        The path relative to the image's root, "" for the root itself: "usr/lib/x86_64-linux-gnu/libz.so.1".

    Raises:
        ValueError: The path leads out of the package.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError(f"path leads out of the package: {path!r}")
    if parts and parts[0] in MOVED:
        parts.insert(0, "usr")
    return "/".join(parts)


def merged_link(path: str, target: str) -> str:
    """Say what a package's symlink must point to after its move.

    A relative one that leaves its own top-level directory would miss by the level that /usr adds; it becomes
    absolute.

    Args:
        path: The symlink's path in the package.
        target: What it points to there.

    Returns:
        What it points to in the image.
    """
    old = posixpath.normpath(path)
    if target.startswith("/") or old.partition("/")[0] not in MOVED:
        return target
    meant = posixpath.normpath(posixpath.join("/", posixpath.dirname(old), target))
    return target if meant.split("/")[1] == old.partition("/")[0] else meant


class Rewriter:
    """Rewrite the entries of one package's tar, and drop what the merge makes superfluous."""

    def __init__(self, *, mtime: int) -> None:
        """Begin a package; *mtime* is the time that every entry gets."""
        self._mtime = mtime
        self._seen: set[str] = set()

    def rewrite(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Say what an entry becomes.

        Args:
            member: The package's entry; it is left as it is.

        Returns:
            The entry for the layer; None where that path is there already (both /lib and /usr/lib in one
            package), or where it is a symlink that would point to itself.

        Raises:
            ValueError: The entry's path leads out of the package.
        """
        name = merged_path(member.name)
        if not name or name in self._seen:
            return None
        link = member.linkname
        if member.issym():
            link = merged_link(member.name, link)
            if self._points_to_itself(name, link):
                return None
        elif member.islnk():
            link = merged_path(link)
        self._seen.add(name)
        entry = member.replace(name=name, linkname=link, mtime=self._mtime, uname="", gname="", deep=False)
        entry.pax_headers = {}
        return entry

    @staticmethod
    def _points_to_itself(name: str, link: str) -> bool:
        absolute = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), link)).lstrip("/")
        return absolute.partition("/")[0] != ".." and merged_path(absolute) == name
