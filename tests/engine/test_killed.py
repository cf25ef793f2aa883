"""The engine dies under containers that are followed: told at once, and afterwards all works again."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine import containers
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.errors import EngineError, EngineUnavailable, StreamTruncated
from aioruntime.tasks import in_thread
from tests.engine.running import run
from tests.support.leaks import assert_settles, snapshot
from tests.support.rootfs import import_image, program_tar

if TYPE_CHECKING:
    from aioruntime.engine.hijack import Attachment
    from tests.support.engines import Engine

COUNT = 8
SECONDS = 10.0  # 2 on a machine of one's own


async def follow(attachment: Attachment) -> tuple[bytes, float]:
    """Read to the end or cut, whichever comes; return the output and when it was over."""
    found = b""
    try:
        async for piece in attachment:
            found += piece.data
    except StreamTruncated:
        pass
    return found, time.monotonic()


async def waited(client: EngineClient, container: str) -> tuple[EngineError, float]:
    """Wait for the container; return how that failed, and when."""
    with pytest.raises(EngineError) as caught:
        await containers.wait(client, container)
    return caught.value, time.monotonic()


async def test_killed_under_followed_containers(own_engine: Engine) -> None:
    """THREATS E6, T18: of an engine that dies, every call in flight ends typed within seconds, none hangs.

    Streams end, waiting is StreamTruncated, new calls are EngineUnavailable while it is down; when it is
    back the same client serves: the containers are found as they are, removed, and new ones run.
    """
    image = import_image(own_engine, "killed", program_tar("sh", "sleep"))
    body = {
        "Image": image,
        "Cmd": ["sh", "-c", "echo begun; exec sleep 1000"],
        "HostConfig": {"NetworkMode": "none"},
        "StopTimeout": 0,
    }
    async with EngineClient.open(Endpoint(own_engine.url, "test")) as client:
        before = snapshot()
        async with AsyncExitStack() as stack:
            ids = [await containers.create(client, body) for _ in range(COUNT)]
            attached = [await stack.enter_async_context(containers.attach(client, each)) for each in ids]
            await asyncio.gather(*(containers.start(client, each) for each in ids))
            begun = [(await anext(each)).data for each in attached]
            assert begun == [b"begun\n"] * COUNT
            following = [asyncio.ensure_future(follow(each)) for each in attached]
            waiting = [asyncio.ensure_future(waited(client, each)) for each in ids]
            await client.probe()  # what was asked before this, is on its way

            own_engine.kill()
            killed = time.monotonic()
            for failed, when in await asyncio.gather(*waiting):
                assert isinstance(failed, StreamTruncated | EngineUnavailable), failed
                assert when - killed < SECONDS
            for output, when in await asyncio.gather(*following):
                assert output == b""
                assert when - killed < SECONDS
            with pytest.raises(EngineUnavailable, match=own_engine.url):
                await containers.inspect(client, ids[0])

        await in_thread(own_engine.start)
        states = await asyncio.gather(*(containers.inspect(client, each) for each in ids))
        assert {state.id for state in states} == set(ids)
        await asyncio.gather(*(containers.remove(client, each) for each in ids))
        assert await run(client, image, "sh", "-c", "echo again") == (
            0,
            {"stdout": b"again\n", "stderr": b""},
        )
        await assert_settles(before)
