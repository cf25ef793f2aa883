"""Streams of blobs: whole, ranged, and in every way wrong."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket

import pytest

from aioruntime.errors import InvalidSpec, NotFound, RegistryError, RequestRefused, SizeMismatch
from aioruntime.oci.reference import OciRef
from aioruntime.registry.blobs import range_fits
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import DATA, blob_path, image_at, layer_of, read_blob
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import ranged


async def collect(client: RegistryClient, server: ScriptedServer, got: bytearray) -> None:
    """Stream the blob into *got*, which keeps what came before an error."""
    async with client.blob(image_at(server), layer_of()) as stream:
        async for chunk in stream:
            got += chunk


REST = f"bytes 100-{len(DATA) - 1}/{len(DATA)}"


async def test_whole(server: ScriptedServer) -> None:
    """THREATS R20: a blob arrives byte for byte, as it is stored, without a range; no cookie is sent back."""
    server.on("GET", blob_path(), Reply(body=DATA, headers={"Set-Cookie": "a=b"}))
    async with RegistryClient() as client:
        for _ in range(2):
            async with client.blob(image_at(server), layer_of()) as stream:
                assert (stream.host, stream.offset) == (server.origin, 0)
                assert b"".join([chunk async for chunk in stream]) == DATA

    last = server.requests[-1]
    assert last.header("Accept-Encoding") == "identity"
    assert last.header("Range") is None
    assert last.header("Cookie") is None
    assert server.connections == 1


async def test_chunked(server: ScriptedServer) -> None:
    """A blob without Content-Length is counted by itself."""
    server.on("GET", blob_path(), Reply(body=DATA, framing="chunked", chunk=999))

    assert await read_blob(server, layer_of()) == (0, DATA)


async def test_empty(server: ScriptedServer) -> None:
    """A blob of no bytes is read to its end."""
    server.on("GET", blob_path(b""), Reply())

    assert await read_blob(server, layer_of(b"")) == (0, b"")


async def test_rest(server: ScriptedServer) -> None:
    """With an offset, only the rest is asked for and given."""
    server.on("GET", blob_path(), lambda request: ranged(request, DATA, {}))

    assert await read_blob(server, layer_of(), 100) == (100, DATA[100:])
    assert [r.header("Range") for r in server.requests] == ["bytes=100-"]


async def test_range_ignored(server: ScriptedServer) -> None:
    """A server that knows no ranges sends all, and the stream says so."""
    server.on("GET", blob_path(), Reply(body=DATA))

    assert await read_blob(server, layer_of(), 100) == (0, DATA)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(416, body=b"no"),
        Reply(206, body=DATA[100:]),
        Reply(206, {"Content-Range": "garbage"}, DATA[100:]),
        Reply(206, {"Content-Range": REST.replace("100-", "99-")}, DATA[99:]),
        Reply(206, {"Content-Range": REST.replace("100-", "0-")}, DATA),
        Reply(206, {"Content-Range": f"bytes 100-200/{len(DATA)}"}, DATA[100:201]),
        Reply(206, {"Content-Range": REST + "0"}, DATA[100:]),
        Reply(206, {"Content-Range": REST.rpartition("/")[0] + "/*"}, DATA[100:]),
        Reply(206, {"Content-Range": REST.replace("bytes", "items")}, DATA[100:]),
        Reply(206, {"Content-Type": "multipart/byteranges; boundary=x"}, b"--x\r\n"),
        Reply(206, {"Content-Range": REST}, DATA[99:]),
        Reply(206, {"Content-Range": REST}, DATA[101:]),
    ],
    ids=range(12),
)
async def test_wrong_range(server: ScriptedServer, reply: Reply) -> None:
    """Whatever is not exactly the asked rest is dropped, and the blob begun again without a range."""
    server.on("GET", blob_path(), reply, requires={"Range": "bytes=100-"})
    server.on("GET", blob_path(), Reply(body=DATA), requires={"Range": None})

    assert await read_blob(server, layer_of(), 100) == (0, DATA)
    assert len(server.requests) == 2


@pytest.mark.parametrize("text", ["", "bytes 1-9/10 ", "bytes 1-9/10", "Bytes 1-9/10"])
def test_range_fits(text: str) -> None:
    """A Content-Range is compared as numbers, all three of them."""
    assert range_fits(text, 1, 10) is bool(text)
    assert not range_fits(text, 2, 10)
    assert not range_fits(text, 1, 11)
    assert not range_fits("bytes 1-9/10, bytes 2-9/10", 1, 10)
    assert not range_fits("bytes 1-" + "9" * 5000 + "/10", 1, 10)


async def test_unasked_range(server: ScriptedServer) -> None:
    """A part that nobody asked for is not taken for the whole."""
    server.on("GET", blob_path(), Reply(206, {"Content-Range": REST}, DATA[100:]))

    with pytest.raises(RegistryError, match="206"):
        await read_blob(server, layer_of())


@pytest.mark.parametrize("offset", [-1, len(DATA), len(DATA) + 1])
async def test_offset_outside(server: ScriptedServer, offset: int) -> None:
    """An offset that is not within the layer is refused before a request."""
    with pytest.raises(InvalidSpec):
        await read_blob(server, layer_of(), offset)

    assert server.connections == 0


async def test_rest_that_is_not_there(server: ScriptedServer) -> None:
    """A resumed blob that the registry has deleted is told to be gone."""
    server.on("GET", blob_path(), Reply(404))

    with pytest.raises(NotFound, match="resolve the image again"):
        await read_blob(server, layer_of(), 100)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_too_long(server: ScriptedServer, framing: str) -> None:
    """Surplus bytes end the stream, and no byte beyond the declared size is given out."""
    server.on(
        "GET", blob_path(), Reply(body=DATA + b"x", framing="chunked" if framing == "chunked" else "length")
    )
    got = bytearray()
    async with RegistryClient() as client:
        with pytest.raises(SizeMismatch) as caught:
            await collect(client, server, got)

    assert len(got) <= len(DATA)
    assert caught.value.expected == len(DATA)
    assert caught.value.actual > len(DATA)
    assert server.origin in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=DATA[:4000]),
        Reply(body=DATA[:4000], framing="chunked"),
        Reply(body=DATA[:4000], framing="none", close=True),
        Reply(body=DATA, faults=(Fault("cut", 4000),)),
        Reply(body=DATA, faults=(Fault("reset", 4000),)),
        Reply(body=DATA, framing="chunked", chunk=1000, faults=(Fault("cut", 4000),)),
    ],
    ids=["length", "chunked", "until-close", "cut", "reset", "cut-chunked"],
)
async def test_too_short(server: ScriptedServer, reply: Reply) -> None:
    """A blob that ends early is an error that says how many of how many bytes came and what helps."""
    server.on("GET", blob_path(), reply)
    got = bytearray()
    async with RegistryClient() as client:
        with pytest.raises(RegistryError, match="pulling again resumes") as caught:
            await collect(client, server, got)

    assert DATA.startswith(got)
    assert f"{len(got)} of {len(DATA)} bytes" in str(caught.value)
    assert server.origin in str(caught.value)


async def test_stall(server: ScriptedServer) -> None:
    """A host that falls silent in the middle is given up and named; what came has been given out."""
    fault = Fault("stall", 4000)
    server.on("GET", blob_path(), Reply(body=DATA, faults=(fault,)))
    got = bytearray()
    async with RegistryClient(stall_timeout=0.1) as client:
        with pytest.raises(RegistryError, match=r"stalled.*4000 of") as caught:
            await collect(client, server, got)

    assert got == DATA[:4000]
    assert server.origin in str(caught.value)


async def test_no_answer(server: ScriptedServer) -> None:
    """A host that never answers is given up and named."""
    server.on("GET", blob_path(), Reply(faults=(Fault("stall", 0, "response"),)))
    async with RegistryClient(stall_timeout=0.1) as client:
        with pytest.raises(RegistryError, match=r"did not answer within 0.1 s") as caught:
            async with client.blob(image_at(server), layer_of()):
                pass

    assert caught.value.status is None


async def test_a_slow_reader_is_not_a_stall(server: ScriptedServer) -> None:
    """Time that the reader takes for itself does not count, however long."""
    data = bytes(8 << 20)
    server.on("GET", blob_path(data), Reply(body=data))
    got = 0
    async with (
        RegistryClient(stall_timeout=0.1) as client,
        client.blob(image_at(server), layer_of(data)) as stream,
    ):
        async for chunk in stream:
            if not got:
                await asyncio.sleep(0.4)  # the time itself is what is tested
            got += len(chunk)

    assert got == len(data)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "identity, gzip", "x\x1b[2J"])
async def test_encoded(server: ScriptedServer, encoding: str) -> None:
    """THREATS R15: a body encoded on the way is refused, not inflated: its bytes are not the digest's."""
    server.on("GET", blob_path(), Reply(body=gzip.compress(DATA), headers={"Content-Encoding": encoding}))

    with pytest.raises(RegistryError) as caught:
        await read_blob(server, layer_of())

    assert str(caught.value).isprintable()


