"""The engine dies under containers that are followed and waited for, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.tasks import in_thread
from tests.runtime.conftest import containers, script
from tests.support import host
from tests.support.engines import FLAVORS
from tests.support.leaks import assert_settles, snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine

FOLLOWED = 8
SECONDS = 10.0  # 2 on a machine that has nothing else to do


async def failed(work: Awaitable[object]) -> tuple[Exception, float]:
    """How the work failed, and when."""
    try:
        result = await work
    except ar.AioRuntimeError as exc:
        return exc, time.monotonic()
    raise AssertionError(f"it ended with {result!r}")


@pytest.mark.slow
@pytest.mark.parametrize("own_engine", list(FLAVORS), indirect=True)
async def test_killed_under_followed_containers(
    own_engine: Engine, registry: LocalRegistry, store: ar.ImageStore
) -> None:
    """THREATS E6, T18: all who read or wait get a typed error at once: output is cut, it has not ended.

    When the engine is back, the same runtime runs on. How the containers went on is told as it is: Podman's
    have lived on, and their exit code is known; Docker's have ended with it, with a code or as unknown.
    """
    image = f"{registry.host}/tiny:1"
    hello = script(image, "echo hello", capture_output=True)
    async with ar.connect(own_engine.url, store=store) as runtime:
        await runtime.pull(image)
        await runtime.run(hello)
        before = snapshot()
        async with AsyncExitStack() as stack:
            spec = script(image, "echo ready; sleep 600")
            found = [await stack.enter_async_context(runtime.start(spec)) for _ in range(FOLLOWED)]
            ready = asyncio.Semaphore(0)

            async def follow(container: ar.Container) -> int:
                lines = 0
                async for line in container.lines():
                    assert line.text == "ready"
                    lines += 1
                    ready.release()
                return lines

            readers = [asyncio.create_task(failed(follow(container))) for container in found]
            waiters = [asyncio.create_task(failed(container.wait())) for container in found]
            for _ in found:
                await ready.acquire()
            await in_thread(own_engine.kill)
            killed = time.monotonic()
            cut, unavailable = await asyncio.gather(*readers), await asyncio.gather(*waiters)
            latest = max(when - killed for _, when in (*cut, *unavailable))
            print(f"{own_engine.kind}: the last error came {latest:.2f} s after the engine's death")

            assert {type(error) for error, _ in cut} == {ar.StreamTruncated}
            assert {type(error) for error, _ in unavailable} <= {ar.StreamTruncated, ar.EngineUnavailable}
            assert latest < SECONDS
            with pytest.raises(ar.EngineUnavailable):
                await runtime.run(hello)

            await in_thread(own_engine.start)
            assert (await runtime.run(hello)).stdout == b"hello\n"
            for container in found:
                with pytest.raises(ar.StreamTruncated):
                    await anext(container.output())
            codes = [await how_it_ended(container) for container in found]
            print(f"{own_engine.kind}: {codes}")
            assert set(codes) <= ({137} if own_engine.kind == "podman" else {137, None})
        assert await containers(runtime) == []
        await assert_settles(before)


async def how_it_ended(container: ar.Container) -> int | None:
    """The exit code of a container, which is killed if it runs; None if it can't be known."""
    if (await container.inspect()).running:
        await container.kill()
    try:
        return (await container.wait()).exit_code
    except ar.OutcomeUnknown:
        return None


@pytest.mark.slow
async def test_ended_while_the_engine_was_away(
    own_engine: Engine, registry: LocalRegistry, store: ar.ImageStore
) -> None:
    """THREATS E6: the exit code of a container that ended meanwhile is the right one, or `OutcomeUnknown`."""
    image = f"{registry.host}/tiny:1"
    async with ar.connect(own_engine.url, store=store) as runtime:
        await runtime.pull(image)
        text = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"
        async with AsyncExitStack() as stack:
            found = [await stack.enter_async_context(runtime.start(script(image, text))) for _ in range(2)]
            for container in found:
                await container.wait_for_log("ready")
            path = "/containers/{}/json"
            pids = [
                (await runtime._client.json("GET", path.format(container.id)))["State"]["Pid"]
                for container in found
            ]
            await in_thread(own_engine.kill)
            for pid, number in zip(pids, (signal.SIGUSR1, signal.SIGKILL), strict=True):
                os.kill(pid, number)
            assert await in_thread(host.poll, lambda: not any(map(host.alive, pids)), 20)
            await in_thread(own_engine.start)

            codes = [await how_it_ended(container) for container in found]
        print(f"{own_engine.kind}: {codes}")
        assert codes[0] in (7, None)
        assert codes[1] in (137, None)
        assert await containers(runtime) == []
