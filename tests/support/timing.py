"""Time that a busy machine does not alter: processor time of one thread, the least of several tries."""

from __future__ import annotations

import time
import timeit
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("cpu_seconds",)

_TRIES = 5


def cpu_seconds(call: Callable[[], object], *, enough: float = 0.0) -> float:
    """Return the least processor time that a call takes this thread, of five calls at most.

    The garbage collector is off meanwhile: how long it takes depends on what the tests before have left.

    Args:
        call: what to time.
        enough: seconds; when a call took no more than this, no other is made.
    """
    least = float("inf")
    for _ in range(_TRIES):
        least = min(least, timeit.timeit(call, timer=time.thread_time, number=1))
        if least <= enough:
            break
    return least