async def test_stored_gzip_is_not_inflated(server: ScriptedServer) -> None:
    """A gzip layer arrives as stored."""
    data = gzip.compress(DATA)
    server.on("GET", blob_path(data), Reply(body=data, headers={"Content-Encoding": "identity"}))

    assert await read_blob(server, layer_of(data)) == (0, data)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe\x00 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    ],
    ids=["nonsense", "two-lengths", "negative", "bad-chunk", "many-headers", "long-header"],
)
async def test_broken_http(server: ScriptedServer, raw: bytes) -> None:
    """What is not HTTP, or without end, is a typed error."""
    server.on("GET", blob_path(), Reply(raw=raw, close=True))

    with pytest.raises(RegistryError) as caught:
        await read_blob(server, layer_of())

    assert str(caught.value).isprintable()
    assert server.origin in str(caught.value)


async def test_refused_connection(free_port: int) -> None:
    """A host where nothing listens is named."""
    async with RegistryClient() as client:
        server = ScriptedServer(port=free_port)
        with pytest.raises(RegistryError, match=f"127.0.0.1:{free_port} could not be reached") as caught:
            async with client.blob(image_at(server), layer_of()):
                pass

    assert caught.value.status is None


async def test_blob_url(server: ScriptedServer, other: ScriptedServer) -> None:
    """A layer's own URL is used when there is one, with or without an image."""
    other.on("GET", "/some/layer", Reply(body=DATA))
    layer = layer_of(url=f"{other.url}/some/layer?x=%2f")
    async with RegistryClient() as client:
        for image in (image_at(server), None):
            async with client.blob(image, layer) as stream:
                assert stream.host == other.origin
                assert b"".join([chunk async for chunk in stream]) == DATA

    assert [request.target for request in other.requests] == ["/some/layer?x=%2f"] * 2
    assert server.connections == 0


