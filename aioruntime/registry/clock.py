"""The seam through which time comes in (L2)."""

from __future__ import annotations

__all__ = ("SYSTEM_CLOCK", "Clock", "SystemClock")

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time, and waits."""

    def now(self) -> float:
        """Return seconds that never go back, from any point on; the time of day does not matter."""

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Return seconds since some point in the past."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
