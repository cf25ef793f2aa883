"""Measure what a program does to itself: stalls of its event loop, growth of its memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

_BEAT_SECONDS = 0.001
_SAMPLE_SECONDS = 0.005


@dataclass(slots=True)
class Stall:
    """The longest time, in seconds, that the loop did not come round."""

    longest: float = 0.0


@contextlib.asynccontextmanager
async def loop_stall(clock: Callable[[], float] = time.perf_counter) -> AsyncIterator[Stall]:
    """Watch the event loop for the time of the context, with a task that wants to run every millisecond.

    Args:
        clock: tells the seconds; `time.process_time` leaves out what other programs take of the processors.
    """
    stall = Stall()

    async def beat() -> None:
        while True:
            before = clock()
            await asyncio.sleep(_BEAT_SECONDS)
            stall.longest = max(stall.longest, clock() - before - _BEAT_SECONDS)

    task = asyncio.create_task(beat())
    try:
        yield stall
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclass(slots=True)
class Memory:
    """Resident memory in bytes: before, and at its peak."""

    before: int
    peak: int = field(default=0)

    @property
    def growth(self) -> int:
        """Bytes that it grew by."""
        return max(0, self.peak - self.before)


@contextlib.contextmanager
def resident_memory() -> Iterator[Memory]:
    """Watch this process's resident memory for the time of the context, from a thread."""
    process = psutil.Process()
    memory = Memory(process.memory_info().rss)
    done = threading.Event()

    def sample() -> None:
        while True:
            memory.peak = max(memory.peak, process.memory_info().rss)
            if done.wait(_SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()
