"""The pulling process is killed at random moments: the store is sound, the next pull succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.support import killing
from tests.support.proxy import TcpProxy

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

SEED = 20
ROUNDS = 6  # on each engine
RATE = 2 * 2**20  # bytes a second a connection: fetching takes about as long as the kills are spread

PULL = """
import asyncio, sys
import aioruntime as ar
print("imported")
class Told(ar.NoopProgress):
    def update(self, message, current=None, total=None):
        if current:
            print("fetching")
async def main(reference, store, url):
    async with ar.connect(url, store=store) as runtime:
        await runtime.pull(reference, Told())
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_a_killed_pull_leaves_a_sound_store(
    runtime: EngineRuntime, engine: Engine, registry: LocalRegistry, tmp_path: Path
) -> None:
    """`kill -9` at random moments of a pull: every blob in the store is whole, and the next pull succeeds."""
    killer = killing.Killer(f"{SEED} {engine.kind}")
    host, _, port = registry.host.rpartition(":")
    cut = 0
    async with TcpProxy(host, int(port), rate=RATE) as slow:
        image = ar.OciRef.parse(f"{slow.origin}/bcftools:gzip")
        for number in range(ROUNDS):
            store = ar.ImageStore(tmp_path / f"store{number}")
            program = killing.Program(PULL, arguments=(str(image), str(store.path), engine.url))
            # Every second time when the first bytes have come, however long that takes on a busy machine.
            within, start = (2.0, "imported") if number % 2 else (1.0, "fetching")
            outcome = await killer.kill(program, within, start=start)
            assert outcome.killed, outcome.note
            assert await store.verify() == [], outcome.note
            cut += len(partials(store)) > 0

            async with ar.connect(engine.url, store=store) as again:
                digest = await again.pull(f"{registry.host}/bcftools:gzip")
                assert await again.is_locally_available(image, digest), outcome.note
            assert await store.verify() == [], outcome.note
            assert partials(store) == [], outcome.note

    assert cut >= ROUNDS // 3, f"seed {killer.seed}: only {cut} kills fell into a download"
    assert await runtime.pull(f"{registry.host}/bcftools:gzip") == digest
    pinned = ar.ImageRef("bcftools", digest)
    run = await runtime.run(ar.RunSpec(pinned, ["bcftools", "--version"], capture_output=True))
    assert run.exit_code == 0


def partials(store: ar.ImageStore) -> list[Path]:
    directory = store.path / "ingest"
    return list(directory.iterdir()) if directory.exists() else []
