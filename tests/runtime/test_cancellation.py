"""Cancelling at each await, driven step by step: nothing is left on the engine, in the store or here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.support.leaks import assert_settles, snapshot
from tests.support.stepper import each_step, run_cancelled_at
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine
    from tests.support.stepper import How

SEED = 3


def assert_only_partials(store: ar.ImageStore) -> None:
    """What a cancelled download leaves is resumable: a partial with bytes in it, and nothing beside."""
    ingest = store.path / "ingest"
    left = list(ingest.iterdir()) if ingest.exists() else []
    assert all(path.stat().st_size > 0 for path in left)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "sample"), [("task", None), ("scope", 12)])
async def test_ensure_layers(
    docker_engine: Engine, registry: LocalRegistry, tmp_path: Path, how: How, sample: int | None
) -> None:
    """Cancelled at any await, `ensure_layers` leaves no task, file, lock or connection."""
    rounds = iter(range(10_000))

    async def fetch(store: ar.ImageStore) -> None:
        async with ar.RegistryClient() as client:
            image = await client.resolve(ar.OciRef.parse(f"{registry.host}/tiny:0"))
            async with ar.DockerRuntime(docker_engine.url, store=store, registry=client) as runtime:
                await runtime.ensure_layers(image.layers, image=image.reference)

    def fresh() -> ar.ImageStore:
        return ar.ImageStore(tmp_path / f"store-{next(rounds)}")

    tried = 0
    before = snapshot()
    async for step in each_step(lambda: fetch(fresh()), sample=sample, seed=SEED):
        store = fresh()
        await run_cancelled_at(lambda store=store: fetch(store), step, how=how, may_finish=True)  # type: ignore[misc]
        await assert_settles(before)
        assert_only_partials(store)
        await fetch(store)
        assert await store.verify() == []
        assert list((store.path / "ingest").iterdir()) == []
        tried += 1
    assert tried >= (sample or 40)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("engine", "how", "sample"),
    [
        ("docker", "task", None),
        ("podman", "task", 20),
        pytest.param("podman", "task", None, marks=pytest.mark.full),
        ("docker", "scope", 12),
        ("podman", "scope", 12),
    ],
    indirect=["engine"],
)
async def test_pull(
    runtime: EngineRuntime,
    engine: Engine,
    registry: LocalRegistry,
    tmp_path: Path,
    how: How,
    sample: int | None,
) -> None:
    """Cancelled at any await, `pull` leaves no task, file, lock or connection, and the next one works."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:0")
    rounds = iter(range(10_000))

    async def pull(store: ar.ImageStore) -> None:
        # Opening a connection to an engine is cancelled in tests of its own.
        async with type(runtime)(store=store, client=runtime._client) as other:
            await other.pull(image)

    def fresh() -> ar.ImageStore:
        return ar.ImageStore(tmp_path / f"store-{next(rounds)}")

    before = snapshot()
    tried = 0
    async for step in each_step(lambda: pull(fresh()), sample=sample, seed=SEED):
        await remove_images(runtime)
        store = fresh()
        await run_cancelled_at(lambda store=store: pull(store), step, how=how, may_finish=True)  # type: ignore[misc]
        await assert_settles(before)
        assert_only_partials(store)
        assert await store.verify() == []
        await pull(store)
        assert list((store.path / "ingest").iterdir()) == []
        tried += 1
    assert tried >= (sample or 60)
