"""Temporary files that an engine left on this machine when it died during a load (L2)."""

from __future__ import annotations

__all__ = ("find_leftovers",)

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Docker; Podman's service; the image library of Podman and skopeo, of now and of Podman 4.
_NAMES = (
    "docker-import-*", "docker-tar*", "api_load.tar*", "container_images_*", "oci[0-9]*", "storage[0-9]*",
)  # fmt: skip
# What was written to more recently may belong to a load that goes on.
_UNUSED_SECONDS = 3600.0


def find_leftovers(places: Iterable[str]) -> dict[Path, int]:
    """Find what engines left behind in *places*; blocking.

    Args:
        places: directories in which engines have temporary files; those that are not there are passed over.

    Returns:
        The bytes of each file or directory that an engine has made and nobody has written to for an hour.
    """
    found: dict[Path, int] = {}
    for place in dict.fromkeys(places):
        for name in _NAMES:
            for path in sorted(Path(place).glob(name)):
                with suppress(OSError):
                    files = [path, *path.rglob("*")] if path.is_dir() else [path]
                    about = [file.lstat() for file in files]
                    if max(each.st_mtime for each in about) < time.time() - _UNUSED_SECONDS:
                        found[path] = sum(each.st_size for each in about)
    return found
