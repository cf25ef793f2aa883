"""The stepper says how a cancelled coroutine ended, and lets every error out."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from tests.support import leaks
from tests.support.stepper import CancellationSwallowed, StuckAfterCancel, count_steps, run_cancelled_at


async def test_errors_come_out() -> None:
    """An error of the coroutine, also one raised while it is cancelled, is what the caller gets."""

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("plain")

    async def fails_in_cleanup() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            raise OSError("cleanup")

    with pytest.raises(KeyError, match="plain"):
        await count_steps(fails)
    with pytest.raises(KeyError, match="plain"):
        await run_cancelled_at(fails, 5)
    with pytest.raises(OSError, match="cleanup"):
        await run_cancelled_at(fails_in_cleanup, 1, how="task")
    with pytest.raises(OSError, match="cleanup"):
        await run_cancelled_at(fails_in_cleanup, 1, how="scope")


async def test_groups_of_errors_come_out() -> None:
    """Errors of children come out in their group."""

    async def bad() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            raise OSError("child")

    async def parent() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(bad)
            group.start_soon(bad)

    with pytest.raises(ExceptionGroup) as caught:
        await run_cancelled_at(parent, 2)
    assert caught.group_contains(OSError)


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_swallowing_is_an_error(how: Any) -> None:
    """A coroutine that catches its cancellation and returns is found, unless this is allowed."""

    async def swallows() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return

    with pytest.raises(CancellationSwallowed, match="step 1"):
        await run_cancelled_at(swallows, 1, how=how)
    assert not await run_cancelled_at(swallows, 1, how=how, may_finish=True)


async def test_own_cancellation_is_not_taken_for_ours() -> None:
    """A CancelledError that the coroutine raises before step n is reported, not counted as a hit."""

    async def raises() -> None:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    with pytest.raises(CancellationSwallowed, match="by itself"):
        await run_cancelled_at(raises, 7)


async def test_second_cancel_hits_the_cleanup() -> None:
    """With `again_after` the cleanup that runs after the first cancellation is cancelled as well."""
    cleaned = []

    async def body() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            for i in range(3):
                await asyncio.sleep(0)
                cleaned.append(i)

    assert await run_cancelled_at(body, 1)
    assert cleaned == [0, 1, 2]
    cleaned.clear()
    assert await run_cancelled_at(body, 1, again_after=2)
    assert cleaned == [0]


async def test_shields_hold_against_scopes_only() -> None:
    """An anyio shield keeps cleanup whole when a scope is cancelled; cancelling the task goes through it."""
    cleaned = []

    async def body() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)
                cleaned.append(1)

    assert await run_cancelled_at(body, 1, how="scope")
    assert cleaned == [1]
    assert await run_cancelled_at(body, 2, how="task")
    assert cleaned == [1]


async def test_hanging_is_an_error() -> None:
    """A coroutine that waits for ever after its cancellation is ended and reported with its place."""

    async def hangs() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await asyncio.get_running_loop().create_future()

    before = leaks.snapshot()
    with pytest.raises(StuckAfterCancel, match="hangs"):
        await run_cancelled_at(hangs, 1, seconds=0.05)
    leaks.assert_nothing_new(before)


async def test_cancelling_the_stepper_cancels_the_run() -> None:
    """When the test itself is cancelled, the coroutine under test is too."""
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    before = leaks.snapshot()
    outer = asyncio.create_task(count_steps(waits))
    await started.wait()
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    leaks.assert_nothing_new(before)
