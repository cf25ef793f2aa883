"""Every file-system call fails once, or is the last before SIGKILL."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.store.helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
async def test_a_fault_at_any_call_leaves_a_sound_store(tmp_path: Path) -> None:
    """Whichever call fails: it is a StoreError, no blob or name is wrong or lost, the next use succeeds."""
    faults = ("kill", errno.ENOSPC, errno.EIO, errno.EMFILE)
    # Each is a process of its own, which keeps a processor busy.
    await asyncio.gather(*(sweep(tmp_path / str(fault), fault) for fault in faults))


async def sweep(directory: Path, fault: str | int) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.store.faults", str(directory), str(fault)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, f"{fault}: {stderr.decode()}"
    assert int(stdout) > 60
