"""Blocking work off the event loop (L2): a few threads, waited for even if the task is cancelled."""

from __future__ import annotations

__all__ = ("Threads",)

import asyncio
import logging
import math
import random
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.05
_WORTH_TELLING = 10.0


class _Job(Generic[_T]):
    """One call, made by a worker thread or not at all.

    anyio shields a running call from its own cancel scopes, yet `asyncio.Task.cancel` passes that shield
    and leaves the thread at work on a file that the task then closes. So the task asks here whether the
    call was begun, and if so waits for its end.
    """

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call = call
        self._claim = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def __call__(self) -> _T:
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


class Threads:
    """Runs the store's blocking calls, a few at a time.

    Args:
        limit: calls that may run at once.
    """

    def __init__(self, limit: int = 4) -> None:
        self.limit = limit
        self._many = anyio.CapacityLimiter(limit)
        # Writers of one small file take turns here instead of polling its lock against each other.
        self._one = anyio.CapacityLimiter(1)
        self._urgent = anyio.CapacityLimiter(math.inf)

    async def run(self, call: Callable[..., _T], *args: object) -> _T:
        """Make the call in a thread; a cancelled task gets its cancellation once the call has ended."""
        return await self._run(partial(call, *args), self._many)

    async def run_urgent(self, call: Callable[..., _T], *args: object) -> _T:
        """Make a short call that cleans up, without waiting for a turn and shielded from anyio's scopes."""
        results: list[_T] = []
        with anyio.CancelScope(shield=True):
            results.append(await self._run(partial(call, *args), self._urgent))
        return results[0]

    async def poll(self, attempt: Callable[[], _T | None], subject: str, *, singly: bool = False) -> _T:
        """Make *attempt* in a thread until it returns something other than None.

        Between attempts nothing is held, so cancelling leaves nothing.

        Args:
            attempt: returns None while another process or task is in the way.
            subject: what is waited for, told in the log when it takes long.
            singly: whether this process makes one such attempt at a time.
        """
        pause = _SHORTEST_PAUSE
        waited = 0.0
        while (result := await self._run(attempt, self._one if singly else self._many)) is None:
            delay = pause * random.uniform(0.5, 1.0)
            if waited < _WORTH_TELLING <= waited + delay:
                _log.warning("still waiting for another task or process that holds %s", subject)
            await asyncio.sleep(delay)
            waited += delay
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return result

    async def _run(self, call: Callable[[], _T], limiter: anyio.CapacityLimiter) -> _T:
        job = _Job(call)
        try:
            return await anyio.to_thread.run_sync(job, limiter=limiter)
        except asyncio.CancelledError:
            await job.settle()
            raise
