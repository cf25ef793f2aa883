"""A pull where there is little memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from aioruntime.demo.images import write_image
from aioruntime.demo.registry import LocalRegistry
from aioruntime.oci.digest import ImageDigest
from aioruntime.store.store import ImageStore
from aioruntime.tasks import in_thread
from benchmarks.memory import large_layer
from tests.store.helpers import MIB, ROOT
from tests.support.cgroups import NoMemoryLimit, memory_limit

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 128 * MIB


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [512 * MIB, pytest.param(2048 * MIB, marks=pytest.mark.full)])
async def test_pull_in_little_memory(tmp_path: Path, size: int) -> None:
    """L15: A layer that is much larger than all memory that the process may have is pulled.

    The kernel counts what of the file is not on the disk yet, too.
    """
    layer = await in_thread(large_layer, tmp_path / "layer", 1, size, "none")
    await in_thread(write_image, tmp_path / "layout", "large", [layer])
    async with LocalRegistry() as registry:
        reference = await registry.push(tmp_path / "layout", "large", "large:1")
        status, output = await pull_within(LIMIT, reference, tmp_path / "store")

    assert status == 0, "killed for its memory" if status == -signal.SIGKILL else output
    assert json.loads(output) == {"downloaded": layer.size}
    assert await ImageStore(tmp_path / "store").has(ImageDigest(layer.digest), layer.size)


async def pull_within(limit: int, reference: str, store: Path) -> tuple[int | None, bytes]:
    """Pull in a process that may have so many bytes of memory; return its status and what it printed."""
    try:
        with memory_limit(limit) as limited:
            process = await asyncio.create_subprocess_exec(
                *(*limited, sys.executable, "-m", "tests.support.pulls", reference, str(store)),
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            output, _ = await process.communicate()
    except NoMemoryLimit as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no control group can be made: {exc}")
    return process.returncode, output
