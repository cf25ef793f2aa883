"""The stepper finds every suspension of a coroutine and of its tasks, and hides no error."""

from __future__ import annotations

import asyncio
import inspect
from contextvars import Context
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from tests.support import leaks
from tests.support.stepper import (
    choose_steps,
    count_steps,
    each_step,
    run_cancelled_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


async def _three() -> str:
    for _ in range(3):
        await asyncio.sleep(0)
    return "done"


async def _nothing() -> None:
    return None


async def test_each_bare_yield_is_a_step() -> None:
    """A coroutine that yields three times has three steps, and one that never suspends has none."""
    assert await count_steps(_three) == 3
    assert await count_steps(_nothing) == 0


@pytest.mark.parametrize("n", [1, 2, 3])
async def test_cancelled_exactly_there(n: int) -> None:
    """Cancelled at step n, the coroutine has come past n - 1 suspensions and no more."""
    passed = []

    async def steps() -> None:
        for i in range(3):
            await asyncio.sleep(0)
            passed.append(i)

    assert await run_cancelled_at(steps, n)
    assert len(passed) == n - 1


async def test_beyond_the_end_is_false() -> None:
    """A coroutine that is done before step n runs undisturbed, and this is said."""
    assert not await run_cancelled_at(_three, 4)
    assert not await run_cancelled_at(_nothing, 1)


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_step_zero_cancels_before_the_start(how: Any) -> None:
    """Step 0 cancels a task that has not run, without a warning about a coroutine never awaited."""
    ran = []

    async def body() -> None:
        ran.append(1)
        await asyncio.sleep(0)
        ran.append(2)

    assert await run_cancelled_at(body, 0, how=how)
    assert 2 not in ran


def _asyncio_group(child: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(child())

    return parent


def _anyio_group(child: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def parent() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            group.start_soon(child)

    return parent


def _gather(child: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
    async def bounded() -> None:
        await asyncio.wait_for(child(), 5)

    async def parent() -> None:
        await asyncio.gather(child(), bounded())

    return parent


@pytest.mark.parametrize("make", [_asyncio_group, _anyio_group, _gather])
@pytest.mark.parametrize("how", ["task", "scope"])
async def test_children_count_and_are_cancelled(make: Any, how: Any) -> None:
    """Suspensions of children are steps, and at each of them every child that began is ended."""
    open_children = 0

    async def child() -> None:
        nonlocal open_children
        open_children += 1
        try:
            for _ in range(4):
                await asyncio.sleep(0)
        finally:
            open_children -= 1

    parent = make(child)
    before = leaks.snapshot()
    total = await count_steps(parent)
    assert total >= 2 * 4
    outcomes = [await run_cancelled_at(parent, n, how=how, may_finish=True) for n in range(1, total + 1)]
    assert outcomes.count(True) >= total - 2
    assert open_children == 0
    leaks.assert_nothing_new(before)


async def test_tasks_from_callbacks_and_bare_contexts_belong() -> None:
    """A task made in a loop callback, or with a fresh context, below the root is part of the run."""

    async def parent() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[asyncio.Task[str]] = loop.create_future()
        loop.call_soon(lambda: made.set_result(loop.create_task(_three())))
        await (await made)
        await loop.create_task(_three(), context=Context())

    # One for the callback, and one for each of the two tasks that it waits for.
    assert await count_steps(parent) == 3 + 3 + 3


async def test_foreign_tasks_do_not_count() -> None:
    """Tasks that ran before, or that others create meanwhile, are neither counted nor cancelled."""
    stop = asyncio.Event()

    async def foreign() -> int:
        made = 0
        while not stop.is_set():
            await asyncio.get_running_loop().create_task(_nothing())
            made += 1
        return made

    other = asyncio.create_task(foreign())
    await asyncio.sleep(0)
    assert await count_steps(_three) == 3
    assert await run_cancelled_at(_three, 2)
    stop.set()
    assert await other > 0


async def test_threads_work() -> None:
    """A wait for a worker thread is a step, and its cancellation comes out after the thread's end."""
    ended: list[int] = []

    async def parent() -> None:
        await anyio.to_thread.run_sync(ended.append, 1)

    steps = await count_steps(parent)
    assert steps >= 1
    for n in range(1, steps + 1):
        assert await run_cancelled_at(parent, n, how="scope", may_finish=True) in {True, False}
    assert ended


async def test_the_factory_is_restored() -> None:
    """The loop's own task factory is used meanwhile, and back after success, failure and cancellation."""
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **rest: Any) -> asyncio.Task[Any]:
        made.append(coro.__name__)
        return asyncio.Task(coro, loop=loop, **rest)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    loop.set_task_factory(factory)
    try:
        await count_steps(_three)
        await run_cancelled_at(_three, 1)
        with pytest.raises(KeyError):
            await count_steps(fails)
        assert loop.get_task_factory() is factory
        assert made == ["_three", "_three", "fails"]
    finally:
        loop.set_task_factory(None)


async def test_tasks_look_as_usual() -> None:
    """Within a run a task's coroutine keeps its name and the state that inspect and anyio read."""
    seen: dict[str, Any] = {}

    async def named() -> None:
        task = asyncio.current_task()
        assert task is not None
        coro: Any = task.get_coro()
        seen["name"] = (coro.__name__, coro.__qualname__.rpartition(".")[2])
        seen["state"] = inspect.getcoroutinestate(coro)
        seen["repr"] = repr(task)
        await asyncio.sleep(0)

    await count_steps(named)

    assert seen["name"] == ("named", "named")
    assert seen["state"] == inspect.CORO_RUNNING
    assert "named() running" in seen["repr"]


async def test_each_step_covers_all() -> None:
    """`each_step` yields every step once, up to the limit."""
    assert [n async for n in each_step(_three)] == [1, 2, 3]
    assert [n async for n in each_step(_three, limit=2)] == [1, 2]


def test_samples_repeat_with_their_seed() -> None:
    """A sample of the steps is the same for the same seed, sorted and without repetition."""
    first = choose_steps(1000, sample=20, seed=7)

    assert first == choose_steps(1000, sample=20, seed=7)
    assert first != choose_steps(1000, sample=20, seed=8)
    assert list(first) == sorted(set(first))
    assert list(choose_steps(3, sample=20)) == [1, 2, 3]
