"""Blocking work off the event loop (L2): a few threads, waited for even if the task is cancelled."""

from __future__ import annotations

__all__ = ("Threads",)

import asyncio
import logging
import math
import random
import time
from typing import TYPE_CHECKING, TypeVar

import anyio

from aioruntime.errors import StoreBusy
from aioruntime.store.holders import holder_of
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.05
_WORTH_TELLING = 10.0
_TOLD_AGAIN = 6


class Threads:
    """Runs the store's blocking calls, a few at a time.

    Args:
        limit: calls that may run at once.
    """

    def __init__(self, limit: int = 4) -> None:
        self.limit = limit
        self._loop: asyncio.AbstractEventLoop | None = None

    def _enter(self) -> None:
        """Make what belongs to the running loop; one after the other may use us, not two at once."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError(
                "this store is in use by the event loop of another thread; give each its own "
                "ImageStore(path), which may share the directory"
            )
        self._loop = loop
        self._many = anyio.CapacityLimiter(self.limit)
        # Writers of one small file take turns here instead of polling its lock against each other.
        self._one = anyio.CapacityLimiter(1)
        self._urgent = anyio.CapacityLimiter(math.inf)

    async def run(self, call: Callable[..., _T], *args: object) -> _T:
        """Make the call in a thread; a cancelled task gets its cancellation once the call has ended."""
        self._enter()
        return await in_thread(call, *args, limiter=self._many)

    async def run_urgent(self, call: Callable[..., _T], *args: object) -> _T:
        """Make a short call that cleans up, without waiting for a turn and however often we are cancelled."""
        self._enter()
        return await to_completion(in_thread(call, *args, limiter=self._urgent))

    async def poll(
        self,
        attempt: Callable[[], _T | None],
        subject: str,
        lock: Path,
        *,
        singly: bool = False,
        give_up: float | None = None,
    ) -> _T:
        """Make *attempt* in a thread until it returns something other than None.

        Between attempts nothing is held, so cancelling leaves nothing. A wait of 10 s is told in the log,
        with who holds the lock, and again each time that it is six times as long.

        Args:
            attempt: returns None while another process or task is in the way.
            subject: what is waited for.
            lock: the file whose lock is waited for.
            singly: whether this process makes one such attempt at a time.
            give_up: seconds to wait at most; None without limit.

        Raises:
            StoreBusy: it was waited for that long; names who holds it.
        """
        self._enter()
        pause = _SHORTEST_PAUSE
        tell_at = _WORTH_TELLING
        begin = time.monotonic()
        limiter = self._one if singly else self._many
        while (result := await in_thread(attempt, limiter=limiter)) is None:
            waited = time.monotonic() - begin
            left = math.inf if give_up is None else give_up - waited
            if left <= 0:
                holder = await in_thread(holder_of, lock, limiter=self._many)
                raise StoreBusy(
                    f"{subject} is held by {holder}; given up after {waited:.0f} s, "
                    "try again when that is done, or wait longer"
                )
            if waited >= tell_at:
                holder = await in_thread(holder_of, lock, limiter=self._many)
                _log.warning("still waiting for %s after %.0f s: it is held by %s", subject, waited, holder)
                tell_at = waited * _TOLD_AGAIN
            await asyncio.sleep(min(pause * random.uniform(0.5, 1.0), left))
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return result
