"""A connection to each engine, and the smallest image in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from tests.engine import documents
from tests.support.rootfs import import_image, program_tar
from tests.support.scripted import Reply, ScriptedServer
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.engines import Engine

PROGRAMS = ("sh", "cat", "sleep", "head", "env", "ls", "stty")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """Something that says it is Docker 20.10."""
    version, info, _ = documents.DOCKER_20
    async with ScriptedServer() as started:
        started.on("GET", "/version", Reply(body=json.dumps(version).encode()))
        started.on("GET", "/v1.41/info", Reply(body=json.dumps(info).encode()))
        yield started


@pytest.fixture
async def fake(server: ScriptedServer) -> AsyncIterator[EngineClient]:
    """A connection to it."""
    async with EngineClient.open(Endpoint(server.url, "test")) as client:
        yield client


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[EngineClient]:
    """A connection to the session's Docker, then to its Podman."""
    async with EngineClient.open(Endpoint(engine.url, "test")) as opened:
        yield opened


@pytest.fixture
async def each_client(every_engine: Engine) -> AsyncIterator[EngineClient]:
    """A connection to each generation of engine in turn."""
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as opened:
        yield opened


@pytest.fixture
def image(engine: Engine) -> str:
    """An image with a shell and a few programs in the engine."""
    return provide_image(engine)


@pytest.fixture
def each_image(every_engine: Engine) -> str:
    """The same in each generation of engine."""
    return provide_image(every_engine)


def provide_image(engine: Engine) -> str:
    name = "localhost/engine-tests:latest"
    if ask(engine.socket, "GET", f"/v1.40/images/{name}/json")[0] == 200:  # the test before has left it
        return name
    return import_image(engine, "engine-tests", program_tar(*PROGRAMS))
