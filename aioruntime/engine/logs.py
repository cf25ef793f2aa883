"""Logs: what a container has written, as its engine keeps it (L2)."""

from __future__ import annotations

__all__ = ("logs",)

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aioruntime.engine.client import path_part
from aioruntime.engine.frames import FrameDecoder, RawDecoder
from aioruntime.engine.liveness import heard, while_alive
from aioruntime.engine.queries import moment_ns, moment_text
from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import is_whole
from aioruntime.tasks import iterating

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from datetime import datetime

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.frames import Output


@asynccontextmanager
async def logs(
    client: EngineClient,
    container: str,
    *,
    since: float | datetime | None = None,
    until: float | datetime | None = None,
    tail: int | None = None,
    follow: bool = False,
    tty: bool = False,
    timestamps: bool = False,
) -> AsyncGenerator[AsyncIterator[Output]]:
    """Give what a container has written, for the time of the context.

    Nothing is asked before the first step of the iteration: Podman does not answer at all before there is
    something to tell.

    Args:
        client: the engine.
        container: ID or name of the container.
        since: only what was written from then on, in seconds since 1970 or as an aware datetime.
        until: only what was written before.
        tail: only so many of the last lines; None for all.
        follow: whether to go on with what it writes from now on; the iteration ends when the container does.
        tty: whether the container has a terminal; its output is then all ``stdout``.
        timestamps: whether each line begins with the time that it was written at.

    Raises:
        InvalidSpec: a moment is none, as is a datetime that tells no time zone; or *tail* is no count.
        EngineError: there is no such container (status 404), or the engine keeps no logs of it.
        EngineUnavailable: the engine can't be reached, or does not answer any more.
        StreamTruncated: the connection was cut, which the end of the container does not do. All but the
            first are raised while iterating.
    """
    moments = {"since": since, "until": until}
    params = {n: moment_text(moment_ns(n, when)) for n, when in moments.items() if when is not None}
    if not (tail is None or is_whole(tail, 0)):
        raise InvalidSpec(f"tail {one_line(repr(tail))} is not a number of lines; None is for all")
    params |= {
        "stdout": "1",
        "stderr": "1",
        "tail": "all" if tail is None else str(tail),
        "follow": "1" if follow else "0",
        "timestamps": "1" if timestamps else "0",
    }
    pieces = _read(client, container, params, RawDecoder() if tty else FrameDecoder())
    async with iterating(pieces) as steps:
        yield steps


async def _read(
    client: EngineClient, container: str, params: dict[str, str], decoder: FrameDecoder | RawDecoder
) -> AsyncGenerator[Output]:
    call = client.stream("GET", f"/containers/{path_part(container)}/logs", params=params)
    async with AsyncExitStack() as stack:
        response = await while_alive(client, stack.enter_async_context(call))
        # The end of the container ends the answer as HTTP says, a cut does not: aiohttp tells them apart.
        while data := await heard(client, response.content.readany):
            for piece in decoder.feed(data):
                yield piece
        decoder.finish()