@pytest.mark.parametrize(
    ("image", "url"),
    [
        ("ghcr.io/a/b", "http://cdn.example/x"),
        ("ghcr.io/a/b", "https://169.254.169.254/x"),
        ("ghcr.io/a/b", "https://127.0.0.1/x"),
        ("ghcr.io/a/b", "https://user:pw@cdn.example/x"),
        ("ghcr.io/a/b", "file:///etc/passwd"),
        ("", "http://cdn.example/x"),
    ],
)
async def test_blob_url_refused(image: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's own URL may not leave TLS or lead into private networks; not even its name is looked up."""
    looked_up: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: looked_up.append(args))
    async with RegistryClient() as client:
        with pytest.raises(RequestRefused):
            async with client.blob(OciRef.parse(image) if image else None, layer_of(url=url)):
                pass

    assert looked_up == []


async def test_neither_image_nor_url() -> None:
    """A layer that nobody tells the place of is refused."""
    async with RegistryClient() as client:
        with pytest.raises(InvalidSpec):
            async with client.blob(None, layer_of()):
                pass


async def test_closed_after_cancel(server: ScriptedServer) -> None:
    """A download that is cancelled in the middle leaves no connection, task or file behind."""
    fault = Fault("stall", 4000)
    server.on("GET", blob_path(), Reply(body=DATA, faults=(fault,)))
    before = snapshot()
    async with RegistryClient() as client:

        async def download() -> None:
            async with client.blob(image_at(server), layer_of()) as stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(download())
        await fault.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        fault.release.set()
        del task
        await assert_settles(before)
    assert server.open_connections == 0


@pytest.mark.parametrize("where", ["head", "body"])
async def test_closed_when_left_early(server: ScriptedServer, where: str) -> None:
    """A stream that is left before its end is closed, not kept for the next request."""
    data = bytes(4 << 20)
    server.on("GET", blob_path(data), Reply(body=data))
    before = snapshot()
    async with RegistryClient() as client:
        async with client.blob(image_at(server), layer_of(data)) as stream:
            if where == "body":
                async for _ in stream:
                    break
        await assert_settles(before)
    assert server.open_connections == 0


async def test_connections_per_host(server: ScriptedServer) -> None:
    """No more connections than allowed are opened to a host; further streams wait for one."""
    stalls = [Fault("stall", 4000) for _ in range(5)]
    server.on("GET", blob_path(), *(Reply(body=DATA, faults=(fault,)) for fault in stalls))
    async with RegistryClient(connections_per_host=2) as client:

        async def download() -> bytes:
            async with client.blob(image_at(server), layer_of()) as stream:
                return b"".join([chunk async for chunk in stream])

        tasks = [asyncio.create_task(download()) for _ in range(5)]
        for fault in stalls:
            await fault.reached.wait()
            assert len(server.requests) <= 2 + stalls.index(fault)
            fault.release.set()
        assert await asyncio.gather(*tasks) == [DATA] * 5

    assert server.connections == 2


async def test_not_opened() -> None:
    """A client that was not entered says so."""
    with pytest.raises(RuntimeError, match="async with"):
        async with RegistryClient().blob(image_at(ScriptedServer(port=1)), layer_of()):
            pass


async def test_user_agent(server: ScriptedServer) -> None:
    """The client calls itself what it was told to."""
    server.on("GET", blob_path(), Reply(body=DATA), requires={"User-Agent": re.compile("^mine/1$")})
    async with (
        RegistryClient(user_agent="mine/1") as client,
        client.blob(image_at(server), layer_of()) as stream,
    ):
        assert b"".join([chunk async for chunk in stream]) == DATA
