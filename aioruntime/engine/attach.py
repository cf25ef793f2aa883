"""Attach: a container's output and input over a connection of its own (L2)."""

from __future__ import annotations

__all__ = ("attach",)

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aioruntime.engine.client import path_part
from aioruntime.engine.hijack import hijacked

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.hijack import Attachment

_OUTPUT = ("stdout", "stderr")
_STREAMS = ("stdin", *_OUTPUT)


@asynccontextmanager
async def attach(
    client: EngineClient, container: str, *, tty: bool = False, stdin: bool = False, timeout: float = 60
) -> AsyncGenerator[Attachment]:
    """Attach to a container that is created and not yet started, for the time of the context.

    Once the context is entered the engine has registered the attachment, so that nothing is lost of
    what the container writes after its start.

    Args:
        client: the engine.
        container: ID or name of the container.
        tty: whether the container has a terminal; its output is then all ``stdout``.
        stdin: whether to attach standard input as well; the container must have it open.
        timeout: seconds that the engine may take to answer.

    Raises:
        EngineError: the engine refused; Podman sets the container up here, so this is also where it
            tells that the command or a device does not exist.
        EngineUnavailable: the engine can't be reached, or (while iterating) does not answer any more.
        StreamTruncated: the connection ended within a frame (raised while iterating).
    """
    path = f"/containers/{path_part(container)}/attach"
    # Podman drops the output that it has not passed on yet when the program takes no more input. Over a
    # connection of its own, the input can't do that.
    apart = stdin and not tty and client.capabilities.kind == "podman"
    async with AsyncExitStack() as stack:

        async def streams(*wanted: str) -> Attachment:
            params = {"stream": "1", "logs": "0"} | {name: str(int(name in wanted)) for name in _STREAMS}
            return await stack.enter_async_context(
                hijacked(client, path, params=params, tty=tty, timeout=timeout)
            )

        attachment = await streams(*(_OUTPUT if apart or not stdin else _STREAMS))
        if apart:
            attachment.send_over(await streams("stdin"))
        yield attachment
