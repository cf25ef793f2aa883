"""Every call that the store makes to the file system fails, or is the last one before SIGKILL."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections import Counter

import pytest

from tests.store.helpers import ROOT
from tests.store.sweep.seam import FAULTS
from tests.support.seeds import seed

_TRACED = ("ingest-resumed", "name", "remove", "pull")

_SHARES = 2  # processes, each of which keeps a processor busy


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_fault_at_some_calls() -> None:
    """L1, L3, L4, L5, T1, T4: one call of ten fails: the store is sound, it is told, the next use mends."""
    tried = await sweep("--seed", str(seed()))
    assert tried.keys() >= {fault.name for fault in FAULTS if fault.number is not None}
    assert tried["kill"] > 200
    assert tried["points"] > 400


@pytest.mark.full
@pytest.mark.timeout(7200)
async def test_a_fault_at_every_call() -> None:
    """L1, L3, L4, L5, T1, T4: any call fails: the store is sound, it is told, the next use mends."""
    tried = await sweep()
    print(json.dumps(tried))
    assert tried["points"] - tried["kill"] > 2000


async def sweep(*arguments: str) -> Counter[str]:
    """Try the points, and return how many there were of each kind."""
    shares = (share(f"{number}/{_SHARES}", *arguments) for number in range(_SHARES))
    tried: Counter[str] = Counter()
    for found in await asyncio.gather(*shares):
        tried.update({name: count for name, count in found.items() if not name.startswith("calls of ")})
    assert not tried["failures"]
    return tried


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_some_calls_of_the_kernel() -> None:
    """L1, L5, T1: SIGKILL before a call that the kernel sees, or EINTR from it, does no harm either."""
    number = str(seed())
    await demand_strace()
    found = await asyncio.gather(
        *(run("tests.store.sweep.traced", name, "--seed", number) for name in _TRACED)
    )
    assert all(int(count) > 3 for count in found)


@pytest.mark.full
@pytest.mark.timeout(7200)
async def test_all_calls_of_the_kernel() -> None:
    """L1, L5, T1: SIGKILL before any call that the kernel sees, or EINTR from it, does no harm either."""
    await demand_strace()
    for name in _TRACED:
        print(name, await run("tests.store.sweep.traced", name))


async def demand_strace() -> None:
    """Skip where no process may be traced."""
    try:
        process = await asyncio.create_subprocess_exec("strace", "-o", os.devnull, "true")
        missing = None if await process.wait() == 0 else "processes may not be traced (ptrace)"
    except FileNotFoundError:
        missing = "strace is not installed"
    if missing is not None:
        pytest.skip(missing)


async def share(which: str, *arguments: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(await run("tests.store.sweep", "--share", which, *arguments))
    return found


async def run(module: str, *arguments: str) -> bytes:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            cwd=ROOT,
            env={**os.environ, "TMPDIR": directory},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            stdout, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, f"{module} {' '.join(arguments)}\n{stderr.decode()}"
    return stdout
