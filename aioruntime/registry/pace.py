"""Keep to what each host can bear (L2): fewer requests after a 429, none before its ``Retry-After``."""

from __future__ import annotations

__all__ = ("Pace", "Turn")

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.registry.clock import Clock

_LONGEST_HOLD = 60.0
_REMEMBERED = 1024


class _Host:
    """What is known of one host; *limit* is what it bears, in whole requests and a part of the next."""

    def __init__(self, most: int) -> None:
        self.limit = float(most)
        self.slots = anyio.CapacityLimiter(most)
        self.opens_at = 0.0
        self.halvings = 0

    def set_limit(self, limit: float) -> None:
        self.limit = limit
        self.slots.total_tokens = int(limit)


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """The right to make one request; tell it the answer."""

    pace: Pace
    host: _Host
    halvings: int

    def answered(self, status: int, retry_after: float | None) -> None:
        """Learn from an answer.

        Args:
            status: its status.
            retry_after: seconds that it asks to wait; None if it does not.
        """
        self.pace.learn(self, status, retry_after)


class Pace:
    """Lets requests to a host pass, so many at once, as long as the host does not ask for fewer.

    Args:
        most: requests to one host at once.
        longest_hold: seconds that a host may have all requests wait, at most; never more than 60.
        clock: tells the time, and waits.
    """

    def __init__(self, most: int, longest_hold: float, clock: Clock) -> None:
        self._most = most
        self._longest_hold = min(longest_hold, _LONGEST_HOLD)
        self._clock = clock
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[Turn]:
        """Wait until a request to the host called *name* may be made; its answer is read in the context."""
        host = self._hosts.get(name) or self._new(name)
        borrower = object()
        await host.slots.acquire_on_behalf_of(borrower)
        try:
            while (wait := host.opens_at - self._clock.now()) > 0:
                await self._clock.sleep(wait)
            yield Turn(self, host, host.halvings)
        finally:
            host.slots.release_on_behalf_of(borrower)

    def learn(self, turn: Turn, status: int, retry_after: float | None) -> None:
        """Let what a host has answered count for the requests that follow."""
        host = turn.host
        if status in (429, 503) and retry_after:
            host.opens_at = max(host.opens_at, self._clock.now() + min(retry_after, self._longest_hold))
        if status == 429:
            # Requests that were under way together are refused together: that is one sign, not many.
            if turn.halvings == host.halvings:
                host.halvings += 1
                host.set_limit(max(1.0, host.limit / 2))
        elif status < 400 and host.limit < self._most:
            host.set_limit(min(float(self._most), host.limit + 1 / host.limit))

    def _new(self, name: str) -> _Host:
        # Redirects may name any number of hosts; those that are at rest can be forgotten.
        if len(self._hosts) >= _REMEMBERED:
            self._hosts = {name: host for name, host in self._hosts.items() if host.slots.borrowed_tokens}
        return self._hosts.setdefault(name, _Host(self._most))
