"""Run a container to its end and leave nothing behind: create, attach, start, wait, remove (L4)."""

from __future__ import annotations

__all__ = ("run_container",)

import logging
import math
import secrets
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio

from aioruntime.engine import containers
from aioruntime.engine.images import inspect_image
from aioruntime.errors import EngineError, EngineUnavailable, RunError, StreamTruncated, one_line
from aioruntime.runtime.output import Captured, PassedThrough
from aioruntime.runtime.spec import RunOutcome
from aioruntime.tasks import task_group, to_completion

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from aioruntime.engine.attach import Attachment
    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.frames import Output
    from aioruntime.runtime.output import Sink

_log = logging.getLogger("aioruntime")

_CREATE_SECONDS = 120
# An ended container closes its streams at once; an engine that does not, has lost them.
_DRAIN_SECONDS = 30
# Podman closes the streams up to 40 ms before it knows that the container has ended; Docker knows it first.
_LAG_SECONDS = 0.5
_LAG_PAUSE = 0.02


async def run_container(
    client: EngineClient, body: dict[str, Any], *, image_id: str, what: str, capture: bool, libpod: bool
) -> RunOutcome:
    """Run one container and remove it, also if this task is cancelled at any point.

    Args:
        client: the engine.
        body: what to create.
        image_id: the engine's ID of the image in *body*.
        what: the image's name, for messages.
        capture: whether the output is returned, or passed through to this process's own streams.
        libpod: whether *body* is for Podman's own API.

    Raises:
        ImageNotFound: the engine has no such image.
        EngineUnavailable: the engine can't be reached.
        RunError: the container could not be created or started, or its output not be written; it is gone.
        StreamTruncated: the connection that carried the output was cut; the container is gone.
    """
    # A name chosen here finds the container even if the answer to its creation was lost.
    name = f"aioruntime-{secrets.token_hex(8)}"
    sink = Captured() if capture else PassedThrough()
    follower = _Follower(client, name, sink, what)
    notes: list[str] = []
    try:
        async with task_group() as group:
            try:
                # The request is not cut off halfway: an engine would go on and create it after we looked.
                await to_completion(_create(client, body, name, image_id, what, libpod))
                exit_code, duration = await _run_to_end(client, name, follower, group, what)
            finally:
                # Before the group waits for the follower, whose sink may be blocked.
                await to_completion(_remove(client, name, notes))
    except BaseException as exc:
        for note in notes:
            exc.add_note(note)
        raise
    if isinstance(sink, Captured):
        return RunOutcome(exit_code, duration, sink.stdout.getvalue(), sink.stderr.getvalue())
    return RunOutcome(exit_code, duration)


async def _create(
    client: EngineClient, body: dict[str, Any], name: str, image_id: str, what: str, libpod: bool
) -> None:
    try:
        with anyio.fail_after(_CREATE_SECONDS):
            await containers.create(client, body, name=name, libpod=libpod)
    except (EngineUnavailable, StreamTruncated):
        raise
    except EngineError as exc:
        if exc.status == 404:
            await inspect_image(client, image_id)  # raises if that is what is missing
        raise RunError(f"{what}: no container could be created: {exc.message}") from exc
    except TimeoutError:
        raise RunError(f"{what}: no container was created within {_CREATE_SECONDS} s") from None


async def _run_to_end(
    client: EngineClient, name: str, follower: _Follower, group: TaskGroup, what: str
) -> tuple[int, float]:
    async with AsyncExitStack() as stack:
        try:
            output = await stack.enter_async_context(containers.attach(client, name))
            await containers.start(client, name)
        except (EngineUnavailable, StreamTruncated):
            raise
        except EngineError as exc:
            raise RunError(f"{what}: the container did not start: {exc.message}", container_id=name) from exc
        started = time.monotonic()
        stack.callback(follower.stop)
        group.start_soon(follower.follow, output)
        exit_code = await containers.wait(client, name)
        duration = time.monotonic() - started
        await follower.container_ended()
    return exit_code, duration


async def _remove(client: EngineClient, name: str, notes: list[str]) -> None:
    """Remove the container; that it may still be there is logged, and noted for the error on its way."""
    try:
        await containers.remove(client, name, force=True)
    except EngineError as exc:
        notes.append(f"container {name} could not be removed: {exc.message}")
        _log.warning("%s", notes[-1])


class _Follower:
    """Carries a container's output to a sink until it ends, and tells a cut from an end."""

    def __init__(self, client: EngineClient, name: str, sink: Sink, what: str) -> None:
        self._client = client
        self._name = name
        self._sink = sink
        self._what = what
        self._done = anyio.Event()
        self._patience = math.inf
        self._silence = anyio.CancelScope()
        self._whole = anyio.CancelScope()

    async def follow(self, output: Attachment) -> None:
        """Carry all of *output*.

        Raises:
            RunError: the sink takes no more.
            StreamTruncated: the output was cut, or did not end with the container.
            EngineError: the engine can't tell whether the container runs.
        """
        with self._whole:
            while (piece := await self._next(output)) is not None:
                await self._pass_on(piece)
            await self._check_end()
            self._done.set()

    async def container_ended(self) -> None:
        """Return when all output was carried; from now on the engine may not be silent for long."""
        self._patience = _DRAIN_SECONDS
        self._silence.deadline = anyio.current_time() + _DRAIN_SECONDS
        await self._done.wait()

    def stop(self) -> None:
        """Carry no more; what the sink is busy with may still take its time."""
        self._whole.cancel()

    async def _next(self, output: Attachment) -> Output | None:
        with anyio.CancelScope(deadline=anyio.current_time() + self._patience) as self._silence:
            return await anext(output, None)
        raise StreamTruncated(f"{self._what}: the container has ended, but its output did not end")

    async def _pass_on(self, piece: Output) -> None:
        try:
            await self._sink.write(piece)
        except (OSError, ValueError) as exc:
            reason = one_line(str(exc))
            message = f"{self._what}: its output can't be written to this process's {piece.stream}: {reason}"
            raise RunError(message, container_id=self._name) from exc

    async def _check_end(self) -> None:
        # Docker and Podman both keep the output open until the container ends, even if its process has
        # closed its own streams. So if the container goes on, the connection was cut.
        deadline = anyio.current_time() + _LAG_SECONDS
        while self._patience == math.inf and await self._runs():
            if anyio.current_time() > deadline:
                raise StreamTruncated(f"{self._what}: the output was cut while the container was running")
            await anyio.sleep(_LAG_PAUSE)

    async def _runs(self) -> bool:
        try:
            return not (await containers.inspect(self._client, self._name)).ended
        except EngineError as exc:
            if exc.status == 404:  # removed by somebody else; waiting for it tells how it ended
                return False
            raise
