from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from aioruntime.engine import containers
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.logs import logs
from aioruntime.errors import EngineError, InvalidSpec, StreamTruncated
from tests.engine import documents
from tests.engine.running import output_of, started
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Reply, ScriptedServer

SCRIPT = "trap 'echo two; exit' TERM; echo one; echo err >&2; while :; do sleep 0.02; done"


async def text(client: EngineClient, container: str, **settings: Any) -> dict[str, bytes]:
    async with logs(client, container, **settings) as pieces:
        return await output_of(pieces)


async def test_followed_to_the_end(each_client: EngineClient, each_image: str) -> None:
    """Lines come as they are written, by stream; the iteration ends when the container does."""
    async with started(each_client, each_image, "sh", "-c", SCRIPT) as container:
        async with logs(each_client, container, follow=True) as pieces:
            seen = {(await anext(pieces)).data for _ in range(2)}
            assert seen == {b"one\n", b"err\n"}
            between = time.time()
            await containers.kill(each_client, container, "SIGTERM")
            assert await output_of(pieces) == {"stdout": b"two\n", "stderr": b""}

        assert await text(each_client, container) == {"stdout": b"one\ntwo\n", "stderr": b"err\n"}
        assert (await text(each_client, container, tail=1))["stdout"] == b"two\n"
        assert (await text(each_client, container, since=between))["stdout"] == b"two\n"
        aware = datetime.fromtimestamp(between, UTC)
        assert await text(each_client, container, until=aware) == {"stdout": b"one\n", "stderr": b"err\n"}
        stamped = (await text(each_client, container, tail=1, timestamps=True))["stdout"]
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\S+ two\n", stamped)
        assert await text(each_client, container, follow=True, tail=0) == {"stdout": b"", "stderr": b""}


async def test_bytes_are_kept(client: EngineClient, image: str) -> None:
    """Long lines, carriage returns and a last line without an end come as they were written."""
    script = "printf 'a\\r\\n'; head -c 100000 /dev/zero; printf end"
    async with started(client, image, "sh", "-c", script) as container:
        await containers.wait(client, container)
        assert (await text(client, container))["stdout"] == b"a\r\n" + bytes(100_000) + b"end"


async def test_terminal(client: EngineClient, image: str) -> None:
    """With a terminal, logs are raw, both streams as one."""
    async with started(client, image, "sh", "-c", "echo out; echo err >&2", Tty=True) as container:
        await containers.wait(client, container)
        found = await text(client, container, tty=True, follow=True)
        assert found == {"stdout": b"out\r\nerr\r\n", "stderr": b""}


async def test_no_container(client: EngineClient) -> None:
    """No such container is status 404, told by the first step."""
    async with logs(client, "no-such-container") as pieces:
        with pytest.raises(EngineError) as caught:
            await anext(pieces)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"since": datetime(2026, 1, 1)},
            r"since .* tells no time zone; give such as datetime.now\(UTC\)",
        ),
        ({"since": "1h"}, "since '1h' is not a moment; give a datetime, or seconds since 1970"),
        ({"until": float("nan")}, "until nan is not a moment"),
        ({"until": -60}, "until -60 is not a moment"),
        ({"until": 10**30}, "until 10+ is not a moment"),
        ({"since": datetime.max.replace(tzinfo=UTC)}, "since datetime.* is not a moment"),
        ({"tail": "5"}, "tail '5' is not a number of lines"),
        ({"tail": -1}, "tail -1 is not a number of lines"),
    ],
)
async def test_what_can_not_be_asked_for(settings: dict[str, Any], message: str) -> None:
    """A time that could be anybody's, or is none, is refused before the engine is asked."""
    nobody: Any = None
    with pytest.raises(InvalidSpec, match=message):
        await text(nobody, "c", **settings)


async def test_a_silent_container(client: EngineClient, image: str) -> None:
    """THREATS E9: the log of a container that writes nothing can be opened and let go of."""
    async with started(client, image) as container:
        before = snapshot()
        async with logs(client, container, follow=True) as pieces:
            task = asyncio.ensure_future(anext(pieces))
            # Once another call has been answered, this one has long been sent.
            await containers.inspect(client, container)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del task
        # The engine's own processes are below this one, so only files and tasks are compared.
        await assert_settles(type(before)(before.files, snapshot().children, before.tasks))


@pytest.mark.parametrize(("ending", "cut"), [(b"0\r\n\r\n", False), (b"", True)])
async def test_cut_between_frames(ending: bytes, cut: bool) -> None:
    """A stream that is cut is told from one that ends, even if all its frames are whole."""
    version, info, _ = documents.DOCKER_20
    frame = b"\x01\0\0\0\0\0\0\x05hello"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with ScriptedServer() as server:
        server.on("GET", "/version", Reply(body=json.dumps(version).encode()))
        server.on("GET", "/v1.41/info", Reply(body=json.dumps(info).encode()))
        raw = head + b"%x\r\n%b\r\n" % (len(frame), frame) + ending
        server.on("GET", "/v1.41/containers/c/logs", Reply(raw=raw, close=True))
        async with (
            EngineClient.open(Endpoint(f"tcp://{server.origin}", "test")) as client,
            logs(client, "c", follow=True) as pieces,
        ):
            if not cut:
                assert (await output_of(pieces))["stdout"] == b"hello"
                return
            with pytest.raises(StreamTruncated):
                await output_of(pieces)
