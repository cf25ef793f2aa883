"""The tests find bugs: each protection is taken away in a copy of the package, and a test has to fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.store.helpers import ROOT
from tests.store.mutants import MUTANTS, Mutant

if TYPE_CHECKING:
    from pathlib import Path

# Seconds that a run may take, and one that is expected to hang.
_LIMIT = 600
_HANGS = 60
_TESTS = sorted({test for mutant in MUTANTS for test in mutant.found_by})


def planted(directory: Path, mutant: Mutant | None) -> Path:
    """Copy the package and its tests, and plant a bug in the copy."""
    copy = directory / (mutant.name if mutant else "sound")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("aioruntime", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    if mutant is not None:
        path = copy / "aioruntime/store" / mutant.file
        text = path.read_text()
        assert text.count(mutant.old) == 1, f"{mutant.name} does not fit {mutant.file} any more"
        path.write_text(text.replace(mutant.old, mutant.new))
    return copy


async def run(
    copy: Path, tests: tuple[str, ...] | list[str], examples: int, limit: float = _LIMIT
) -> tuple[int | None, str]:
    """Run tests against a copy until one fails; the code is None if they do not end."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "AIORUNTIME_TEST_EXAMPLES": str(examples),
        "AIORUNTIME_TEST_SHRINK": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-x",
            "-q",
            f"--timeout={_LIMIT}",
            *tests,
        ),
        cwd=copy,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit):
            said, _ = await process.communicate()
    except TimeoutError:
        return None, f"not done after {limit} s"
    finally:
        # Whatever it started is in its session, and may outlive it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return process.returncode, said.decode(errors="replace")


def found(mutant: Mutant, code: int | None, said: str) -> bool:
    """Tell whether a test of ours said what is wrong, and did not only break."""
    return mutant.hangs if code is None else code == 1 and "AssertionError" in said and "Flaky" not in said


@pytest.mark.full
@pytest.mark.timeout(3600)
async def test_planted_bugs_are_found(tmp_path: Path) -> None:
    """T8: each of the planted bugs is found by a test that passes without it."""
    turns = asyncio.Semaphore(os.cpu_count() or 1)
    survivors = []

    async def find(mutant: Mutant) -> None:
        async with turns:
            copy = await asyncio.to_thread(planted, tmp_path, mutant)
            limit = _HANGS if mutant.hangs else _LIMIT
            code, said = await run(copy, mutant.found_by, 5000, limit)
            if not found(mutant, code, said):
                survivors.append((mutant.name, code, said[-300:]))
            shutil.rmtree(copy)

    sound, said = await run(await asyncio.to_thread(planted, tmp_path, None), _TESTS, 500)
    assert sound == 0, said
    async with asyncio.TaskGroup() as group:
        for mutant in MUTANTS:
            group.create_task(find(mutant))
    assert not survivors
