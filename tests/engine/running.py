"""Containers for one test, removed after it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aioruntime.engine import containers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.frames import Output


@asynccontextmanager
async def created(client: EngineClient, image: str, *command: str, **fields: Any) -> AsyncIterator[str]:
    """A container without a network that is not started."""
    body = {"Image": image, "Cmd": list(command), "Env": ["PATH=/bin"], **fields}
    body["HostConfig"] = {"NetworkMode": "none"} | fields.get("HostConfig", {})
    container = await containers.create(client, body)
    try:
        yield container
    finally:
        await containers.remove(client, container)


@asynccontextmanager
async def started(client: EngineClient, image: str, *command: str, **fields: Any) -> AsyncIterator[str]:
    """A container that runs; it sleeps unless told otherwise."""
    async with created(client, image, *(command or ("sleep", "1000")), **fields) as container:
        await containers.start(client, container)
        yield container


async def output_of(pieces: AsyncIterator[Output]) -> dict[str, bytes]:
    """All output up to its end, by stream."""
    found = {"stdout": b"", "stderr": b""}
    async for piece in pieces:
        found[piece.stream] += piece.data
    return found


async def run(client: EngineClient, image: str, *command: str) -> tuple[int, dict[str, bytes]]:
    """Run a container to its end; its exit code and output."""
    async with created(client, image, *command) as container, containers.attach(client, container) as output:
        await containers.start(client, container)
        found = await output_of(output)
        return await containers.wait(client, container), found
