"""The tests find bugs: each protection is taken away in a copy of the package, and a test has to fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.store.helpers import ROOT
from tests.store.mutants import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Seconds that a run may take, and one that is expected to hang.
_LIMIT = 600
_HANGS = 60
_TESTS = sorted({test for mutant in MUTANTS for test in mutant.found_by})


def places(root: Path, mutant: Mutant) -> list[Path]:
    """Return the modules that have the mutant's text, each as often as it has it."""
    modules = sorted((root / "aioruntime/store").glob("*.py"))
    return [path for path in modules for _ in range(path.read_text().count(mutant.old))]


def planted(directory: Path, mutant: Mutant | None) -> Path:
    """Copy the package and its tests, and plant a bug in the copy."""
    copy = directory / (mutant.name if mutant else "sound")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("aioruntime", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    if mutant is not None:
        [path] = places(copy, mutant)
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
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
    environment.setdefault("AIORUNTIME_TEST_SEED", "1")  # else what is found soon would be a matter of luck
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-x",
            "-q",
            "-m",
            "",
            f"--timeout={_LIMIT}",
            f"--basetemp={copy / 'tmp'}",
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
    if code is None:
        return mutant.hangs
    told = ("AssertionError", "DID NOT RAISE", "aioruntime.errors.")
    return code == 1 and any(word in said for word in told) and "Flaky" not in said


async def survivors(
    directory: Path, mutants: Iterable[Mutant], examples: int, *, quick: bool = False
) -> list[tuple[object, ...]]:
    """Plant bugs, each in a copy of its own, and return those that are not found."""
    turns = asyncio.Semaphore(os.cpu_count() or 1)
    left: list[tuple[object, ...]] = []

    async def find(mutant: Mutant) -> None:
        async with turns:
            began = time.monotonic()
            copy = await asyncio.to_thread(planted, directory, mutant)
            limit = _HANGS if mutant.hangs else _LIMIT
            code, said = await run(copy, mutant.quick if quick else mutant.found_by, examples, limit)
            if not found(mutant, code, said):
                left.append((mutant.name, code, said[-300:]))
            print(f"{mutant.name}: {time.monotonic() - began:.1f} s")
            shutil.rmtree(copy)

    async with asyncio.TaskGroup() as group:
        for mutant in mutants:
            group.create_task(find(mutant))
    return left


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_fits(mutant: Mutant) -> None:
    """T8: each bug can be planted at one place, and the tests that have to find it exist."""
    [module] = places(ROOT, mutant)
    assert mutant.old != mutant.new
    compile(module.read_text().replace(mutant.old, mutant.new), module, "exec")
    for test in (*mutant.found_by, *mutant.quick):
        path, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (ROOT / path).read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_planted_bugs_are_found_soon(tmp_path: Path) -> None:
    """T8: bugs that harm whoever uses the store are found by what runs every time."""
    assert not await survivors(tmp_path, (mutant for mutant in MUTANTS if mutant.quick), 300, quick=True)


@pytest.mark.full
@pytest.mark.timeout(3600)
async def test_planted_bugs_are_found(tmp_path: Path) -> None:
    """T8: each of the planted bugs is found by a test that passes without it."""
    sound, said = await run(await asyncio.to_thread(planted, tmp_path, None), _TESTS, 500)
    assert sound == 0, said
    assert not await survivors(tmp_path, MUTANTS, 5000)
