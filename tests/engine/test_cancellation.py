"""Cancelling a connection to an engine at each of its awaits: nothing stays open, nothing is warned of."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.images import load_image
from aioruntime.engine.transport import Transport
from aioruntime.errors import ImageLoadFailed
from tests.engine import documents
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Reply, ScriptedServer
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.engines import Engine


SEED = 6


@pytest.mark.slow
@pytest.mark.parametrize(("again_after", "sample"), [(None, None), (1, 8)])
async def test_load(engine: Engine, again_after: int | None, sample: int | None) -> None:
    """Cancelled at any await, even twice, a connection and what is being sent over it are closed."""

    async def archive() -> AsyncGenerator[bytes]:
        for _ in range(5):
            yield b"no tar archive" * 10_000

    async def load() -> None:
        place = Endpoint(engine.url, "test")
        # Closing an archive that is still being sent would raise.
        async with EngineClient.open(place) as client, aclosing(archive()) as body:
            with suppress(ImageLoadFailed):
                await load_image(client, body)

    before = snapshot()
    async for step in each_step(load, sample=sample, seed=SEED):
        await run_cancelled_at(load, step, again_after=again_after, may_finish=True)
        await assert_settles(before)


@pytest.mark.parametrize("again_after", [None, 1, 2, 3])
async def test_connection_that_closes_slowly(
    again_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where the closing itself takes a while, as a farewell over TLS does."""
    close = Transport.aclose

    async def slowly(transport: Transport) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await close(transport)

    monkeypatch.setattr(Transport, "aclose", slowly)
    async with ScriptedServer() as server:
        for path, document in zip(("/version", "/v1.41/info"), documents.DOCKER_20, strict=False):
            server.on("GET", path, Reply(body=json.dumps(document).encode()))

        async def connect() -> None:
            async with EngineClient.open(Endpoint(server.url, "test")):
                pass

        await connect()
        before = snapshot()
        async for step in each_step(connect):
            await run_cancelled_at(connect, step, again_after=again_after, may_finish=True)
            await assert_settles(before)
