"""`health_check`: an engine that has gone or hangs is told with its address, and without passwords."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from tests.engine import documents
from tests.support.scripted import Fault, Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.engines import Engine


VERSION, INFO, _ = (Reply(body=json.dumps(document).encode()) for document in documents.DOCKER_20)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """Something that says it is Docker 20.10."""
    async with ScriptedServer() as started:
        started.on("GET", "/version", VERSION)
        yield started


@pytest.mark.parametrize(
    "reply",
    [
        Reply(faults=(Fault("stall", of="response"),)),
        Reply(body=b"{}", faults=(Fault("cut", 1),)),
        Reply(500, body=b'{"message":"broken"}'),
        Reply(body=b"[]"),
    ],
)
async def test_engine_in_trouble(server: ScriptedServer, tmp_path: Path, reply: Reply) -> None:
    """An engine that hangs, breaks off, refuses or talks nonsense is EngineUnavailable with its address."""
    server.on("GET", "/v1.41/info", INFO, reply)
    async with EngineClient.open(Endpoint(server.url, "DOCKER_HOST")) as client:
        client.probe = partial(client.probe, timeout=0.5)  # type: ignore[method-assign]
        async with ar.DockerRuntime(store=tmp_path, client=client) as runtime:
            with pytest.raises(ar.EngineUnavailable, match=rf"{server.url} \(DOCKER_HOST\)"):
                await runtime.health_check()


async def test_engine_that_died(own_engine: Engine, tmp_path: Path) -> None:
    """An engine that died after `connect` is EngineUnavailable with its address."""
    async with ar.connect(own_engine.url, store=tmp_path) as runtime:
        await runtime.health_check()
        own_engine.kill()
        with pytest.raises(ar.EngineUnavailable, match=own_engine.url):
            await runtime.health_check()


async def test_password_is_not_shown(server: ScriptedServer, tmp_path: Path) -> None:
    """A password in the engine's address is in nothing that is told of it."""
    server.on("GET", "/v1.41/info", INFO)
    url = server.url.replace("://", "://me:secret@").replace("http", "tcp", 1)
    async with ar.connect(url, store=tmp_path) as runtime:
        info = await runtime.health_check()
    assert info.extra["endpoint"] == server.url.replace("http", "tcp", 1)
    assert "secret" not in repr(info)
