"""The scripted server sends what it was told to the byte, and records what it was asked."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks
from tests.support.scripted import Fault, Reply, Request, ScriptedServer, UnmatchedRequests
from tests.support.served_image import digest_of, make_image, serve_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as running:
        yield running


async def send(server: ScriptedServer, *lines: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    return reader, writer


async def get(server: ScriptedServer, target: str, *headers: str, method: str = "GET") -> tuple[bytes, bytes]:
    """Head and body of the answer on a connection of its own, read to its end."""
    reader, writer = await send(server, f"{method} {target} HTTP/1.1", "Connection: close", *headers)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


async def test_replies_in_turn(server: ScriptedServer) -> None:
    """A route gives its replies one after the other, and the last one from then on."""
    server.on("GET", "/a", Reply(500), Reply(body=b"ok"))

    heads = [(await get(server, "/a"))[0].split(b" ")[1] for _ in range(3)]

    assert heads == [b"500", b"200", b"200"]
    assert [r.path for r in server.requests] == ["/a", "/a", "/a"]


async def test_matching(server: ScriptedServer) -> None:
    """Method, path, query, pattern, headers and the number of times decide which route answers."""
    server.on("GET", "/a", Reply(body=b"with"), requires={"Authorization": re.compile("^Bearer ")})
    server.on("GET", "/a", Reply(body=b"once"), requires={"Authorization": None}, times=1)
    server.on("GET", "/a?x=1", Reply(body=b"query"))
    server.on("*", re.compile(r"/b/\d+\?y=.*"), Reply(body=b"pattern"))
    server.on("GET", "/a", lambda request: Reply(body=request.query.encode()))

    assert (await get(server, "/a", "authorization: Bearer x"))[1] == b"with"
    assert (await get(server, "/a"))[1] == b"once"
    assert (await get(server, "/a?x=1"))[1] == b"query"
    assert (await get(server, "/b/17?y=z", method="PUT"))[1] == b"pattern"
    assert (await get(server, "/a?rest"))[1] == b"rest"


async def test_requests_are_recorded_whole(server: ScriptedServer) -> None:
    """Headers in their order and bodies, sized or chunked, are kept with the connection's number."""
    server.on("POST", "/up")
    reader, writer = await send(
        server, "POST /up HTTP/1.1", "X-B: 1", "X-A: 2", "x-b: 3", "Content-Length: 4"
    )
    writer.write(
        b"bodyPOST /up HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    )
    writer.write_eof()
    await reader.read()
    writer.close()

    first, second = server.requests
    assert first.headers[:3] == (("X-B", "1"), ("X-A", "2"), ("x-b", "3"))
    assert first.header("X-b") == "1, 3"
    assert (first.body, second.body) == (b"body", b"abcd")
    assert first.connection == second.connection == 1


async def test_unmatched_requests_fail() -> None:
    """A request without a reply is answered 599, and the server's end raises."""
    with pytest.raises(UnmatchedRequests, match="GET /unknown"):
        async with ScriptedServer() as server:
            assert (await get(server, "/unknown"))[0].startswith(b"HTTP/1.1 599")


async def test_errors_of_replies_fail() -> None:
    """An assertion that fails in a reply's function is raised at the server's end."""

    def refuse(request: Request) -> Reply:
        raise AssertionError(f"asked for {request.path}")

    server = ScriptedServer()
    server.on("GET", "/x", refuse)

    async def ask() -> None:
        async with server:
            await get(server, "/x")

    with pytest.raises(AssertionError, match="asked for /x"):
        await ask()


@pytest.mark.parametrize("n", [0, 1, 7, 10])
async def test_cut(server: ScriptedServer, n: int) -> None:
    """A cut ends the connection after exactly n bytes of the body, with the length announced in full."""
    server.on("GET", "/a", Reply(body=b"0123456789", faults=(Fault("cut", n),)))

    head, body = await get(server, "/a")

    assert b"Content-Length: 10" in head
    assert body == b"0123456789"[:n]


async def test_cut_in_the_head(server: ScriptedServer) -> None:
    """A fault may count from the start of the response."""
    server.on("GET", "/a", Reply(body=b"0123456789", faults=(Fault("cut", 4, of="response"),)))

    assert (await get(server, "/a"))[0] == b"HTTP"


async def test_reset(server: ScriptedServer) -> None:
    """A reset gives the peer n bytes and then ECONNRESET."""
    server.on("GET", "/a", Reply(body=bytes(100_000), faults=(Fault("reset", 65_000),)))
    reader, writer = await send(server, "GET /a HTTP/1.1")

    await reader.readuntil(b"\r\n\r\n")
    assert len(await reader.readexactly(65_000)) == 65_000
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_stall(server: ScriptedServer) -> None:
    """A stall holds the rest back until it is released, and says when it is reached."""
    stall = Fault("stall", 5)
    server.on("GET", "/a", Reply(body=b"0123456789", faults=(stall, Fault("cut", 8))))
    reader, writer = await send(server, "GET /a HTTP/1.1")

    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(5) == b"01234"
    await stall.reached.wait()
    rest = asyncio.ensure_future(reader.read())
    await asyncio.sleep(0)
    assert not rest.done()
    stall.release.set()
    assert await rest == b"567"
    writer.close()


async def test_framing(server: ScriptedServer) -> None:
    """Chunks, wrong lengths, extra bytes, raw answers and drips go out as written."""
    server.on("GET", "/chunked", Reply(body=b"abcde", framing="chunked", chunk=3))
    server.on("GET", "/length", Reply(body=b"abcde", declared=99, extra=b"XY"))
    server.on("GET", "/raw", Reply(raw=b"nonsense\r\n\r\n\0", close=True))
    server.on(
        "GET", "/none", Reply(body=b"abcde", framing="none", headers=(("A", "1"), ("A", "2")), close=True)
    )
    server.on("GET", "/drip", Reply(body=b"abcde", drip=(40, 0.0001)))

    assert (await get(server, "/chunked"))[1] == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    head, body = await get(server, "/length")
    assert b"Content-Length: 99" in head
    assert body == b"abcdeXY"
    assert await get(server, "/raw") == (b"nonsense", b"\0")
    assert await get(server, "/none") == (b"HTTP/1.1 200 Scripted\r\nA: 1\r\nA: 2", b"abcde")
    assert (await get(server, "/drip"))[1] == b"abcde"


async def test_head_has_no_body(server: ScriptedServer) -> None:
    """HEAD gets the head that GET gets, and nothing after it."""
    server.on("*", "/a", Reply(body=b"12345"))

    whole, body = await get(server, "/a")
    assert body == b"12345"
    assert await get(server, "/a", method="HEAD") == (whole, b"")


async def test_images_with_ranges(server: ScriptedServer) -> None:
    """A served image has manifest, config and layers under the names that their bytes give, with ranges."""
    layer = bytes(range(200))
    contents = make_image("some/name", "1.0", [layer])
    routes = serve_image(server, contents)
    blob = f"/v2/some/name/blobs/{digest_of(layer)}"

    head, manifest = await get(server, "/v2/some/name/manifests/1.0")
    assert f"Docker-Content-Digest: {digest_of(manifest)}".encode() in head
    assert json.loads(manifest)["layers"][0]["digest"] == digest_of(layer)
    assert (await get(server, blob))[1] == layer
    head, part = await get(server, blob, "Range: bytes=10-19")
    assert b" 206 " in head
    assert b"Content-Range: bytes 10-19/200" in head
    assert part == layer[10:20]
    assert (await get(server, blob, "Range: bytes=190-"))[1] == layer[190:]
    assert (await get(server, blob, "Range: bytes=-5"))[1] == layer[-5:]
    assert b" 416 " in (await get(server, blob, "Range: bytes=200-"))[0]
    assert len(routes[blob][0].hits) == 5


async def test_nothing_is_left_of_stalled_connections() -> None:
    """The server's end closes connections that wait in a stall, its tasks and its sockets."""
    before = leaks.snapshot()
    async with ScriptedServer() as server:
        stall = Fault("stall", 0)
        server.on("GET", "/a", Reply(body=b"x", faults=(stall,)))
        _, writer = await send(server, "GET /a HTTP/1.1")
        await stall.reached.wait()
    writer.close()
    await leaks.assert_settles(before)
