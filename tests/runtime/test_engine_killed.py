"""The engine dies while it takes an image, or between that and a run: an error in time, and then it heals."""

from __future__ import annotations

import asyncio
import tempfile
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.tasks import in_thread
from tests.support.tools import push_mid_size
from tests.support.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

SECONDS = 2.0
# When the engine dies: up to 1, at parts of what it is sent; above, of the time that it needs after that.
POINTS = (0.0, 0.3, 0.7, 1.0, 1.3, 1.7)


class Killer:
    """Kills an engine at a point of a load, which it has measured before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sent = 0
        self._tail = 0.0
        self.killed = 0.0

    def kill(self) -> None:
        self._engine.kill()
        self.killed = time.monotonic()

    async def measure(self, runtime: EngineRuntime, image: ar.OciRef) -> ar.ImageDigest:
        """Pull, and learn how much is sent and how long the engine needs after the last byte."""
        watch = Watch()
        digest = await runtime.pull(image, watch)
        self._sent, self._tail = watch.sent, time.monotonic() - watch.last
        return digest

    async def pull(self, runtime: EngineRuntime, image: ar.OciRef, point: float) -> float | None:
        """Pull, and kill the engine at a point of that; return the seconds until the error after it.

        If the pull was faster than that, the engine is killed at its end, and None is returned.
        """
        loop = asyncio.get_running_loop()
        self.killed = 0.0
        timers: list[asyncio.TimerHandle] = []

        def act() -> None:
            if point <= 1:
                self.kill()
            else:
                timers.append(loop.call_later((point - 1) * self._tail, self.kill))

        try:
            await runtime.pull(image, Watch(act, min(point, 1) * self._sent))
        except ar.EngineError:
            return time.monotonic() - self.killed
        for timer in timers:
            timer.cancel()
        if not self.killed:
            self.kill()
        return None


async def listed(runtime: EngineRuntime, image: ar.OciRef) -> bytes:
    return (await runtime.run(ar.RunSpec(image, ["ls", "/data"], capture_output=True))).stdout


@pytest.mark.slow
async def test_killed_while_it_loads(
    own_engine: Engine,
    registry: LocalRegistry,
    store: ar.ImageStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E4, T18: an engine killed at any point of a load is a typed error within 2 s, and the next pull heals.

    Nothing of ours is left in the temporary directory or in the store.
    """
    image = await push_mid_size(registry, tmp_path / "layout")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    killer = Killer(own_engine)
    failed: list[float] = []  # seconds until the error
    async with ar.connect(own_engine.url, store=store) as runtime:
        digest = await killer.measure(runtime, image)
        for point in POINTS:
            await runtime.remove_image(image)
            late = await killer.pull(runtime, image, point)
            if late is not None:
                failed.append(late)
            assert [*(store.path / "ingest").iterdir(), *temporary.iterdir()] == []

            await in_thread(own_engine.start)
            assert await runtime.pull(image) == digest, f"killed at {point}"
            assert await listed(runtime, image) == b"0\n1\n2\n3\n", f"killed at {point}"
    # When its work is done it may die unseen.
    assert len(failed) >= len(POINTS) // 2
    assert median(failed) < SECONDS, failed
    assert max(failed) < 20 * SECONDS, failed  # once in a while a busy machine takes its time


async def test_restarted_between_load_and_run(
    own_engine: Engine, registry: LocalRegistry, store: ar.ImageStore
) -> None:
    """An engine that restarts after a load runs the image; while it is down, a run is EngineUnavailable."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    spec = ar.RunSpec(image, ["sh", "-c", "echo hello"], capture_output=True)
    async with ar.connect(own_engine.url, store=store) as runtime:
        digest = await runtime.pull(image)
        own_engine.kill()
        with pytest.raises(ar.EngineUnavailable, match=own_engine.url):
            await runtime.run(spec)
        with pytest.raises(ar.EngineUnavailable, match=own_engine.url):
            await runtime.pull(image)

        await in_thread(own_engine.start)
        assert await runtime.is_locally_available(image, digest)
        assert (await runtime.run(spec)).stdout == b"hello\n"
        assert await runtime.pull(image) == digest
