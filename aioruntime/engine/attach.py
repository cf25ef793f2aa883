"""Attach: a container's output and input over a connection of its own (L2).

After the answer's header, attach is no longer HTTP: raw bytes flow both ways, and each side can end
its own. aiohttp has no public way to hand such a connection over, so the request is written here.
"""

from __future__ import annotations

__all__ = ("Attachment", "attach")

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

import anyio

from aioruntime.engine.client import path_part, refusal
from aioruntime.engine.frames import FrameDecoder, Output, RawDecoder
from aioruntime.errors import EngineError, EngineUnavailable, StreamTruncated, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioruntime.engine.client import EngineClient

_PIECE = 64 * 1024
_HEAD_END = b"\r\n\r\n"
_ERROR_LIMIT = 64 * 1024


class Attachment:
    """A container's output, as an async iterator of `Output`, and its input; made by `attach`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, decoder: FrameDecoder | RawDecoder
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder
        self._ready: deque[Output] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        while not self._ready:
            try:
                data = await self._reader.read(_PIECE)
            except OSError as exc:
                raise StreamTruncated(f"the container's output was cut: {one_line(str(exc))}") from exc
            if not data:
                self._decoder.finish()
                raise StopAsyncIteration
            self._ready.extend(self._decoder.feed(data))
        return self._ready.popleft()

    async def send(self, data: bytes) -> None:
        """Write *data* to the container's standard input; waits while the container does not read.

        Raises:
            EngineError: the container, or its input, is closed.
        """
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, RuntimeError) as exc:
            raise EngineError(f"the container takes no more input: {one_line(str(exc))}") from exc

    async def close_input(self) -> None:
        """End the container's standard input; its output still comes.

        Raises:
            EngineError: the connection can't be closed one way only, as with TLS.
        """
        if not self._writer.can_write_eof():
            raise EngineError("standard input can't be closed over a TLS connection to the engine")
        # The engine may already be gone, and with it the input.
        with suppress(OSError):
            await self._writer.drain()
            self._writer.write_eof()


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
        EngineUnavailable: the engine can't be reached.
        StreamTruncated: the connection ended within a frame (raised while iterating).
    """
    call = f"POST /containers/{path_part(container)}/attach"
    writer = None
    try:
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await client.transport.connect()
                await _request(client, call, reader, writer, stdin=stdin)
        except TimeoutError as exc:
            raise EngineError(f"{one_line(call)}: the engine did not answer within {timeout:g} s") from exc
        except OSError as exc:
            place = f"{client.endpoint.shown_url} ({client.endpoint.source})"
            raise EngineUnavailable(f"no engine answers at {place}: {one_line(str(exc))}") from exc
        yield Attachment(reader, writer, RawDecoder() if tty else FrameDecoder())
    finally:
        if writer is not None:
            await _close(writer)


async def _request(
    client: EngineClient,
    call: str,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    stdin: bool,
) -> None:
    method, _, path = call.partition(" ")
    query = f"stream=1&stdout=1&stderr=1&logs=0&stdin={int(stdin)}"
    lines = (
        f"{method} {client.path(path)}?{query} HTTP/1.1",
        f"Host: {client.transport.host}",
        # Asked to upgrade, proxies in between let go of the connection too, and keep one-way closes.
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Length: 0",
    )
    writer.write("\r\n".join(lines).encode() + _HEAD_END)
    await writer.drain()
    try:
        head = (await reader.readuntil(_HEAD_END)).decode("latin-1")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        raise StreamTruncated(f"{one_line(call)}: the engine closed the connection") from exc
    status, headers = _read_head(head, call)
    if status not in (101, 200):
        raise refusal(call, status, await _error_body(reader, headers))
    if status == 200 and headers.get("transfer-encoding"):
        raise EngineError(f"{one_line(call)}: a proxy before the engine does not let the connection through")


def _read_head(head: str, call: str) -> tuple[int, dict[str, str]]:
    first, *rest = head.split("\r\n")
    version, _, tail = first.partition(" ")
    if not version.startswith("HTTP/1.") or not tail[:3].isdecimal():
        raise EngineError(f"{one_line(call)}: the engine's answer is no HTTP: {one_line(first)}")
    pairs = (line.partition(":") for line in rest if line)
    return int(tail[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _error_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    length = headers.get("content-length", "")
    limit = min(int(length), _ERROR_LIMIT) if length.isdecimal() else _ERROR_LIMIT
    try:
        return await reader.readexactly(limit)
    except asyncio.IncompleteReadError as exc:
        return exc.partial


async def _close(writer: asyncio.StreamWriter) -> None:
    # Nothing is to be flushed: abort, so that a peer that reads no more can't hold the close up.
    writer.transport.abort()
    with anyio.CancelScope(shield=True), anyio.move_on_after(5), suppress(OSError):
        await writer.wait_closed()
