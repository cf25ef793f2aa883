"""Faults between us and an engine at every border of every message of `run`, and of `start` with `exec`.

THREATS T17. The ordinary run takes a sample of the borders; ``-m full`` takes all, and prints what came.
"""

from __future__ import annotations

import json
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioruntime as ar
from aioruntime.engine import attach, client, containers, exec, liveness, removal
from aioruntime.runtime import container, process, start, stream
from aioruntime.runtime.engine_runtime import EngineRuntime
from tests.runtime.conftest import script
from tests.support.borders import BorderProxy, Message, Point, points
from tests.support.leaks import assert_settles, snapshot
from tests.support.seeds import seed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

AT_ONCE = 6
SAMPLE = 12
# How long a program outlives its last word: a cut shortly before its end can't be told from that.
LAST = 3
PATIENCE = 5
HUNG = 60.0


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an engine that says nothing seconds, not minutes."""
    for module, name, seconds in (
        (containers, "_CREATE_SECONDS", PATIENCE),
        (containers, "_REMOVE_SECONDS", PATIENCE),
        (removal, "_UNREACHABLE_SECONDS", 0.3),
        (container, "_SILENCE_SECONDS", PATIENCE),
        (start, "_CREATE_SECONDS", PATIENCE),
        (liveness, "QUIET_SECONDS", 1.0),
        (liveness, "PING_SECONDS", PATIENCE),
        (stream, "_DRAIN_SECONDS", 1.0),
        (process, "_LAG_SECONDS", PATIENCE),
    ):
        monkeypatch.setattr(module, name, seconds)
    calls: list[Any] = [client.EngineClient.json, client.EngineClient.send]
    contexts: list[Any] = [attach.attach, exec.attach_exec]
    for call in (*calls, *(context.__wrapped__ for context in contexts)):
        monkeypatch.setitem(call.__kwdefaults__, "timeout", PATIENCE)


async def run(runtime: EngineRuntime, image: str, name: str) -> None:
    """Run a container with input and output, as users do."""
    spec = script(
        image,
        f"cat; echo err >&2; sleep {LAST}; exit 3",
        stdin=b"in1\n",
        capture_output=True,
        timeout=3 * PATIENCE,
        name=name,
    )
    outcome = await runtime.run(spec)
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (3, b"in1\n", b"err\n")


async def start_and_exec(runtime: EngineRuntime, image: str, name: str) -> None:
    """Have a container in hand, wait for its log, execute in it, write to it, and read it to its end."""
    spec = script(image, f"echo one; cat; sleep {LAST}; exit 4", stdin=True, timeout=4 * PATIENCE, name=name)
    async with runtime.start(spec) as one:
        await one.wait_for_log("one", timeout=2 * PATIENCE)
        executed = await one.run(["sh", "-c", f"echo out; echo err >&2; sleep {LAST}; exit 5"])
        await one.stdin.write(b"two\n")
        await one.stdin.close()
        found = b"".join([piece.data async for piece in one.output()])
        outcome = await one.wait()
    # Checked last: what ends a container, such as the loss of its input, is told as what it is.
    assert (executed.exit_code, executed.stdout, executed.stderr) == (5, b"out\n", b"err\n")
    assert (outcome.exit_code, found) == (4, b"one\ntwo\n")


@dataclass(slots=True)
class Trial:
    """Disturbs one engine at many points, and notes what came of it."""

    runtime: EngineRuntime
    image: str
    directory: Path
    work: Callable[[EngineRuntime, str, str], Awaitable[None]]
    log: pytest.LogCaptureFixture
    reached: int = 0
    came: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def record(self) -> list[Message]:
        """The messages of an undisturbed run."""
        async with through(self.runtime, self.directory) as (proxy, runtime):
            proxy.arm()
            await self.work(runtime, self.image, f"point-{secrets.token_hex(4)}")
            return proxy.heal()

    async def disturb(self, point: Point) -> None:
        """Do the work with a disturbance; nothing may be left, and what comes next goes well."""
        name = f"point-{secrets.token_hex(4)}"
        try:
            async with through(self.runtime, self.directory) as (proxy, runtime):
                proxy.arm(point)
                error = await self._outcome(runtime, name)
                self._judge(point, error, reached=proxy.reached)
                proxy.heal()
                left = await self._left(name)
                hello = script(self.image, "echo hello", capture_output=True)
                if (await runtime.run(hello)).stdout != b"hello\n":
                    self.wrong.append(f"{point}: the next run said something else")
            if left:
                await self._reap(point, name, error)
        except Exception as exc:
            self.wrong.append(f"{point}: then {exc!r} {notes(exc)}")

    async def _outcome(self, runtime: EngineRuntime, name: str) -> BaseException | None:
        try:
            with anyio.fail_after(HUNG):
                await self.work(runtime, self.image, name)
        except Exception as exc:
            return exc
        return None

    def _judge(self, point: Point, error: BaseException | None, *, reached: bool) -> None:
        self.came[f"{point.kind}: {'success' if error is None else type(error).__name__}"] += 1
        self.reached += reached
        if error is not None and not isinstance(error, allowed(point, self.work)):
            self.wrong.append(f"{point}: {error!r} {notes(error)}")

    async def _left(self, name: str) -> list[str]:
        params = {"all": "1", "filters": json.dumps({"name": [name]})}
        listed = await self.runtime._client.json("GET", "/containers/json", params=params)
        return [each["Id"] for each in listed]

    async def _reap(self, point: Point, name: str, error: BaseException | None) -> None:
        """What could not be removed was told, and goes now that its owner is closed."""
        self.came[f"{point.kind}: left for reap"] += 1
        if point.kind != "gone" and not point.call.startswith("DELETE"):
            self.wrong.append(f"{point}: left a container that could have been removed")
        if f"container {name} could not be removed" not in self.log.text:
            self.wrong.append(f"{point}: left a container without a word; {error!r}")
        if not await self.reaped(name):
            self.wrong.append(f"{point}: reap left a container")

    async def reaped(self, name: str) -> bool:
        """Reap until no container of that name is left, be it made late by the engine; whether that came."""
        async with type(self.runtime)(self.runtime._client.endpoint.url, store=self.runtime.store) as fresh:
            # What another point's reap is at, this one leaves to it.
            with anyio.move_on_after(HUNG):
                while await self._left(name):
                    await fresh.reap()
                return True
        return False


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def can_be_told(point: Point) -> bool:
    """Whether the engine leaves a way to tell; Podman closes an input's own connection once it has it all."""
    own_input = point.nth > 1 and "attach" in point.call and (point.part, point.way) == ("body", "up")
    return not (own_input and point.kind == "cut")


