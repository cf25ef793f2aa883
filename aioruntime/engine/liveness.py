"""Whether an engine that is waited for still lives: asked beside the wait, which itself has no limit (L2).

A container may well say nothing for days. An engine that is stopped, or behind a network that is gone,
says nothing either, and no connection breaks: only a question to it tells the two apart.
"""

from __future__ import annotations

__all__ = ("heard", "while_alive")

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from aioruntime.errors import EngineError, EngineUnavailable
from aioruntime.tasks import end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from aioruntime.engine.client import EngineClient

T = TypeVar("T")

QUIET_SECONDS = 30.0
"""How long an engine may say nothing before it is asked whether it lives."""
PING_SECONDS = 10.0
"""How long it may take to answer that, and how long it then has before it is asked for the last time."""
_PINGS = 2


async def heard(client: EngineClient, read: Callable[[], Awaitable[T]]) -> T:
    """Return what *read* gives, however long that takes, as long as the engine lives.

    Args:
        client: the engine that is read from.
        read: begins to wait, or goes on; it is cancelled and called again, and must lose nothing by that.

    Raises:
        EngineUnavailable: the engine does not answer any more.
    """
    unanswered = 0
    while True:
        limit = asyncio.timeout(PING_SECONDS if unanswered else QUIET_SECONDS)
        try:
            async with limit:
                return await read()
        except TimeoutError:
            if not limit.expired():
                raise
        if await _answers(client):
            unanswered = 0
            continue
        unanswered += 1
        if unanswered == _PINGS:
            raise EngineUnavailable(f"the engine at {client.place} does not answer any more")


async def while_alive(client: EngineClient, work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns, however long that takes, as long as the engine lives.

    It is a task of its own, and over when this returns or raises.

    Raises:
        EngineUnavailable: the engine does not answer any more; *work* was cancelled.
    """
    task = asyncio.create_task(work)
    try:
        await heard(client, lambda: asyncio.wait({task}))
    finally:
        if not task.done():
            await end(task)
    return task.result()


async def _answers(client: EngineClient) -> bool:
    try:
        await client.json("HEAD", "/_ping", timeout=PING_SECONDS, versioned=False)
    except EngineError as exc:
        return exc.status is not None  # a refusal is an answer too
    return True
