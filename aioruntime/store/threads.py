"""Blocking work off the event loop (L2): a few threads, waited for even if the task is cancelled."""

from __future__ import annotations

__all__ = ("Threads",)

import asyncio
import logging
import math
import random
from typing import TYPE_CHECKING, TypeVar

import anyio

from aioruntime.errors import StoreBusy
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.05
_WORTH_TELLING = 10.0


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
        return await in_thread(call, *args, limiter=self._many)

    async def run_urgent(self, call: Callable[..., _T], *args: object) -> _T:
        """Make a short call that cleans up, without waiting for a turn and however often we are cancelled."""
        return await to_completion(in_thread(call, *args, limiter=self._urgent))

    async def poll(
        self,
        attempt: Callable[[], _T | None],
        subject: str,
        *,
        singly: bool = False,
        give_up: float | None = None,
    ) -> _T:
        """Make *attempt* in a thread until it returns something other than None.

        Between attempts nothing is held, so cancelling leaves nothing.

        Args:
            attempt: returns None while another process or task is in the way.
            subject: what is waited for, told in the log when it takes long.
            singly: whether this process makes one such attempt at a time.
            give_up: seconds to wait; None for any time.

        Raises:
            StoreBusy: somebody was in the way for *give_up* seconds.
        """
        pause = _SHORTEST_PAUSE
        waited = 0.0
        limiter = self._one if singly else self._many
        while (result := await in_thread(attempt, limiter=limiter)) is None:
            if give_up is not None and waited >= give_up:
                raise StoreBusy(f"{subject} is held by another task or process; try again later")
            delay = pause * random.uniform(0.5, 1.0)
            if waited < _WORTH_TELLING <= waited + delay:
                _log.warning("still waiting for another task or process that holds %s", subject)
            await asyncio.sleep(delay)
            waited += delay
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return result
