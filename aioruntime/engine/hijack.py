"""Hijacked connections: HTTP up to the answer's header, then raw bytes both ways (L2).

Attach and exec work so, and each side can end its own direction. aiohttp has no public way to hand such
a connection over, so the request is written here.
"""

from __future__ import annotations

__all__ = ("Attachment", "hijacked")

import asyncio
import json
import re
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

import anyio

from aioruntime.engine.client import refusal
from aioruntime.engine.frames import FrameDecoder, Output, RawDecoder
from aioruntime.engine.liveness import heard
from aioruntime.errors import EngineError, EngineUnavailable, StreamTruncated, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.wire import Wire

_HEAD_END = b"\r\n\r\n"
_HEAD_LIMIT = 64 * 1024
_ERROR_LIMIT = 64 * 1024
# Podman's last words when it could not give a program all its input: then it passes no more output on.
_INPUT_FAILED = re.compile(rb"Error: (read|write) unixpacket @->\S+: [^\n]*\n\Z")
_TAIL = 256
_SHORT = (
    "the output may be short: the program ended before it had read its input, and Podman then drops what it "
    "has not passed on yet; give it no more input than it reads"
)


class Attachment:
    """A process's output, as an async iterator of `Output`, and its input; made by `hijacked`.

    A step of the iteration may be cancelled and taken again; nothing is lost by that.
    """

    def __init__(
        self,
        client: EngineClient,
        wire: Wire,
        arrived: bytes,
        decoder: FrameDecoder | RawDecoder,
        check: Callable[[Output], Awaitable[None]] | None = None,
    ) -> None:
        self._client = client
        self._wire = wire
        self._input = wire
        self._arrived = arrived
        self._decoder = decoder
        self._check = check
        self._ready: deque[Output] = deque()
        # Whether output and input, if there is any, share a connection that Podman ends for both.
        self._shares_input = client.capabilities.kind == "podman"
        self._tail = b""
        self._sending = anyio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        while not self._ready:
            try:
                data = self._arrived or await heard(self._client, self._wire.receive)
            except OSError as exc:
                raise StreamTruncated(f"the container's output was cut: {one_line(str(exc))}") from exc
            self._arrived = b""
            if not data:
                self._decoder.finish()
                if self._shares_input and _INPUT_FAILED.search(self._tail):
                    raise StreamTruncated(_SHORT)
                raise StopAsyncIteration
            pieces = self._decoder.feed(data)
            self._ready.extend(pieces)
            if self._shares_input:
                self._tail = b"".join([self._tail, *(piece.data[-_TAIL:] for piece in pieces)])[-_TAIL:]
        if self._check is not None:
            await self._check(self._ready[0])
            self._check = None
        return self._ready.popleft()

    def send_over(self, other: Attachment) -> None:
        """From now on send the input over the connection of *other*."""
        self._input = other._wire
        self._shares_input = False

    async def send(self, data: bytes) -> None:
        """Write *data* to the process's standard input; waits while the process does not read.

        If it is cancelled, what is left goes on with the next call, be it one without data.

        Raises:
            EngineError: the process, or its input, is closed.
            EngineUnavailable: the engine does not answer any more.
        """
        self._input.write(data)
        try:
            async with self._sending:
                await heard(self._client, self._input.drain)
        except OSError as exc:
            raise EngineError(f"the container takes no more input: {one_line(str(exc))}") from exc

    async def close_input(self) -> None:
        """End the process's standard input; its output still comes.

        Raises:
            EngineUnavailable: the engine does not answer any more.
        """
        # The engine may already be gone, and with it the input.
        with suppress(OSError):
            async with self._sending:
                await heard(self._client, self._input.end)


@asynccontextmanager
async def hijacked(
    client: EngineClient,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    body: object = None,
    tty: bool = False,
    timeout: float = 60,
    check: Callable[[Output], Awaitable[None]] | None = None,
) -> AsyncGenerator[Attachment]:
    """Make a POST call that takes its connection over, and keep that for the time of the context.

    Args:
        client: the engine.
        path: the path without version, its names escaped by `path_part`.
        params: the query.
        body: sent as JSON unless None.
        tty: whether there is a terminal, so that the output comes raw.
        timeout: seconds that the engine may take to answer.
        check: looks at the first piece of output before anybody else; what it raises ends the iteration.

    Raises:
        EngineError: the engine refused.
        EngineUnavailable: the engine can't be reached, or (while iterating) does not answer any more.
        StreamTruncated: the connection ended within a frame (raised while iterating).
    """
    call = f"POST {path}"
    target = client.path(path) + (f"?{urlencode(params)}" if params else "")
    content = b"" if body is None else json.dumps(body).encode()
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(timeout):
                wire = await client.transport.connect()
                stack.callback(wire.close)
                wire.write(_head(target, client.transport.host, len(content)) + content)
                await wire.drain()
                arrived = await _answer(call, wire)
        except TimeoutError as exc:
            raise EngineUnavailable(
                f"{one_line(call)}: the engine did not answer within {timeout:g} s"
            ) from exc
        except OSError as exc:
            raise EngineUnavailable(f"no engine answers at {client.place}: {one_line(str(exc))}") from exc
        yield Attachment(client, wire, arrived, RawDecoder() if tty else FrameDecoder(), check)


def _head(target: str, host: str, length: int) -> bytes:
    lines = (
        f"POST {target} HTTP/1.1",
        f"Host: {host}",
        # Asked to upgrade, proxies in between let go of the connection too, and keep one-way closes.
        "Connection: Upgrade",
        "Upgrade: tcp",
        *(["Content-Type: application/json"] if length else []),
        f"Content-Length: {length}",
    )
    return "\r\n".join(lines).encode() + _HEAD_END


async def _answer(call: str, wire: Wire) -> bytes:
    """Read the answer's header; return what has come behind it, which belongs to the process."""
    got = b""
    while _HEAD_END not in got:
        data = await wire.receive()
        if not data or len(got) > _HEAD_LIMIT:
            raise StreamTruncated(f"{one_line(call)}: the engine closed the connection")
        got += data
    head, _, behind = got.partition(_HEAD_END)
    status, headers = _read_head(head.decode("latin-1"), call)
    if status not in (101, 200):
        raise refusal(call, status, await _error_body(wire, headers, behind))
    if status == 200 and headers.get("transfer-encoding"):
        raise EngineError(f"{one_line(call)}: a proxy before the engine does not let the connection through")
    return behind


def _read_head(head: str, call: str) -> tuple[int, dict[str, str]]:
    first, *rest = head.split("\r\n")
    version, _, tail = first.partition(" ")
    if not version.startswith("HTTP/1.") or not tail[:3].isdecimal():
        raise EngineError(f"{one_line(call)}: the engine's answer is no HTTP: {one_line(first)}")
    pairs = (line.partition(":") for line in rest if line)
    return int(tail[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _error_body(wire: Wire, headers: dict[str, str], behind: bytes) -> bytes:
    length = headers.get("content-length", "")
    limit = min(int(length), _ERROR_LIMIT) if length.isdecimal() else _ERROR_LIMIT
    body = behind
    while len(body) < limit and (data := await wire.receive()):
        body += data
    return body[:limit]
