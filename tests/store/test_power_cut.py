"""The power goes while a store is at work: what it had promised is on the disk."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.store.helpers import ROOT
from tests.support.disks import needs_root
from tests.support.seeds import seed

if TYPE_CHECKING:
    from pathlib import Path


async def power_cuts(work: Path, data: str, cuts: int, without: str = "none") -> tuple[int, str]:
    """Run `tests.store.power_cut`; return its status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.store.power_cut"),
        *(work, "--data", data, "--cuts", str(cuts), "--seed", str(seed()), "--without", without),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    print(output.decode())
    assert process.returncode is not None
    return process.returncode, output.decode()


@needs_root
@pytest.mark.slow
async def test_power_cuts(tmp_path: Path) -> None:
    """L2, T3: After power cuts at random moments each promised blob, name and note is there, whole, and the
    store goes on."""
    ran = await asyncio.gather(
        power_cuts(tmp_path / "ordered", "ordered", 8), power_cuts(tmp_path / "writeback", "writeback", 4)
    )
    assert [status for status, _ in ran] == [0, 0]


@needs_root
@pytest.mark.slow
async def test_without_fsync_the_same_cuts_do_harm(tmp_path: Path) -> None:
    """L2, T3: Power cuts are found out where fsync is left out, be it of files or of directories."""
    ran = await asyncio.gather(
        *(power_cuts(tmp_path / what, "ordered", 40, without=what) for what in ("files", "directories"))
    )
    for status, output in ran:
        assert status == 1
        assert "1 harmful" in output


@needs_root
@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("data", "cuts"), [("ordered", 200), ("writeback", 100)])
async def test_many_power_cuts(tmp_path: Path, data: str, cuts: int) -> None:
    """L2, T3: The same for as many cuts as it takes to trust it."""
    status, _ = await power_cuts(tmp_path / data, data, cuts)
    assert status == 0
