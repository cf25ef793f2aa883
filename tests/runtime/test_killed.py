"""The pulling process is killed at random moments: the store is sound, the next pull succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.support import killing

if TYPE_CHECKING:
    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

SEED = 20
ROUNDS = 10  # on each of the two engines

PULL = """
import asyncio, sys
import aioruntime as ar
print("imported")
async def main(reference, store, url):
    async with ar.connect(url, store=store) as runtime:
        await runtime.pull(reference)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_a_killed_pull_leaves_a_sound_store(
    runtime: EngineRuntime, engine: Engine, registry: LocalRegistry
) -> None:
    """`kill -9` at random moments of a pull: every blob in the store is whole, and the next pull works."""
    image = ar.OciRef.parse(f"{registry.host}/bcftools:gzip")
    store = runtime.store
    killer = killing.Killer(SEED)
    program = killing.Program(PULL, arguments=(str(image), str(store.path), engine.url))

    for _ in range(ROUNDS):
        # Fetching takes about half a second, the rest is the engine's time to unpack.
        outcome = await killer.kill(program, within=0.8, start="imported")
        assert await store.verify() == [], outcome.note

    digest = await runtime.pull(image)
    run = await runtime.run(ar.RunSpec(image, ["bcftools", "--version"], capture_output=True))
    assert run.exit_code == 0, f"seed {SEED}"
    assert await runtime.is_locally_available(image, digest)
    assert await store.verify() == []
    assert list((store.path / "ingest").iterdir()) == []
