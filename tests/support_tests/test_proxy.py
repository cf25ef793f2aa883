"""The proxies pass everything on unharmed, but for the faults that they were given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.support import leaks
from tests.support.httpmeter import Meter
from tests.support.proxy import Fault, TcpProxy, UnixProxy
from tests.support.scripted import Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BODY = bytes(range(256)) * 1000


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as running:
        running.on("GET", "/big", Reply(body=BODY))
        running.on("GET", "/small", Reply(body=b"small"))
        yield running


@pytest.fixture
async def proxy(server: ScriptedServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(server.host, server.port) as running:
        yield running


async def get(proxy: TcpProxy, *paths: str) -> list[bytes]:
    async with aiohttp.ClientSession() as session:
        return [await (await session.get(f"http://{proxy.origin}{path}")).read() for path in paths]


async def test_passes_and_counts(server: ScriptedServer, proxy: TcpProxy) -> None:
    """Bytes arrive unchanged, are counted both ways, and the requests of a connection are listed."""
    assert await get(proxy, "/big", "/small") == [BODY, b"small"]

    (connection,) = proxy.connections
    assert connection.requests == ["GET /big", "GET /small"]
    assert len(BODY) < connection.down < len(BODY) + 500
    assert 0 < proxy.up < 1000


async def test_corrupts_one_byte_of_one_body(proxy: TcpProxy) -> None:
    """One byte, at the offset in the body of the request that matches, arrives inverted, once."""
    fault = proxy.add(Fault("corrupt", 70_000, request="GET /big"))

    small, first, second = await get(proxy, "/small", "/big", "/big")

    assert small == b"small"
    assert [i for i in range(len(BODY)) if first[i] != BODY[i]] == [70_000]
    assert second == BODY
    assert fault.reached.is_set()


@pytest.mark.parametrize("n", [0, 1, 100_000])
async def test_cuts_a_body(proxy: TcpProxy, n: int) -> None:
    """A cut lets n bytes of the body through; the next connection is whole."""
    fault = proxy.add(Fault("cut", n, request="/big"))
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"GET /big HTTP/1.1\r\n\r\n")

    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()

    assert f"Content-Length: {len(BODY)}".encode() in head
    assert body == BODY[:n]
    assert proxy.connections[0].ended_by is fault
    assert await get(proxy, "/big") == [BODY]


async def test_cuts_at_a_count_of_the_connection(proxy: TcpProxy) -> None:
    """Without a request the count begins with the connection, heads included."""
    proxy.add(Fault("cut", 8))
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"GET /small HTTP/1.1\r\n\r\n")

    assert await reader.read() == b"HTTP/1.1"
    writer.close()
    assert proxy.down == 8


async def test_resets(proxy: TcpProxy) -> None:
    """A reset gives the client its bytes and then ECONNRESET."""
    proxy.add(Fault("reset", 8))
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"GET /small HTTP/1.1\r\n\r\n")

    assert await reader.readexactly(8) == b"HTTP/1.1"
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_cuts_the_request(server: ScriptedServer, proxy: TcpProxy) -> None:
    """A fault on the way up ends the connection before the server has the request."""
    proxy.add(Fault("cut", 10, direction="up"))
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"GET /small HTTP/1.1\r\n\r\n")

    assert await reader.read() == b""
    writer.close()
    assert server.requests == []
    assert proxy.up == 10


async def test_stalls_until_released(proxy: TcpProxy) -> None:
    """A stall says when it is reached, and lets the rest pass when released."""
    fault = proxy.add(Fault("stall", 3, request="/small"))
    fetching = asyncio.ensure_future(get(proxy, "/small"))

    await fault.reached.wait()
    assert not fetching.done()
    fault.release.set()
    assert await fetching == [b"small"]


async def test_rate_and_latency(server: ScriptedServer) -> None:
    """A connection is no faster than its rate, and every piece is late by the latency."""
    clock = asyncio.get_running_loop().time
    async with TcpProxy(server.host, server.port, rate=2_000_000, latency=0.03) as slow:
        start = clock()
        assert await get(slow, "/big") == [BODY]
        assert clock() - start > 0.06 + 0.9 * len(BODY) / 2_000_000


async def test_unreachable_target(free_port: int) -> None:
    """A client of a proxy whose target is down gets a reset, not silence."""
    async with TcpProxy("127.0.0.1", free_port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_unix_sockets(tmp_path: Path) -> None:
    """The unix proxy passes half-closed streams on, counts both ways, and cuts at a byte count."""

    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async def ask(proxy: UnixProxy) -> bytes:
        reader, writer = await asyncio.open_unix_connection(proxy.path)
        writer.write(b"hello")
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    target = await asyncio.start_unix_server(upper, tmp_path / "target")
    async with target, UnixProxy(tmp_path / "proxy", tmp_path / "target") as proxy:
        assert await ask(proxy) == b"HELLO"
        assert (proxy.up, proxy.down) == (5, 5)
        proxy.add(Fault("cut", 2, connection=2))
        assert await ask(proxy) == b"HE"
        assert await ask(proxy) == b"HELLO"
        assert [c.down for c in proxy.connections] == [5, 2, 5]
    assert not (tmp_path / "proxy").exists()


async def test_nothing_is_left_of_open_connections(server: ScriptedServer) -> None:
    """The proxy's end closes connections that are still open, its tasks and its sockets."""
    before = leaks.snapshot()
    async with TcpProxy(server.host, server.port) as proxy:
        stall = proxy.add(Fault("stall", 1))
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET /big HTTP/1.1\r\n\r\n")
        await stall.reached.wait()
    writer.close()
    await leaks.assert_settles(before)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_meter_reads_bytes_split_anywhere(size: int) -> None:
    """Bodies are told from heads however the stream is split: sized, chunked, absent, interim and endless."""
    requests = ["GET /sized", "HEAD /none", "POST /chunked", "GET /endless"]
    stream = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
        b"HTTP/1.1 101 UPGRADED\r\n\r\nHTTP/1.1 any\r\n\r\n"
    )
    meter = Meter(requests, responses=True)
    bodies: dict[int, bytes] = {}
    for start in range(0, len(stream), size):
        data = stream[start : start + size]
        for span in meter.feed(data):
            if span.offset is not None:
                assert span.offset == len(bodies.get(span.exchange, b""))
                bodies[span.exchange] = bodies.get(span.exchange, b"") + data[span.start : span.stop]

    assert bodies == {
        0: b"abc",
        2: b"2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n",
        3: b"HTTP/1.1 any\r\n\r\n",
    }
