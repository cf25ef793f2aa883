"""skopeo beside us: copying into the store, and 20 of it into one plain layout."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from aioruntime.demo.images import write_image
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from pathlib import Path


def write_other(layout: Path) -> Path:
    """Write a layout of an image ``other`` that shares nothing with the crowd's; return it."""
    write_image(layout, "other", [{"other": b"other"}])
    return layout


async def copy(source: Path, target: Path, name: str) -> None:
    """Copy the image ``other`` into a layout under *name*."""
    process = await asyncio.create_subprocess_exec(
        *("skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{source}:other", f"oci:{target}:{name}"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, said.decode()


async def copy_for_ever(source: Path, target: Path) -> None:
    """Copy until cancelled, each time under another name."""
    number = 0
    while True:
        await copy(source, target, f"skopeo.test/other:{number}")
        number += 1


async def lost_by_skopeo(source: Path, target: Path, count: int) -> int:
    """Copy *count* times at once into a plain layout; return how many of the names are not in its index."""
    await asyncio.gather(*(copy(source, target, f"x:{number}") for number in range(count)))
    index = json.loads(await in_thread((target / "index.json").read_bytes))
    return count - len(index["manifests"])
