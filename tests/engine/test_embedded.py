"""The embedded default: no engine runs, but `podman` is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.engine.discovery import open_engine
from aioruntime.tasks import in_thread
from tests.engine.embedded import surroundings
from tests.support import host
from tests.support.leaks import assert_settles, snapshot
from tests.support.stepper import each_step, run_cancelled_at
from tests.support.tools import push_mid_size
from tests.support.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.demo.registry import LocalRegistry
    from tests.engine.embedded import Surroundings
    from tests.support.stepper import How

SEED = 4
_HAS_ENGINE = any(Path(p).exists() for p in ("/var/run/docker.sock", "/run/podman/podman.sock"))

pytestmark = [
    pytest.mark.skipif(shutil.which("podman") is None, reason="apt-get install podman"),
    pytest.mark.skipif(_HAS_ENGINE, reason="this machine has an engine of its own"),
]


@pytest.fixture
def podman(monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    with surroundings(monkeypatch) as made:
        yield made


async def test_connect(registry: LocalRegistry, podman: Surroundings, tmp_path: Path) -> None:
    """`connect` ends in a Podman service of our own, which runs containers, says so, and leaves nothing."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    async with ar.connect(store=tmp_path / "store") as runtime:
        info = await runtime.health_check()
        await runtime.pull(image)
        outcome = await runtime.run(ar.RunSpec(image, capture_output=True))
        assert podman.left() != []

    assert (info.name, info.extra["found_by"]) == ("podman", "private podman service")
    assert outcome.stdout == b"hello\n"
    assert podman.left() == []


async def test_no_archive_stays(registry: LocalRegistry, podman: Surroundings, tmp_path: Path) -> None:
    """E3: a load that is cancelled leaves nothing in the service's temporary files, which are ours alone.

    If the service is killed, what it left there goes when the runtime closes.
    """
    image = await push_mid_size(registry, tmp_path / "layout")
    async with ar.connect(store=tmp_path / "store") as runtime:
        watch = Watch()
        await runtime.pull(image, watch)
        half = watch.sent // 2
        await runtime.remove_image(image)

        cancelled = asyncio.create_task(runtime.pull(image, Watch(lambda: cancelled.cancel(), half)))
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert await in_thread(host.poll, lambda: podman.spooled() == [], 10.0)

        (service,) = podman.services()
        # Early, since what the cancelled load has left in the engine is not sent again.
        with pytest.raises(ar.EngineError):
            await runtime.pull(image, Watch(lambda: os.kill(service, signal.SIGKILL), half // 3))
        assert podman.spooled() != []
    assert podman.spooled() == []
    assert podman.left() == []


async def test_not_for_docker(podman: Surroundings) -> None:
    """Who asks for Docker, or for no engine of our own, gets none."""
    for open_none in (open_engine(kind="docker"), open_engine(embedded=False)):
        with pytest.raises(ar.EngineUnavailable, match=r"docker\.sock: not there"):
            async with open_none:
                pass
    assert podman.left() == []


async def test_it_does_not_start(
    podman: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Podman does not start, its own words are told beside the places that were looked at."""
    program = tmp_path / "podman"
    program.write_text("#!/bin/sh\necho no storage here >&2\nexit 125\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ar.EngineUnavailable, match=r"docker\.sock: not there.*no storage here"):
        async with ar.connect(store=tmp_path / "store"):
            pass
    assert podman.left() == []


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("how", "again_after", "sample"),
    [
        ("task", None, 16),
        pytest.param("task", None, None, marks=pytest.mark.full),
        ("task", 1, 12),
        ("scope", None, 6),
    ],
)
async def test_cancelled_at_each_step(
    podman: Surroundings, tmp_path: Path, how: How, again_after: int | None, sample: int | None
) -> None:
    """Cancelled at any await, even twice, `connect` leaves no process, mount, file, task or connection."""

    async def work() -> None:
        async with ar.connect(store=tmp_path / "store"):
            pass

    before = snapshot()
    tried = 0
    async for step in each_step(work, sample=sample, seed=SEED):
        await run_cancelled_at(work, step, how=how, again_after=again_after, may_finish=True)
        await assert_settles(before)
        assert podman.left() == [], f"step {step}"
        tried += 1
    assert tried >= (sample or 20)
