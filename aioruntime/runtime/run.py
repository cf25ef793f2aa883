"""Run containers to their end: one, or many at a time (L4)."""

from __future__ import annotations

__all__ = ("RunResult", "run_container", "run_many")

import asyncio
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

from aioruntime.errors import AioRuntimeError, InvalidSpec, RunError, RunTimeout, one_line
from aioruntime.oci.checks import is_whole
from aioruntime.runtime.output import Captured, PassedThrough
from aioruntime.runtime.spec import RunOutcome, RunSpec
from aioruntime.runtime.start import Creation, started
from aioruntime.tasks import end, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from aioruntime.engine.client import EngineClient
    from aioruntime.runtime.container import Container
    from aioruntime.runtime.output import Sink
    from aioruntime.runtime.owner import Owner
    from aioruntime.runtime.stream import Chunks

# How long the output of a container that was killed at its time's end may take to arrive.
_LAST_SECONDS = 5.0


async def run_container(client: EngineClient, owner: Owner, creation: Creation) -> RunOutcome:
    """Run one container and remove it, also if this task is cancelled at any point.

    Raises:
        ImageNotFound: the engine has no such image.
        EngineUnavailable: the engine can't be reached.
        RunError: the container could not be created or started, or its output not be written; it is gone.
        RunTimeout: its time was up; it is gone.
        StreamTruncated: the connection that carried the output was cut; the container is gone.
    """
    sink = Captured() if creation.spec.capture_output else PassedThrough()
    # The group is the outer one: a sink that is blocked must not hold up the container's removal.
    async with task_group() as group, started(client, owner, creation) as container:
        carrier = _Carrier(container, sink, creation.what)
        try:
            group.start_soon(carrier.carry)
            with carrier.needed:
                outcome = await container.wait()
            await carrier.ended()
        except RunTimeout as exc:
            with anyio.move_on_after(_LAST_SECONDS), suppress(AioRuntimeError):
                await carrier.ended()
            stdout, stderr = _captured(sink)
            raise RunTimeout(str(exc), container_id=exc.container_id, stdout=stdout, stderr=stderr) from None
        finally:
            carrier.stop()
    stdout, stderr = _captured(sink)
    return replace(outcome, stdout=stdout, stderr=stderr)


def _captured(sink: Sink) -> tuple[bytes, bytes]:
    if not isinstance(sink, Captured):
        return b"", b""
    return sink.stdout.getvalue(), sink.stderr.getvalue()


class _Carrier:
    """Carries a container's output to a sink until it ends.

    Attributes:
        needed: what is in vain without the output; cancelled when that can't be carried.
    """

    def __init__(self, container: Container, sink: Sink, what: str) -> None:
        self.needed = anyio.CancelScope()
        self._done = anyio.Event()
        self._failure: AioRuntimeError | None = None
        self._chunks: Chunks = container.output()
        self._container_id = container.id
        self._sink = sink
        self._what = what
        self._scope = anyio.CancelScope()

    async def carry(self) -> None:
        """Carry all of it; what prevents that is for `ended` to raise."""
        with self._scope:
            try:
                await self._carry()
            except AioRuntimeError as exc:
                self._failure = exc
                self.needed.cancel()
            self._done.set()

    async def ended(self) -> None:
        """Return when all output was carried.

        Raises:
            RunError: the sink takes no more.
            StreamTruncated: the output was cut.
            EngineError: the engine can't tell whether the container runs.
        """
        await self._done.wait()
        if self._failure is not None:
            raise self._failure

    async def _carry(self) -> None:
        async for piece in self._chunks:
            try:
                await self._sink.write(piece)
            except (OSError, ValueError) as exc:
                where = f"this process's {piece.stream}"
                message = f"{self._what}: its output can't be written to {where}: {one_line(str(exc))}"
                raise RunError(message, container_id=self._container_id) from exc

    def stop(self) -> None:
        """Carry no more; what the sink is busy with may still take its time."""
        self._scope.cancel()


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of one of many runs.

    Args:
        index: its place among the specifications, from 0.
        spec: what was run.
        outcome: how the container ended; None if it could not be run to its end.
        error: why it could not; None if it could.
    """

    index: int
    spec: RunSpec
    outcome: RunOutcome | None = None
    error: Exception | None = None


async def run_many(
    run: Callable[[RunSpec], Awaitable[RunOutcome]], specs: Iterable[RunSpec], limit: int
) -> AsyncGenerator[RunResult]:
    """Run each of *specs*, *limit* at a time, and give what came of them in the order in which they end.

    Left early, or cancelled, it ends those that run and begins no other.

    Raises:
        InvalidSpec: *limit* is less than 1, or *specs* can't be iterated.
    """
    faults: list[str] = []
    if not is_whole(limit, 1, sys.maxsize):
        faults.append(f"limit {one_line(repr(limit))} is not a whole number above 0")
    if not isinstance(specs, Iterable):
        faults.append(f"specs is not a list but {type(specs).__name__}; give such as [RunSpec(...)]")
    if faults:
        raise InvalidSpec(f"can't run: {'; '.join(faults)}")

    # Tasks, and not a task group: a group can't be open across a generator's yields.
    running: set[asyncio.Task[None]] = set()
    results: asyncio.Queue[RunResult] = asyncio.Queue()

    async def result(index: int, spec: RunSpec) -> None:
        try:
            results.put_nowait(RunResult(index, spec, outcome=await run(spec)))
        except Exception as exc:
            results.put_nowait(RunResult(index, spec, error=exc))

    def gone(index: int, spec: RunSpec, task: asyncio.Task[None]) -> None:
        running.discard(task)
        if task.cancelled():  # by somebody else, or at our own end, when nobody looks any more
            results.put_nowait(RunResult(index, spec, error=RunError(f"{spec.image}: its run was cancelled")))

    waiting = enumerate(specs)
    under_way = 0
    try:
        while True:
            while under_way < limit and (following := next(waiting, None)) is not None:
                task = asyncio.create_task(result(*following))
                running.add(task)
                task.add_done_callback(partial(gone, *following))
                under_way += 1
            if not under_way:
                return
            ended = await results.get()
            under_way -= 1
            yield ended
    finally:
        await end(*running)
