"""Errors of tasks that run at once, streams that are closed under a task, and taking turns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from aioruntime.errors import StoreError, StoreFull
from aioruntime.tasks import iterating, task_group, turn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator


async def test_errors_at_once() -> None:
    """The first error is raised; others are notes in plain words, each kind once, its own not again."""

    async def fail(error: Exception) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async def all_fail() -> None:
        async with task_group() as group:
            for error in (StoreFull("full", need=1, have=0), StoreError("no lock"), StoreError("no lock")):
                group.start_soon(fail, error)
            group.start_soon(fail, KeyError("x"))
            await asyncio.sleep(0)
            raise StoreFull("full first", need=1, have=0)

    with pytest.raises(StoreFull, match="full first") as caught:
        await all_fail()
    assert sorted(caught.value.__notes__) == [
        "at the same time: KeyError: 'x'",
        "at the same time: StoreError: no lock",
    ]


async def test_closed_while_another_task_waits() -> None:
    """A stream that is closed while another task waits for its next piece ends for both, cleaned up."""
    waits, ended = anyio.Event(), anyio.Event()

    async def pieces() -> AsyncGenerator[int, None]:
        try:
            yield 1
            waits.set()
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def collect(steps: AsyncIterator[int]) -> list[int]:
        return [piece async for piece in steps]

    async with iterating(pieces()) as steps:
        task = asyncio.create_task(collect(steps))
        await waits.wait()
    with pytest.raises(anyio.ClosedResourceError):
        await task
    assert ended.is_set()
    with pytest.raises(anyio.ClosedResourceError):
        await anext(steps)


async def test_a_cancelled_step() -> None:
    """A task that is cancelled while it waits for the next piece is cancelled; closing is fine then."""
    waits = anyio.Event()

    async def pieces() -> AsyncGenerator[int, None]:
        waits.set()
        await anyio.sleep_forever()
        yield 1

    async def step(steps: AsyncIterator[int]) -> int:
        return await anext(steps)

    async with iterating(pieces()) as steps:
        task = asyncio.create_task(step(steps))
        await waits.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_turns() -> None:
    """A few work at once; who takes longer than the time given goes on, and lets others begin."""
    places = anyio.Semaphore(2, fast_acquire=True)
    begun: list[str] = []

    async def work(name: str, until: asyncio.Event) -> None:
        async with turn(places, 0.2):
            begun.append(name)
            if name == "third":
                third.set()
            await until.wait()

    never, done, third = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(work("hangs", never)), asyncio.create_task(work("works", done))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(work(name, done)) for name in ("third", "fourth", "fifth")]
    await asyncio.sleep(0.1)
    assert begun == ["hangs", "works"]
    await asyncio.wait_for(third.wait(), 5)

    done.set()
    await asyncio.wait(tasks[1:])
    assert places.value == 2
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert (len(begun), places.value) == (5, 2)
