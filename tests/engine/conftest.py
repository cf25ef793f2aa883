"""A connection to each engine, and the smallest image in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from tests.support.rootfs import import_image, program_tar
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.engines import Engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[EngineClient]:
    """A connection to the session's Docker, then to its Podman."""
    async with EngineClient.open(Endpoint(engine.url, "test")) as opened:
        yield opened


@pytest.fixture
def image(engine: Engine) -> str:
    """An image with a shell and a few programs in the engine."""
    name = "localhost/engine-tests:latest"
    if ask(engine.socket, "GET", f"/v1.40/images/{name}/json")[0] == 200:  # the test before has left it
        return name
    return import_image(engine, "engine-tests", program_tar("sh", "cat", "sleep", "head"))
