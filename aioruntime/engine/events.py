"""Events of an engine, followed over cuts and restarts with none lost and none twice (L2)."""

from __future__ import annotations

__all__ = ("Events", "events")

import json
from collections import deque
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Self

import anyio

from aioruntime.engine.event_history import Event, History, podman_filters, read_event
from aioruntime.engine.jsonlines import JsonDecoder
from aioruntime.engine.queries import filter_values, moment_ns, moment_text
from aioruntime.errors import EngineError, EngineUnavailable, InvalidSpec, StreamTruncated, one_line
from aioruntime.tasks import to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from aioruntime.engine.client import EngineClient

_SECOND = 10**9
# A connection that is silent for so long is not trusted further: proxies let go of idle ones unseen.
_QUIET_SECONDS = 60.0
_PING_SECONDS = 10.0
_PATIENCE_SECONDS = 60.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# One that held for so long was a good one; what comes after it is another outage.
_GOOD_SECONDS = 1.0
_END = object()
# What proxies answer while the engine behind them starts again.
_PASSING = (None, 502, 503, 504)


class Events:
    """The events of an engine, as an async iterator of `Event`; made by `events`."""

    def __init__(
        self,
        client: EngineClient,
        history: History,
        filters: Mapping[str, str],
        until_ns: int | None,
        clock: Callable[[], int],
        patience: float,
    ) -> None:
        self._client = client
        self._history = history
        self._filters = filters
        self._until = until_ns
        self._clock = clock
        self._patience = patience
        self._ready: deque[Event] = deque()
        self._arrivals: AsyncGenerator[None] | None = None
        self._ended = False
        self._connected: float | None = None
        self._gone: float | None = None
        self._pause = _FIRST_PAUSE

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._wait()
            except EngineError as exc:
                if exc.status not in _PASSING:
                    raise
                await self._bear(exc)
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Close the connection, if there is one."""
        self._ended = True
        if self._arrivals is not None:
            await to_completion(self._arrivals.aclose())

    async def _wait(self) -> None:
        """Wait for something to arrive, but not for ever."""
        left = None if self._until is None else (self._until - self._clock()) / _SECOND
        over = left is not None and left <= 0
        arrivals, self._arrivals = self._arrivals or self._ask(whole=over), None
        quiet = _QUIET_SECONDS if self._gone is None else _PING_SECONDS
        with anyio.move_on_after(quiet if over or left is None else min(quiet, left)):
            # Cancelled here, also by the caller, it closes; what was missed is told by the next.
            if await anext(arrivals, _END) is not _END:
                self._arrivals = arrivals
            elif over:
                self._ended = True
            else:
                raise StreamTruncated("the engine ended the stream of its events")
            return
        if over or left is None or quiet < left:
            await _ping(self._client)
            self._gone = None

    async def _ask(self, *, whole: bool) -> AsyncGenerator[None]:
        """Ask for events and take them; with *whole* until all were told, else as long as it goes."""
        params = {**self._filters, "since": moment_text(self._history.since_ns)}
        if whole and self._client.capabilities.kind == "podman":
            # Given an end that has passed, Podman tells nothing or a part, as chance will have it.
            params["stream"] = "false"
        elif whole:
            params["until"] = moment_text(self._until or 0)
        decoder = JsonDecoder()
        async with self._client.stream("GET", "/events", params=params) as response:
            self._connected = anyio.current_time()
            async for data in response.content.iter_any():
                self._take(decoder.feed(data))
                yield
        decoder.finish()

    def _take(self, messages: Sequence[Mapping[str, object]]) -> None:
        for message in messages:
            event = read_event(message)
            if (self._until is None or event.time_ns <= self._until) and self._history.is_new(event):
                self._ready.append(event)

    async def _bear(self, error: EngineError) -> None:
        """Pause before the next try, or give up."""
        now = anyio.current_time()
        if self._gone is None or (self._connected is not None and now - self._connected > _GOOD_SECONDS):
            self._gone, self._pause = now, _FIRST_PAUSE
        self._connected = None
        if now + self._pause > self._gone + self._patience:
            raise EngineUnavailable(
                f"the events of {self._client.endpoint.shown_url} can't be followed any longer, after "
                f"{now - self._gone:.0f} s of trying: {error.message}"
            ) from error
        await anyio.sleep(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)


@asynccontextmanager
async def events(
    client: EngineClient,
    *,
    since: datetime | float | None = None,
    until: datetime | float | None = None,
    filters: Mapping[str, str | Sequence[str]] | None = None,
    patience: float = _PATIENCE_SECONDS,
) -> AsyncGenerator[Events]:
    """Follow the events of an engine, for the time of the context.

    A connection that is cut, falls silent or ends with its engine is replaced: of what the engine still
    tells of that time, nothing is lost and nothing is given twice. Docker tells its last 256 events, and
    after a restart only new ones; Podman keeps them in a file or journal.

    Args:
        client: the engine.
        since: events from then on, as a time with a zone or in seconds since 1970; None for from now on.
        until: end the iteration when all events up to then were given; None to go on for ever.
        filters: which ones: values by name, as for ``docker events --filter``; such as
            ``{"type": "container", "event": ["start", "die"]}``.
        patience: seconds that the engine may be away.

    Raises:
        InvalidSpec: *until* is before *since*, or a value is not of its kind.
        EngineUnavailable: the engine can't be reached, or was away for too long (while iterating).
        EngineError: it refused the filters, or tells something that is no event (while iterating).
    """
    wanted = filter_values(filters)
    first = None if since is None else moment_ns("since", since)
    last = None if until is None else moment_ns("until", until)
    now = await _engine_time(client)
    began = anyio.current_time()
    first = now if first is None else first
    if last is not None and last < first:
        raise InvalidSpec(f"events until {until} that are since {since or 'now'}: there can be none")
    if client.capabilities.kind == "podman":
        wanted = podman_filters(wanted)
    found = Events(
        client,
        History(first),
        {"filters": json.dumps(wanted)} if wanted else {},
        last,
        lambda: now + int((anyio.current_time() - began) * _SECOND),
        patience,
    )
    try:
        yield found
    finally:
        await found.aclose()


async def _engine_time(client: EngineClient) -> int:
    """Return what the engine's clock says, in nanoseconds: what happens from now on happens after that."""
    info = await client.json("GET", "/info")
    told = info.get("SystemTime") if isinstance(info, dict) else None
    try:
        return moment_ns("SystemTime", datetime.fromisoformat(str(told)))
    except ValueError as exc:
        raise EngineError(f"the engine tells its time in an unknown way: {one_line(str(told))}") from exc


async def _ping(client: EngineClient) -> None:
    with anyio.move_on_after(_PING_SECONDS):
        async with client.stream("GET", "/_ping", versioned=False):
            return
    raise EngineError(f"{client.endpoint.shown_url} has not answered within {_PING_SECONDS:g} s")
