"""Proxies that count, cut, stall, slow and alter what passes: one relay, a TCP and a unix listener."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tests.support.closing import reset, sent_all
from tests.support.httpmeter import Meter, Span

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

Direction = Literal["up", "down"]
_CHUNK = 1 << 16


@dataclass(slots=True, eq=False)
class Fault:
    """What to do to the stream at a byte count; it happens once, on the first connection that comes to it.

    "cut" ends the connection (FIN) after `after` bytes, "reset" by RST, "stall" holds that direction back
    until `release` is set, "corrupt" inverts the byte at that offset. "down" is towards the client. With
    `request`, a pattern searched in "METHOD /target", bytes count within the body of that request (up) or of
    its response (down); without, from the start of the connection. `reached` is set when it happens.
    """

    kind: Literal["cut", "reset", "stall", "corrupt"]
    after: int = 0
    direction: Direction = "down"
    request: str | None = None
    connection: int | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def place(
        self, connection: Connection, direction: Direction, start: int, data: bytes, spans: list[Span]
    ) -> int | None:
        """Where in `data`, which begins `start` bytes into the stream, it happens; None if not there."""
        if (
            self.reached.is_set()
            or direction != self.direction
            or self.connection not in (None, connection.number)
        ):
            return None
        if self.request is None:
            return self._within(start, 0, len(data))
        for span in spans:
            known = connection.requests[span.exchange] if span.exchange < len(connection.requests) else ""
            if span.offset is not None and re.search(self.request, known):
                found = self._within(span.offset, span.start, span.stop)
                if found is not None:
                    return found
        return None

    def _within(self, offset: int, start: int, stop: int) -> int | None:
        place = start + self.after - offset
        if self.kind == "corrupt":
            return place if start <= place < stop else None
        return place if start < place <= stop or (place == start and offset == 0) else None


@dataclass(slots=True, eq=False)
class Connection:
    """What passed on one connection: bytes delivered each way, and the request lines seen."""

    number: int
    up: int = 0
    down: int = 0
    requests: list[str] = field(default_factory=list)
    open: bool = True
    ended_by: Fault | None = None


class _Ended(Exception):
    """A fault has ended the connection."""


class Relay:
    """Passes bytes between each client and a target; the listeners below say which."""

    def __init__(self, *, rate: float | None = None, latency: float = 0.0) -> None:
        self.rate = rate
        self.latency = latency
        self.faults: list[Fault] = []
        self.connections: list[Connection] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []

    @property
    def up(self) -> int:
        """Bytes delivered to the target, over all connections."""
        return sum(connection.up for connection in self.connections)

    @property
    def down(self) -> int:
        """Bytes delivered to clients, over all connections."""
        return sum(connection.down for connection in self.connections)

    def add(self, fault: Fault) -> Fault:
        """Put the fault in place and return it."""
        self.faults.append(fault)
        return fault

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if error is None and self._errors:
            raise self._errors[0]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(Connection(len(self.connections) + 1))
        task = asyncio.ensure_future(self._relay(self.connections[-1], reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        task.add_done_callback(lambda _: writer.close())  # also if it was cancelled before it began

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(error)

    async def _relay(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers = [writer]
        try:
            answers, upstream = await self._connect()
            writers.append(upstream)
            for each in writers:
                each.transport.set_write_buffer_limits(0)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(connection, "up", reader, upstream))
                group.create_task(self._pump(connection, "down", answers, writer))
        except* (OSError, _Ended):
            if connection.ended_by is None or connection.ended_by.kind == "reset":
                reset(writer)
        finally:
            connection.open = False
            for each in writers:
                each.close()

    async def _pump(
        self,
        connection: Connection,
        way: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Pass one direction on to its end."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._receive(reader, queue))
            group.create_task(self._deliver(connection, way, queue, writer))

    async def _receive(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        clock = asyncio.get_running_loop().time
        data = b"?"
        while data:
            size = _CHUNK if self.rate is None else max(1, min(_CHUNK, int(self.rate / 20)))
            data = await reader.read(size)
            await queue.put((clock() + self.latency, data))

    async def _deliver(
        self,
        connection: Connection,
        way: Direction,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
    ) -> None:
        meter = Meter(connection.requests, responses=way == "down")
        clock = asyncio.get_running_loop().time
        passed = 0
        while True:
            due, data = await queue.get()
            if due > clock():
                await asyncio.sleep(due - clock())
            if not data:
                with suppress(OSError):
                    writer.write_eof()
                return
            await self._pass_on(connection, way, passed, data, meter.feed(data), writer)
            passed += len(data)

    async def _pass_on(
        self,
        connection: Connection,
        way: Direction,
        passed: int,
        data: bytes,
        spans: list[Span],
        writer: asyncio.StreamWriter,
    ) -> None:
        """Pass one piece on, with the faults that fall into it."""
        found = ((fault.place(connection, way, passed, data, spans), fault) for fault in self.faults)
        start = 0
        for place, fault in sorted(((p, f) for p, f in found if p is not None), key=lambda pair: pair[0]):
            if fault.kind == "corrupt":
                data = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
                fault.reached.set()
                continue
            await self._write(connection, way, data[start:place], writer)
            start = place
            fault.reached.set()
            if fault.kind == "stall":
                await fault.release.wait()
                continue
            if fault.kind == "reset":
                await sent_all(writer)
            connection.ended_by = fault
            raise _Ended
        await self._write(connection, way, data[start:], writer)

    async def _write(
        self, connection: Connection, way: Direction, data: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if not data:
            return
        if self.rate is not None:
            await asyncio.sleep(len(data) / self.rate)
        writer.write(data)
        await writer.drain()
        if way == "up":
            connection.up += len(data)
        else:
            connection.down += len(data)


class TcpProxy(Relay):
    """Listens on a free port of 127.0.0.1 for a target host and port; an async context manager."""

    def __init__(self, host: str, port: int, *, rate: float | None = None, latency: float = 0.0) -> None:
        super().__init__(rate=rate, latency=latency)
        self._target = (host, port)
        self.port = 0

    @property
    def origin(self) -> str:
        """`host:port`, as in an image reference."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self._target)


class UnixProxy(Relay):
    """Listens on one unix socket for another; an async context manager."""

    def __init__(self, path: Path, target: Path, *, rate: float | None = None, latency: float = 0.0) -> None:
        super().__init__(rate=rate, latency=latency)
        self.path = path
        self._target = target

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    async def __aenter__(self) -> UnixProxy:
        self._server = await asyncio.start_unix_server(self._connected, self.path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)
        await super().__aexit__(kind, error, tb)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self._target)
