"""A server that answers exactly the bytes it was told, and fails the test on requests it was not told of.

Written on raw streams: an HTTP server library would tidy lengths, framing and endings: the faults we want.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tests.support.closing import reset, sent_all
from tests.support.requests import Request, read_request

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

__all__ = ("Answer", "Fault", "Reply", "Request", "Route", "ScriptedServer", "UnmatchedRequests")

_HEAD_LIMIT = 8 << 20


class UnmatchedRequests(AssertionError):
    """Requests came that the script has no reply for."""


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """What happens after so many bytes: the connection ends (FIN), is reset (RST), or waits for `release`.

    Bytes are those of the body as sent, or of the whole response. `reached` is set when it happens.
    """

    kind: Literal["cut", "reset", "stall"]
    after: int = 0
    of: Literal["body", "response"] = "body"
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: what it should be, and how it deviates from that.

    `framing` "length" sends a Content-Length (`declared` instead of the true one, if given), "chunked" sends
    chunks of `chunk` bytes, "none" sends neither. `raw` replaces everything. `extra` follows the body. `drip`
    sends so many bytes at a time, so many seconds apart.
    """

    status: int = 200
    headers: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    reason: str = "Scripted"
    framing: Literal["length", "chunked", "none"] = "length"
    declared: int | str | None = None
    chunk: int = 1 << 16
    extra: bytes = b""
    raw: bytes | None = None
    drip: tuple[int, float] | None = None
    faults: tuple[Fault, ...] = ()
    close: bool = False

    def wire(self, method: str = "GET") -> tuple[bytes, bytes]:
        """Head and body as they go out in answer to a request with that method."""
        if self.raw is not None:
            return b"", self.raw
        pairs = list(self.headers.items() if isinstance(self.headers, Mapping) else self.headers)
        if self.framing == "length":
            pairs.append(("Content-Length", str(len(self.body) if self.declared is None else self.declared)))
        elif self.framing == "chunked":
            pairs.append(("Transfer-Encoding", "chunked"))
        lines = [
            f"HTTP/1.1 {self.status} {self.reason}",
            *(f"{name}: {value}" for name, value in pairs),
            "",
            "",
        ]
        head = "\r\n".join(lines).encode("latin-1", "surrogateescape")
        if method == "HEAD":
            return head, b""
        return head, (self._chunks() if self.framing == "chunked" else self.body) + self.extra

    def _chunks(self) -> bytes:
        parts = [self.body[i : i + self.chunk] for i in range(0, len(self.body), self.chunk)]
        return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


Answer = Reply | Callable[[Request], Reply]


@dataclass(slots=True, eq=False)
class Route:
    """Requests that match get the replies in turn, and then the last one again, at most `times` in all."""

    method: str
    path: str | re.Pattern[str]
    replies: tuple[Answer, ...]
    requires: Mapping[str, str | re.Pattern[str] | None]
    times: int | None
    hits: list[Request] = field(default_factory=list)

    def matches(self, request: Request) -> bool:
        if self.times is not None and len(self.hits) >= self.times:
            return False
        if self.method not in ("*", request.method):
            return False
        wanted = request.target if isinstance(self.path, str) and "?" in self.path else request.path
        if not (wanted == self.path if isinstance(self.path, str) else self.path.fullmatch(request.target)):
            return False
        return all(self._has(request.header(name), value) for name, value in self.requires.items())

    @staticmethod
    def _has(found: str | None, wanted: str | re.Pattern[str] | None) -> bool:
        if wanted is None or found is None:
            return found is wanted
        return found == wanted if isinstance(wanted, str) else bool(wanted.search(found))

    def reply(self, request: Request) -> Reply:
        self.hits.append(request)
        answer = self.replies[min(len(self.hits), len(self.replies)) - 1]
        return answer if isinstance(answer, Reply) else answer(request)


class ScriptedServer:
    """The server; an async context manager, at whose end unmatched requests raise `UnmatchedRequests`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self.requests: list[Request] = []
        self.unmatched: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._routes: list[Route] = []
        self._server: asyncio.Server | None = None
        self._errors: list[BaseException] = []
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def origin(self) -> str:
        """`host:port`, as in an image reference."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.origin}"

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def on(
        self,
        method: str,
        path: str | re.Pattern[str],
        *replies: Answer,
        requires: Mapping[str, str | re.Pattern[str] | None] | None = None,
        times: int | None = None,
    ) -> Route:
        """Reply so to such requests; the first of the routes that match is taken.

        A path without `?` matches any query; a pattern must match the whole target. A header required to be
        None must be absent.
        """
        route = Route(method, path, replies or (Reply(),), requires or {}, times)
        self._routes.append(route)
        return route

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(
            self._connected, self.host, self.port, ssl=self._tls, limit=_HEAD_LIMIT
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._open)
        for task, writer in list(self._open.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        if error is None and self._errors:
            raise self._errors[0]
        if error is None and self.unmatched:
            listed = "\n  ".join(f"{r.method} {r.target} {dict(r.headers)}" for r in self.unmatched)
            raise UnmatchedRequests(f"no reply is scripted for:\n  {listed}")

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._serve(self.connections, reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(error)

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        try:
            while (request := await read_request(number, reader)) is not None:
                self.requests.append(request)
                reply = self._choose(request)
                if not await self._send(writer, reply, request.method):
                    return
                if reply.close or (request.header("Connection") or "").lower() == "close":
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    def _choose(self, request: Request) -> Reply:
        for route in self._routes:
            if route.matches(request):
                return route.reply(request)
        self.unmatched.append(request)
        return Reply(599, reason="Unmatched", body=b"no reply is scripted for this request", close=True)

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply, method: str) -> bool:
        """Send the reply with its faults; return whether the connection still stands."""
        head, body = reply.wire(method)
        whole = memoryview(head + body)
        start = 0
        for place, fault in sorted(
            ((f.after + (len(head) if f.of == "body" else 0), f) for f in reply.faults),
            key=lambda pair: pair[0],
        ):
            await _write(writer, whole[start:place], reply.drip)
            start = max(start, min(place, len(whole)))
            fault.reached.set()
            if fault.kind == "stall":
                await fault.release.wait()
                continue
            if fault.kind == "reset":
                await sent_all(writer)
                reset(writer)
            return False
        await _write(writer, whole[start:], reply.drip)
        return True


async def _write(writer: asyncio.StreamWriter, data: memoryview, drip: tuple[int, float] | None) -> None:
    size, gap = drip or (max(1, len(data)), 0.0)
    for start in range(0, len(data), size):
        writer.write(data[start : start + size])
        await writer.drain()
        if gap:
            await asyncio.sleep(gap)
