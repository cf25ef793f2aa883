"""Many containers at a time, on each generation of engine."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing
from statistics import linear_regression
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from tests.runtime.conftest import containers, newer_in_full, script
from tests.support.memory import resident

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


async def test_in_order_of_completion(runtime: EngineRuntime, shell: str) -> None:
    """Results come as containers end, each with its place and specification."""
    specs = [script(shell, f"sleep {seconds}; exit {n}") for n, seconds in enumerate((6, 3, 0))]
    results = [result async for result in runtime.run_many(specs)]
    assert [result.index for result in results] == [2, 1, 0]
    assert [result.spec for result in results] == [specs[2], specs[1], specs[0]]
    assert [result.outcome.exit_code for result in results if result.outcome] == [2, 1, 0]


async def test_one_that_fails(runtime: EngineRuntime, shell: str) -> None:
    """One that can't be run is told with its error; the others run to their end."""
    specs = [
        script(shell, "echo a", capture_output=True),
        ar.RunSpec(shell, ["no-such-program"]),
        script("none:1", ""),
    ]
    results = {result.index: result async for result in runtime.run_many([*specs, specs[0]], limit=2)}
    assert {n: type(result.error) for n, result in results.items()} == {
        0: type(None),
        1: ar.RunError,
        2: ar.ImageNotFound,
        3: type(None),
    }
    assert results[3].outcome is not None
    assert results[3].outcome.stdout == b"a\n"


async def test_no_more_than_the_limit(runtime: EngineRuntime, shell: str) -> None:
    """No more than *limit* containers exist at once, and specifications are taken only when there is room."""
    taken = 0

    def specs() -> Iterator[ar.RunSpec]:
        nonlocal taken
        for _ in range(9):
            taken += 1
            yield script(shell, "sleep 0.2")

    ended = 0
    async for result in runtime.run_many(specs(), limit=3):
        ended += 1
        assert result.error is None
        assert taken <= ended - 1 + 3
        assert len(await containers(runtime)) <= 3
    assert ended == 9


async def test_left_early(runtime: EngineRuntime, shell: str) -> None:
    """Closed after the first result, it ends the others and begins no more."""
    specs = [script(shell, "true"), *(script(shell, "sleep 600") for _ in range(5))]
    async with aclosing(runtime.run_many(specs, limit=3)) as results:
        assert (await anext(results)).index == 0
    assert await containers(runtime) == []


async def test_cancelled(runtime: EngineRuntime, shell: str) -> None:
    """Cancelling who waits for results ends all containers before the cancel goes on."""

    async def collect() -> None:
        async for _ in runtime.run_many([script(shell, "sleep 600")] * 4):
            raise AssertionError("none of these ends")

    task = asyncio.create_task(collect())
    while len(await containers(runtime)) < 4:
        assert not task.done()
    task.cancel()
    await asyncio.wait({task}, timeout=60)
    assert task.cancelled()
    assert await containers(runtime) == []


async def test_a_task_that_somebody_cancels(runtime: EngineRuntime, shell: str) -> None:
    """A run whose task somebody else cancels is told like one that failed; nobody waits for ever."""
    async with aclosing(runtime.run_many([script(shell, "sleep 600")])) as results:
        first = asyncio.create_task(anext(results))
        while not await containers(runtime):
            assert not first.done()
        (inner,) = [task for task in asyncio.all_tasks() if "run_many" in str(task.get_coro())]
        inner.cancel()
        assert "its run was cancelled" in str((await first).error)


async def test_limits_that_are_none(runtime: EngineRuntime, shell: str) -> None:
    """A limit under 1 is refused, with the value in the message; no specifications give no results."""
    limits: list[Any] = [0, "3", None, True]
    for limit in limits:
        with pytest.raises(ar.InvalidSpec, match=f"limit {limit!r} is not a whole number above 0"):
            await anext(runtime.run_many([script(shell, "true")], limit=limit))
    one: Any = script(shell, "true")
    with pytest.raises(ar.InvalidSpec, match=r"specs is not a list but RunSpec"):
        await anext(runtime.run_many(one))
    assert [result async for result in runtime.run_many([])] == []


def files_below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest.mark.slow
@newer_in_full
@pytest.mark.parametrize(
    ("count", "first", "slope"),
    [
        (60, 20, 16.0),
        pytest.param(1000, 100, 1.0, marks=[pytest.mark.full, pytest.mark.timeout(1200)]),
    ],
)
async def test_many_runs(
    runtime: EngineRuntime, shell: str, tmp_path: Path, count: int, first: int, slope: float
) -> None:
    """THREATS T22: many runs, 16 at a time: none fails, nothing is left, and memory does not grow with them.

    Growth is looked at when the *first* are over; *slope* is what it may be, in KiB for each run.
    """
    files = files_below(tmp_path)
    specs = (script(shell, f"echo {n}; exit {n % 3}", capture_output=True) for n in range(count))
    memory: list[float] = []
    seen = set()
    async for result in runtime.run_many(specs, limit=16):
        assert result.error is None
        assert result.outcome is not None
        assert result.outcome.exit_code == result.index % 3
        assert result.outcome.stdout == b"%d\n" % result.index
        seen.add(result.index)
        gc.collect(0)
        memory.append(resident() / 1024)
    line = linear_regression(range(len(memory) - first), memory[first:])
    grown = memory[-1] - memory[first]
    print(f"{runtime.kind}: {line.slope:.2f} KiB for each of {count} runs, {grown:.0f} KiB from run {first}")
    assert seen == set(range(count))
    assert files_below(tmp_path) == files
    assert line.slope < slope
