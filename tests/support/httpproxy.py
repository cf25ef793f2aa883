"""An HTTP proxy that notes what it is asked: CONNECT tunnels, and plain requests passed on."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from tests.support.requests import Request, read_request

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

__all__ = ("HttpProxy",)

_HOP_BY_HOP = ("proxy-authorization", "connection")


class HttpProxy:
    """Listens on a free port of 127.0.0.1; an async context manager.

    Args:
        password: what "user" has to know, if anything; else the answer is 407.
        status: what a CONNECT is answered with.
        tls: speaks TLS to its clients.
    """

    def __init__(
        self, password: str | None = None, *, status: int = 200, tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.port = 0
        self._wanted = (
            None if password is None else "Basic " + b64encode(f"user:{password}".encode()).decode()
        )
        self._status = status
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await read_request(len(self.requests), reader)
            if request is None:
                return
            self.requests.append(request)
            if self._wanted not in (None, request.header("Proxy-Authorization")):
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif request.method == "CONNECT" and self._status != 200:
                writer.write(b"HTTP/1.1 %d Scripted\r\nContent-Length: 0\r\n\r\n" % self._status)
            else:
                await self._pass_on(request, reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _pass_on(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        connect = request.method == "CONNECT"
        url = urlsplit(f"//{request.target}" if connect else request.target)
        answers, upstream = await asyncio.open_connection(url.hostname, url.port or 80)
        try:
            if connect:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream.write(_head(request, url.path + (f"?{url.query}" if url.query else "")))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(answers, writer))
                if connect:
                    group.create_task(_pump(reader, upstream))
        finally:
            upstream.close()


def _head(request: Request, target: str) -> bytes:
    fields = [(name, value) for name, value in request.headers if name.lower() not in _HOP_BY_HOP]
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + request.body


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
