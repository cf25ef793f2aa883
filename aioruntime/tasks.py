"""Structured concurrency (L0): work that must reach its end, threads that are waited for, plain errors.

asyncio's ``task.cancel()`` goes through anyio's shields, and leaves a worker thread running on its
own; what these functions run is over when they return or raise, whoever cancels and however often.
"""

from __future__ import annotations

__all__ = ("beside", "end", "in_thread", "iterating", "task_group", "to_completion", "turn")

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

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


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run *work* beside a block and end it with the block; what it raises is raised at the end.

    Other than a task group's, such a block may be left by another task than the one that entered it, as
    fixtures of tests are; so an error of *work* does not cut it short.
    """
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end(task)
    if not task.cancelled():
        task.result()


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel *tasks* and return when they have ended, however often we are cancelled."""
    for task in tasks:
        task.cancel()
    if tasks:
        await to_completion(_settled(tasks))


async def _settled(tasks: tuple[asyncio.Task[Any], ...]) -> None:
    await asyncio.wait(tasks)


@asynccontextmanager
async def iterating(generator: AsyncGenerator[T, None]) -> AsyncIterator[AsyncIterator[T]]:
    """Give what *generator* yields, for the time of the context, and close it with the context.

    A generator by itself can't be closed while another task waits for its next value. Here that task gets
    `anyio.ClosedResourceError`.
    """
    steps = _Steps(generator)
    try:
        yield steps
    finally:
        await to_completion(steps.close())


class _Steps(AsyncIterator[T]):
    def __init__(self, generator: AsyncGenerator[T, None]) -> None:
        self._generator = generator
        self._lock = anyio.Lock(fast_acquire=True)
        self._step = anyio.CancelScope()
        self._closed = False

    async def __anext__(self) -> T:
        async with self._lock:
            if not self._closed:
                with anyio.CancelScope() as self._step:
                    return await anext(self._generator)
        raise anyio.ClosedResourceError

    async def close(self) -> None:
        self._closed = True
        self._step.cancel()
        async with self._lock:
            await self._generator.aclose()


class _Job(Generic[T]):
    """One call, made by a worker thread or not at all.

    The thread asks before it begins, the cancelled task before it goes on: whoever comes second knows.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._claim = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def __call__(self) -> T:
        if not self._claim.acquire(blocking=False):
            raise RuntimeError("the task that asked for this was cancelled")  # nobody is left to see it
        try:
            return self._call()
        finally:
            with suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def settle(self) -> None:
        """Return when the call has ended or can't begin any more, however often we are cancelled."""
        if self._claim.acquire(blocking=False):
            return
        with anyio.CancelScope(shield=True):
            while not self._ended.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([self._ended])


async def in_thread(
    function: Callable[[*Ts], T], *args: *Ts, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Call *function* in a worker thread and return its result.

    If the caller is cancelled, a call that has begun is waited for, its result lost; one that still waits
    for a thread is not made.
    """
    job = _Job(partial(function, *args))
    try:
        return await anyio.to_thread.run_sync(job, limiter=limiter)
    except asyncio.CancelledError:
        await job.settle()
        raise


@asynccontextmanager
async def turn(places: anyio.Semaphore, seconds: float) -> AsyncIterator[None]:
    """Hold one of a few places for the time of a block, but no longer than *seconds*.

    What hangs does not hold up others for ever: it goes on, and its place is given to the next.
    """
    await places.acquire()
    held = True

    def give_back() -> None:
        nonlocal held
        if held:
            held = False
            places.release()

    timer = asyncio.get_running_loop().call_later(seconds, give_back)
    try:
        yield
    finally:
        timer.cancel()
        give_back()


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """Open an anyio task group that raises the first plain exception instead of an exception group.

    Others are notes on it, those of its class left out.
    """
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as failed:
        first, *others = _leaves(failed)
        # What many tasks met, such as a full disk, is told once.
        for kind, other in {type(other): other for other in reversed(others)}.items():
            if kind is not type(first):
                first.add_note(f"at the same time: {kind.__name__}: {other}")
        raise first from first.__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