def allowed(point: Point, work: object) -> tuple[type[Exception], ...]:
    """The errors that a disturbance may come out as."""
    place = (point.part, point.way)
    if work is run and point.kind in ("cut", "gone") and place == ("body", "down") and "attach" in point.call:
        return (ar.StreamTruncated, ar.EngineUnavailable)
    return (ar.EngineError, ar.RunError)


@asynccontextmanager
async def through(
    runtime: EngineRuntime, directory: Path
) -> AsyncIterator[tuple[BorderProxy, EngineRuntime]]:
    """A runtime on the same engine and store, behind a proxy of its own."""
    socket = runtime._client.endpoint.socket
    assert socket is not None
    async with (
        BorderProxy(directory / secrets.token_hex(4), Path(socket)) as proxy,
        type(runtime)(proxy.url, store=runtime.store) as other,
    ):
        yield proxy, other


@pytest.mark.parametrize("sample", [SAMPLE, pytest.param(None, marks=pytest.mark.full)])
@pytest.mark.parametrize("work", [run, start_and_exec])
async def test_at_every_border(
    runtime: EngineRuntime,
    shell: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    work: Callable[[EngineRuntime, str, str], Awaitable[None]],
    sample: int | None,
) -> None:
    """THREATS E5, E6, E7, T17: whatever message is cut, held up, altered or refused, at any of its borders.

    It is an error of the right type in time, or a success with all of the output; no container is left, by
    `reap` at the latest where removing was what was disturbed; and the next run goes well.
    """
    await runtime.run(script(shell, ":"))
    before = snapshot()
    trial = Trial(runtime, shell, tmp_path, work, caplog)
    # What is asked again and again, such as a state, is disturbed once.
    messages = [m for m in await trial.record() if "/images/" not in m.call and (m.nth == 1 or m.hijacked)]
    all_points = [point for point in points(messages) if can_be_told(point)]
    chosen = all_points if sample is None else random.Random(seed()).sample(all_points, sample)

    limit = anyio.CapacityLimiter(AT_ONCE)

    async def disturb(point: Point) -> None:
        async with limit:
            await trial.disturb(point)

    try:
        async with anyio.create_task_group() as group:
            for point in chosen:
                group.start_soon(disturb, point)
    finally:
        gone = await trial.reaped("")  # first, so that the tests after this one find nothing in any case

    print(f"{len(chosen)} of {len(all_points)} points of {work.__name__}:", dict(sorted(trial.came.items())))
    assert trial.wrong == []
    assert trial.reached >= len(chosen) * 0.6  # the length of an answer varies a little
    assert gone, await trial._left("")
    await assert_settles(before)
