"""Cancelling what runs containers at each await, driven step by step: nothing is left on the engine or here.

THREATS T19. The ordinary run takes a sample of the steps of each; ``-m full`` takes every one.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from tests.runtime.conftest import containers, script
from tests.support.leaks import assert_settles, snapshot
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.stepper import How

SEED = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.timeout(400),
    pytest.mark.parametrize(
        ("how", "again_after", "sample"),
        [
            ("task", None, 16),
            ("task", 3, 8),
            ("scope", None, 6),
            *(
                pytest.param(how, again, None, marks=[pytest.mark.full, pytest.mark.timeout(3000)])
                for how, again in (("task", None), ("task", 3), ("scope", None))
            ),
        ],
    ),
]


async def cancelled_everywhere(
    work: Callable[[], Awaitable[object]],
    runtime: EngineRuntime,
    how: How,
    again_after: int | None,
    sample: int | None,
) -> None:
    """Cancel *work* at each of its steps, or at a sample of them; each time nothing may be left."""

    async def once() -> None:
        await work()

    await once()
    before = snapshot()
    tried = 0
    async for step in each_step(once, sample=sample, seed=SEED):
        await run_cancelled_at(once, step, how=how, again_after=again_after, may_finish=True, seconds=60)
        await assert_settles(before)
        assert await containers(runtime) == [], f"step {step}"
        assert list((runtime.store.path / "aioruntime/owners").glob("*/*.json")) == [], f"step {step}"
        tried += 1
    assert tried >= (sample or 20)
    await once()


async def test_run(
    runtime: EngineRuntime, shell: str, how: How, again_after: int | None, sample: int | None
) -> None:
    """`run` of a container with input and output."""
    spec = script(shell, "cat; echo err >&2", stdin=b"in", capture_output=True)

    async def work() -> None:
        outcome = await runtime.run(spec)
        assert (outcome.stdout, outcome.stderr) == (b"in", b"err\n")

    await cancelled_everywhere(work, runtime, how, again_after, sample)


async def test_start(
    runtime: EngineRuntime, shell: str, how: How, again_after: int | None, sample: int | None
) -> None:
    """`start`, reading, writing, waiting, leaving while it runs."""
    spec = script(shell, "echo ready; cat", stdin=True, timeout=600, stop_timeout=1)

    async def work() -> None:
        async with runtime.start(spec) as container:
            await container.wait_for_log("ready")
            await container.stdin.write(b"more\n")
            async for line in container.lines():
                if line.text == "more":
                    await container.stdin.close()
            await container.wait()
        async with runtime.start(script(shell, "sleep 600")):
            pass

    await cancelled_everywhere(work, runtime, how, again_after, sample)


async def test_exec(
    runtime: EngineRuntime, shell: str, how: How, again_after: int | None, sample: int | None
) -> None:
    """`exec` to its end, and left while the program runs."""

    async def work() -> None:
        async with runtime.start(script(shell, "sleep 600")) as container:
            assert (await container.run(["cat"], stdin=b"in")).stdout == b"in"
            async with container.exec(["sh", "-c", "echo one; sleep 600"]) as process:
                await anext(process.output())

    await cancelled_everywhere(work, runtime, how, again_after, sample)


async def test_run_many(
    runtime: EngineRuntime, shell: str, how: How, again_after: int | None, sample: int | None
) -> None:
    """`run_many`, with one that fails, to its end and left early."""
    specs = [script(shell, "echo a", capture_output=True), script(shell, "exit 3"), script("none:1", "")]

    async def work() -> None:
        async with aclosing(runtime.run_many(specs, limit=2)) as results:
            assert sorted([result.index async for result in results]) == [0, 1, 2]
        async with aclosing(runtime.run_many([script(shell, "sleep 600")] * 2 + specs[:1])) as results:
            assert (await anext(results)).index == 2

    await cancelled_everywhere(work, runtime, how, again_after, sample)
