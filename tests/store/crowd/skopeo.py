"""skopeo beside us: copying into the store, and 20 of it into one plain layout."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from aioruntime.demo.images import write_image
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from pathlib import Path


def write_other(layout: Path) -> Path:
    """Write a layout of an image ``other`` that shares nothing with the crowd's; return it."""
    write_image(layout, "other", [{"other": b"other"}])
    return layout


async def _copied(source: Path, target: Path, name: str) -> str:
    """Copy the image ``other`` into a layout under *name*; return what skopeo has to complain of."""
    process = await asyncio.create_subprocess_exec(
        *("skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{source}:other", f"oci:{target}:{name}"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return said.decode() if process.returncode else ""


async def copy_until(stop: asyncio.Event, source: Path, target: Path) -> None:
    """Copy again and again, each time under another name."""
    number = 0
    while not stop.is_set():
        complaint = await _copied(source, target, f"skopeo.test/other:{number}")
        assert not complaint, complaint
        number += 1


async def lost_by_skopeo(source: Path, target: Path, count: int) -> tuple[int, int]:
    """Copy *count* times at once into a plain layout.

    Returns:
        How many failed, since they found a half-written index; and how many said that all was well, but left
        no name.
    """
    said = await asyncio.gather(*(_copied(source, target, f"x:{number}") for number in range(count)))
    failed = sum(1 for complaint in said if complaint)
    index = json.loads(await in_thread((target / "index.json").read_bytes))
    return failed, count - failed - len(index["manifests"])
