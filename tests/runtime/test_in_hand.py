"""Containers in hand when something comes between: silence, others who remove, an engine that fails once."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import anyio
import pytest

import aioruntime as ar
from aioruntime.engine import containers as engine_containers
from tests.runtime.conftest import containers, script

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from aioruntime.runtime.owner import Claim


pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_silence_costs_no_time(runtime: EngineRuntime, shell: str) -> None:
    """What comes after a silence comes at once, also while the end is waited for: here after 1.15 seconds."""
    came: list[float] = []

    async def times() -> None:
        came.extend([anyio.current_time() async for _ in container.output()])

    spec = script(shell, "for i in 1 2 3 4; do echo; sleep 1.15; done")
    async with runtime.start(spec) as container, anyio.create_task_group() as group:
        group.start_soon(times)
        await container.wait()
    # Held up for half a second, every other piece would come right before the next.
    assert min(later - sooner for sooner, later in itertools.pairwise(came)) > 0.95


async def test_a_policy_of_no_restart(runtime: EngineRuntime, shell: str) -> None:
    """Told not to restart it, which is what engines do anyway, `run` and `start` carry its output."""
    outcome = await runtime.run(script(shell, "echo one", restart="no", capture_output=True))
    assert outcome.stdout == b"one\n"


async def test_removed_by_hand(runtime: EngineRuntime, shell: str) -> None:
    """A container that was to be asked first, and is removed in its context, is left without an error."""
    async with runtime.start(script(shell, "sleep 600", stop_timeout=1)) as container:
        await container.remove()


async def test_the_runtime_is_left_first(runtime: EngineRuntime, shell: str) -> None:
    """Who leaves a runtime while another task has a container in hand, ends it; that task is told."""
    async with ar.connect(runtime._client.endpoint.url, store=runtime.store) as other:
        running = asyncio.Event()

        async def hold() -> None:
            async with other.start(script(shell, "sleep 600")) as container:
                running.set()
                await container.wait()

        holding = asyncio.ensure_future(hold())
        await running.wait()
    assert await containers(runtime) == []
    await asyncio.wait({holding}, timeout=20)
    assert isinstance(holding.exception(), ar.AioRuntimeError | None)


async def test_the_time_of_one_that_was_found(runtime: EngineRuntime, shell: str) -> None:
    """Waited for by somebody who did not start it, it ran as long as the engine says."""
    async with runtime.start(script(shell, "sleep 3")) as container:
        await asyncio.sleep(1.5)
        assert (await (await runtime.container(container.id)).wait()).duration > 2.9


async def test_cancelled_before_it_is_kept(
    runtime: EngineRuntime, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A detached container that nobody got in hand, since that was cancelled at the last moment, is gone."""
    owner = runtime._open.owner
    release, begun = owner.release, asyncio.Event()

    async def slow_release(claim: Claim) -> None:
        begun.set()
        await asyncio.sleep(0.05)
        await release(claim)

    async def detach() -> None:
        async with runtime.start(script(shell, "sleep 600"), detach=True):
            pass

    monkeypatch.setattr(owner, "release", slow_release)
    task = asyncio.create_task(detach())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await containers(runtime) == []


async def test_the_loop_ends_while_it_is_removed(
    runtime: EngineRuntime, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a loop, which cancels every task at once, leaves no container whose removal had begun."""
    remove, begun = engine_containers.remove, asyncio.Event()

    async def slow_remove(client: EngineClient, container: str, force: bool = True) -> None:
        begun.set()
        await asyncio.sleep(0.05)
        await remove(client, container, force)

    monkeypatch.setattr(engine_containers, "remove", slow_remove)
    before = asyncio.all_tasks()
    task = asyncio.create_task(runtime.run(script(shell, ":")))
    await begun.wait()
    for each in asyncio.all_tasks() - before:
        each.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await containers(runtime) == []


async def test_its_time_is_up_while_the_engine_fails(
    runtime: EngineRuntime, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that could not be killed when its time was up is killed a moment later."""
    kill, tries = engine_containers.kill, 0

    async def kill_at_last(client: EngineClient, container: str, signal: str = "SIGKILL") -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ar.EngineError("it is busy", status=500)
        await kill(client, container, signal)

    monkeypatch.setattr(engine_containers, "kill", kill_at_last)
    with pytest.raises(ar.RunTimeout):
        await runtime.run(script(shell, "sleep 600", timeout=0.5))


async def test_a_wait_that_is_cut_again_and_again(
    runtime: EngineRuntime, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that cuts what is silent for long does not end a wait, however often it does so."""
    wait, cuts = engine_containers.wait, 0

    async def cut_wait(client: EngineClient, container: str) -> int:
        nonlocal cuts
        cuts += 1
        if cuts > 4:
            return await wait(client, container)
        await asyncio.sleep(1.05)
        raise ar.StreamTruncated("the proxy closed the connection")

    monkeypatch.setattr(engine_containers, "wait", cut_wait)
    assert (await runtime.run(script(shell, "sleep 5; exit 3"))).exit_code == 3
    assert cuts == 5
