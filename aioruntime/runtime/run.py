"""Run a container to its end and leave nothing behind: create, attach, start, wait, remove (L4)."""

from __future__ import annotations

__all__ = ("run_container",)

import logging
import secrets
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from aioruntime.engine import containers
from aioruntime.engine.images import inspect_image
from aioruntime.errors import EngineError, EngineUnavailable, RunError, StreamTruncated
from aioruntime.runtime.spec import RunOutcome
from aioruntime.tasks import in_thread, task_group, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.frames import Output

_log = logging.getLogger("aioruntime")

_CREATE_SECONDS = 120
_REMOVE_SECONDS = 30
_REMOVE_PAUSE = 0.25
# An ended container closes its streams at once; an engine that does not, has lost them.
_DRAIN_SECONDS = 30


class Sink(Protocol):
    """Where a container's output goes."""

    async def write(self, output: Output) -> None:
        """Take one piece."""


class Captured:
    """Keeps the output in memory."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()

    async def write(self, output: Output) -> None:
        """Keep one piece."""
        (self.stdout if output.stream == "stdout" else self.stderr).extend(output.data)


class PassedThrough:
    """Writes the output to this process's own standard streams, off the loop: a terminal can block."""

    async def write(self, output: Output) -> None:
        """Write one piece."""
        await in_thread(_write_through, output)


def _write_through(output: Output) -> None:
    stream = sys.stdout if output.stream == "stdout" else sys.stderr
    binary = getattr(stream, "buffer", None)
    if binary is not None:
        stream.flush()
        binary.write(output.data)
        binary.flush()
    else:  # replaced by something that takes text only, such as io.StringIO
        stream.write(output.data.decode(errors="replace"))


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
        RunError: the container could not be created or started; it is gone.
        StreamTruncated: the connection that carried the output was cut; the container is gone.
    """
    # A name chosen here finds the container even if the answer to its creation was lost.
    name = f"aioruntime-{secrets.token_hex(8)}"
    sink = Captured() if capture else PassedThrough()
    try:
        # The request is not cut off halfway: an engine would go on and create it after we had looked.
        await to_completion(_create(client, body, name, image_id, what, libpod))
        exit_code, duration = await _run_to_end(client, name, sink, what)
    finally:
        await to_completion(_remove(client, name))
    if isinstance(sink, Captured):
        return RunOutcome(exit_code, duration, bytes(sink.stdout), bytes(sink.stderr))
    return RunOutcome(exit_code, duration)


async def _create(
    client: EngineClient, body: dict[str, Any], name: str, image_id: str, what: str, libpod: bool
) -> None:
    try:
        with anyio.fail_after(_CREATE_SECONDS):
            await containers.create(client, body, name=name, libpod=libpod)
    except EngineError as exc:
        if exc.status == 404:
            await inspect_image(client, image_id)  # raises if that is what is missing
        raise RunError(f"{what}: no container could be created: {exc.message}") from exc
    except TimeoutError:
        raise RunError(f"{what}: no container was created within {_CREATE_SECONDS} s") from None


async def _run_to_end(client: EngineClient, name: str, sink: Sink, what: str) -> tuple[int, float]:
    async with AsyncExitStack() as stack:
        try:
            output = await stack.enter_async_context(containers.attach(client, name))
            await containers.start(client, name)
        except (EngineUnavailable, StreamTruncated):
            raise
        except EngineError as exc:
            raise RunError(f"{what}: the container did not start: {exc.message}", container_id=name) from exc
        started = time.monotonic()
        group = await stack.enter_async_context(task_group())
        drained = anyio.Event()
        group.start_soon(_drain, output, sink, drained)
        exit_code = await containers.wait(client, name)
        duration = time.monotonic() - started
        with anyio.move_on_after(_DRAIN_SECONDS):
            await drained.wait()
        if not drained.is_set():
            raise StreamTruncated(f"{what}: ended with {exit_code}, but its output did not end")
    return exit_code, duration


async def _drain(output: AsyncIterator[Output], sink: Sink, drained: anyio.Event) -> None:
    async for piece in output:
        await sink.write(piece)
    drained.set()


async def _remove(client: EngineClient, name: str) -> None:
    failure: EngineError | None = None
    with anyio.move_on_after(_REMOVE_SECONDS):
        while True:
            try:
                await containers.remove(client, name, force=True)
            except EngineError as exc:
                failure = exc
                await anyio.sleep(_REMOVE_PAUSE)
            else:
                return
    _log.warning("container %s could not be removed within %d s: %s", name, _REMOVE_SECONDS, failure)
