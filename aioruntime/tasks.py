"""Structured concurrency (L0): work that must reach its end, threads that are waited for, plain errors.

asyncio's ``task.cancel()`` goes through anyio's shields, and leaves a worker thread running on its
own; what these functions run is over when they return or raise, whoever cancels and however often.
"""

from __future__ import annotations

__all__ = ("in_thread", "task_group", "to_completion")

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from anyio.abc import TaskGroup

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def to_completion(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end although the caller may be cancelled meanwhile; then let the cancel through.

    *work* must bound its own time. Its result is lost if the caller was cancelled.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            cancelled.add_note(f"meanwhile: {failure!r}")
        raise cancelled
    return task.result()


async def in_thread(
    function: Callable[[*Ts], T], *args: *Ts, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Call *function* in a worker thread and return its result; the thread is never left behind."""
    return await to_completion(anyio.to_thread.run_sync(function, *args, limiter=limiter))


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """Open an anyio task group that raises the first plain exception instead of an exception group."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as failed:
        first, *others = _leaves(failed)
        for other in others:
            first.add_note(f"at the same time: {other!r}")
        raise first from first.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
