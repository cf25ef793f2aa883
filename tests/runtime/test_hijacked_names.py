"""A name that another client takes between our load and our run: what we loaded is what runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.engine import images
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint

if TYPE_CHECKING:
    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

ROUNDS = 2
RUNS = 10  # at once, in each round


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


async def test_the_image_that_was_pulled_runs(
    runtime: EngineRuntime, engine: Engine, registry: LocalRegistry
) -> None:
    """E13, T21: a tag that another client moves between load and run changes nothing, 20 times out of 20."""
    image, other = (ar.OciRef.parse(f"{registry.host}/tiny:{tag}") for tag in "12")
    right = ar.RunSpec(image, ["ls", "/data"], capture_output=True)
    async with EngineClient.open(Endpoint(engine.url, "test")) as hijacker:
        await runtime.pull(other)
        outcomes: list[ar.RunOutcome] = []
        for _ in range(ROUNDS):
            digest = await runtime.pull(image)
            await images.tag_image(hijacker, str(other), str(image))
            pinned = ar.RunSpec(ar.ImageRef(str(image), digest), ["ls", "/data"], capture_output=True)
            specs = [right, pinned] * (RUNS // 2)
            outcomes += await asyncio.gather(*(runtime.run(spec) for spec in specs))
        taken = await images.inspect_image(hijacker, str(image))

    assert [outcome.stdout for outcome in outcomes] == [b"one\ntwo\n"] * (ROUNDS * RUNS)
    assert taken.id == (await images.inspect_image(runtime._client, str(other))).id, "the name was taken"
