"""Faults of engines and their parts that a hostile image could use, by version (L2, no I/O)."""

from __future__ import annotations

__all__ = ("known_faults",)

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# For each part: its faults, and for each the first release that mends it of each line, the oldest first.
_FAULTS = {
    "runc": (
        ("CVE-2024-21626", "1.1.12"),
        ("CVE-2025-31133", "1.2.8 1.3.3"),
        ("CVE-2026-41579", "1.3.6 1.4.3"),
    ),
    "containerd": (("CVE-2024-40635", "1.6.38 1.7.27 2.0.4"),),
    "podman": (("CVE-2026-55686", "5.7.1"),),
}


def known_faults(parts: Iterable[str]) -> list[str]:
    """Tell, a sentence each, which of *parts* have a fault that a hostile image could use.

    Args:
        parts: names and versions, such as ``runc 1.1.5+ds1``. Who packaged a part may have mended it without
            another number; the sentences say so.
    """
    sentences = []
    for name, version in (part.split(" ", 1) for part in parts):
        ours = _numbers(version)
        open_faults = [
            (fault, releases) for fault, releases in _FAULTS.get(name, ()) if not _mended(ours, releases)
        ]
        sentences += [
            f"{name} {version} is older than {releases.replace(' ', ' or ')}, which mends {fault}: "
            "update it, unless whoever packaged it did that"
            for fault, releases in open_faults
        ]
    return sentences


def _mended(ours: tuple[int, ...], releases: str) -> bool:
    lines = [_numbers(release) for release in releases.split()]
    same_line = [line for line in lines if line[:2] == ours[:2]]
    return ours >= (same_line[0] if same_line else lines[-1])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version, re.ASCII)[:3])
