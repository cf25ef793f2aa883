"""How much memory this process has."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ("resident",)


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
