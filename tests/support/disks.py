"""File systems to fill, cut off and wear out: mounted for a while, by root, and always unmounted."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@contextmanager
def tmpfs(where: Path, options: str) -> Iterator[Path]:
    """Mount a file system that lies in memory, with such a size and number of inodes."""
    with mounted("none", where, "-t", "tmpfs", "-o", options):
        yield where


@contextmanager
def mounted(what: Path | str, where: Path, *arguments: str) -> Iterator[Path]:
    """Mount *what* at *where*, which is made."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, what, where], check=True)
    try:
        yield where
    finally:
        if subprocess.run(["umount", where], check=False).returncode:
            # Something holds it, which is a fault; but it must not outlive the test.
            subprocess.run(["umount", "-l", where], check=True)
            raise AssertionError(f"{where} is still in use")


def make_ext4(image: Path, size: int, *arguments: str) -> None:
    """Make a sparse file with an ext4 in it."""
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", *arguments, image], check=True)


def remount(where: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", where], check=True)
