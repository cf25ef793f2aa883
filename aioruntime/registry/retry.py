"""Try again what may go better the next time (L2): which failures those are, and how long to wait."""

from __future__ import annotations

__all__ = ("Retry", "pause_before", "worth_another_try")

import logging
import random
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from aioruntime.errors import RegistryError, RequestRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioruntime.registry.clock import Clock

_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 10.0


def worth_another_try(error: BaseException) -> bool:
    """Tell whether what has failed may go better the next time.

    So may connections that failed, broke or stalled, and the statuses 408, 429 and 5xx. Any other answer is
    what the registry has to say.
    """
    if not isinstance(error, RegistryError) or isinstance(error, RequestRefused):
        return False
    return error.temporary or error.status in (408, 429) or (error.status or 0) // 100 == 5


def pause_before(tries: int, chance: float) -> float:
    """Return the seconds to wait after so many failed *tries*; twice as long each time, up to 10.

    Args:
        tries: how many there were, from 1 on.
        chance: from 0 to 1, which shortens the pause by up to a half, so that many do not come at once.
    """
    longest = min(_FIRST_PAUSE * 2.0 ** min(tries - 1, 16), _LONGEST_PAUSE)
    return longest * (1 - chance / 2)


class Retry:
    """Tries again. What a host asks to wait (``Retry-After``) is waited for where requests are made.

    Args:
        retries: how often in a row.
        budget: seconds after the first failure in which a last try may begin.
        clock: tells the time, and waits.
    """

    def __init__(self, retries: int, budget: float, clock: Clock) -> None:
        self.budget = budget
        self.clock = clock
        self._retries = retries

    async def __call__(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Return what *attempt* returns at last.

        Raises:
            RegistryError: the last failure, when retries or budget are used up.
        """
        # Most attempts succeed, and each piece of a blob is one: the loop costs more than reading the piece.
        try:
            return await attempt()
        except RegistryError as exc:
            failure: RegistryError | None = exc
        ends_at: float | None = None

        def pause(state: RetryCallState) -> float:
            nonlocal ends_at
            now = self.clock.now()
            ends_at = now + self.budget if ends_at is None else ends_at
            return min(pause_before(state.attempt_number, random.random()), max(0.0, ends_at - now))

        def spent(state: RetryCallState) -> bool:
            late = ends_at is not None and self.clock.now() >= ends_at
            return late or state.attempt_number > self._retries

        async def once() -> _T:
            nonlocal failure
            if failure is not None:
                first, failure = failure, None
                raise first
            return await attempt()

        retrying = AsyncRetrying(
            sleep=self.clock.sleep,
            retry=retry_if_exception(worth_another_try),
            wait=pause,
            stop=spent,
            before_sleep=_tell,
            reraise=True,
        )
        return await retrying(once)


def _tell(state: RetryCallState) -> None:
    if state.outcome is not None:
        _log.info("%s; trying again in %.2f s", state.outcome.exception(), state.upcoming_sleep)
