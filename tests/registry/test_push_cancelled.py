"""Cancelling a push at each await: nothing stays open."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from aioruntime.registry import uploads
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import image_at
from tests.registry.uploads import Image, InstantClock, Taker
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Reply, ScriptedServer
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from tests.support.stepper import How

LARGE = random.Random(1).randbytes(2500)


@pytest.mark.parametrize(
    ("whole", "how", "again_after"), [(False, "task", 3), (True, "task", None), (True, "scope", None)]
)
async def test_push(monkeypatch: pytest.MonkeyPatch, whole: bool, how: How, again_after: int | None) -> None:
    """THREATS T19: cancelled at any await, even twice, a push leaves no task, connection or file open."""
    monkeypatch.setattr(uploads, "_CHUNK", 1000)
    image = Image(LARGE, b"small", piece=300)
    tried = 0

    async def push() -> None:
        async with RegistryClient(clock=InstantClock()) as client:
            await client.push(image_at(server), image.manifest, image.media_type, image.blobs, image)

    async with ScriptedServer() as server:
        if whole:
            server.on("PATCH", re.compile(".*"), Reply(405))
        taker = Taker(server)
        before = snapshot()

        def fresh() -> None:
            taker.blobs.clear()
            taker.manifests.clear()
            taker.uploads.clear()

        async def run() -> None:
            fresh()
            await push()

        async for step in each_step(run, sample=25):
            await run_cancelled_at(run, step, how=how, again_after=again_after, may_finish=True)
            await assert_settles(before)
            assert image.open == 0, f"step {step}"
            tried += 1
        await run()
        assert taker.blobs == image.data

    assert tried >= 20
