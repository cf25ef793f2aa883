"""Blobs that break off, and where they go on."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Literal

import pytest

from aioruntime.errors import InvalidSpec, NotFound, RegistryError, SizeMismatch
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import DATA, blob_path, image_at, layer_of
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Fault, Reply, Request, ScriptedServer
from tests.support.served_image import ranged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.oci.image import LayerSpec

SIZE = len(DATA)
PLACES = {"head": -1, "first": 0, "second": 1, "middle": SIZE // 2, "last": SIZE - 1, "end": SIZE}


async def read(client: RegistryClient, server: ScriptedServer, layer: LayerSpec) -> tuple[bytes, int, int]:
    """Return the blob, how many answers it came from, and how many bytes came twice."""
    async with client.blob(image_at(server), layer) as stream:
        data = b"".join([chunk async for chunk in stream])
        return data, stream.answers, stream.repeated


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["cut", "reset", "stall"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_goes_on(
    server: ScriptedServer,
    place: str,
    kind: Literal["cut", "reset", "stall"],
    framing: Literal["length", "chunked"],
) -> None:
    """THREATS R17: a body that breaks off or stalls anywhere goes on with what is missing, unnoticed."""
    after = PLACES[place]
    # Chunks of one byte have 6 bytes on the wire, so that places can be told.
    scale = 6 if framing == "chunked" else 1
    fault = Fault(kind, 20, "response") if after < 0 else Fault(kind, after * scale)
    broken = Reply(body=DATA, faults=(fault,), framing=framing, chunk=1)
    server.on("GET", blob_path(), broken, lambda request: ranged(request, DATA, {}))
    before = snapshot()
    async with RegistryClient(stall_timeout=0.2 if kind == "stall" else 30) as client:
        data, answers, repeated = await read(client, server, layer_of())

    assert data == DATA
    assert repeated == 0
    assert fault.reached.is_set()
    whole = after <= 0 or (place == "end" and framing == "length") or answers == 1
    asked = [request.header("Range") for request in server.requests]
    assert asked in ([None], [None, None]) if whole else asked == [None, f"bytes={after}-"]
    fault.release.set()
    await assert_settles(before)


async def test_cut_at_every_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """THREATS R14, T12: a blob of 4 KiB that is cut after each of its bytes arrives whole, no byte twice."""
    monkeypatch.setattr("aioruntime.registry.retry._FIRST_PAUSE", 0.0)
    data = os.urandom(4096)
    layer = layer_of(data)
    after = 0
    sent: list[int] = []

    def answer(request: Request) -> Reply:
        whole = request.header("Range") is None
        sent.append(min(after, len(data)) if whole else len(data) - after)
        return ranged(request, data, {}) if not whole else Reply(body=data, faults=(Fault("cut", after),))

    async with ScriptedServer() as server, RegistryClient() as client:
        server.on("GET", blob_path(data), answer, requires={"Range": None})
        server.on("GET", blob_path(data), answer)
        while after < len(data):
            after += 1
            sent.clear()
            got, _, repeated = await read(client, server, layer)
            assert got == data
            assert repeated == 0
            assert sum(sent) <= 1.05 * len(data)


async def test_progress_renews_the_retries(server: ScriptedServer) -> None:
    """THREATS R17: a blob that is cut again and again arrives as long as each time some of it comes."""

    def answer(request: Request) -> Reply:
        reply = ranged(request, DATA, {})
        return Reply(reply.status, reply.headers, reply.body, faults=(Fault("cut", 500),))

    server.on("GET", blob_path(), answer)
    async with RegistryClient(retries=1) as client:
        data, answers, _ = await read(client, server, layer_of())

    assert data == DATA
    assert answers == -(-SIZE // 500)


async def test_no_progress(server: ScriptedServer) -> None:
    """THREATS R17: when nothing more comes, the error names host and progress; what came was given."""
    server.on("GET", blob_path(), Reply(body=DATA, faults=(Fault("reset", 4000),)), requires={"Range": None})
    server.on("GET", blob_path(), Reply(502))
    got = bytearray()

    async def collect(client: RegistryClient) -> None:
        async with client.blob(image_at(server), layer_of()) as stream:
            async for chunk in stream:
                got.extend(chunk)

    async with RegistryClient(retries=3) as client:
        with pytest.raises(RegistryError, match=f"4000 of {SIZE} bytes came") as caught:
            await collect(client)

    assert got == DATA[:4000]
    assert server.origin in str(caught.value)
    assert len(server.requests) == 1 + 3


async def test_deleted_meanwhile(server: ScriptedServer) -> None:
    """What the registry says when asked for the rest comes out as it is, at once."""
    server.on("GET", blob_path(), Reply(body=DATA, faults=(Fault("cut", 4000),)), Reply(404))
    async with RegistryClient() as client:
        with pytest.raises(NotFound, match="4000 of"):
            await read(client, server, layer_of())

    assert len(server.requests) == 2


@pytest.mark.parametrize("drip", ["one connection", "many stalls"])
async def test_dripping(server: ScriptedServer, drip: str) -> None:
    """THREATS R17: a body of which a byte comes now and then is given up, although each is in time."""
    if drip == "one connection":
        server.on("GET", blob_path(), Reply(body=DATA, drip=(40, 0.02)))
    else:

        def answer(request: Request) -> Reply:
            reply = ranged(request, DATA, {})
            return Reply(reply.status, reply.headers, reply.body, faults=(Fault("stall", 1),))

        server.on("GET", blob_path(), answer)
    async with RegistryClient(stall_timeout=0.4, retry_budget=0.4) as client:
        with pytest.raises(RegistryError, match="too little") as caught:
            await read(client, server, layer_of())

    assert server.origin in str(caught.value)


async def test_dripping_what_is_here(server: ScriptedServer) -> None:
    """THREATS R17: a body of which what is here comes again, a byte now and then, is given up as well."""
    broken = Reply(body=DATA, faults=(Fault("cut", 9000),))
    server.on("GET", blob_path(), broken, Reply(body=DATA, drip=(20, 0.02)))
    async with RegistryClient(stall_timeout=0.4, retry_budget=0.4) as client:
        with pytest.raises(RegistryError, match="too little of what came before"):
            await read(client, server, layer_of())

    assert len(server.requests) == 2


def wrong(start: int, stop: int, total: int | str, body: bytes, **headers: str) -> Reply:
    return Reply(206, {"Content-Range": f"bytes {start}-{stop}/{total}", **headers}, body)


REST = DATA[4000:]
LAST = SIZE - 1
WRONG: list[Reply] = [
    Reply(206, body=REST),
    Reply(206, {"Content-Range": ""}, REST),
    Reply(206, {"Content-Range": "bytes"}, REST),
    Reply(206, {"Content-Range": f"bytes */{SIZE}"}, REST),
    Reply(206, {"Content-Range": f"bytes 4000-{LAST}"}, REST),
    Reply(206, {"Content-Range": f"bytes 4000-/{SIZE}"}, REST),
    Reply(206, {"Content-Range": f"bytes=4000-{LAST}/{SIZE}"}, REST),
    Reply(206, {"Content-Range": f"bytes 4000 - {LAST}/{SIZE}"}, REST),
    Reply(206, {"Content-Range": f"bytes +4000-{LAST}/{SIZE}"}, REST),
    Reply(206, {"Content-Range": f"bytes 0xfa0-{LAST}/{SIZE}"}, REST),
    Reply(206, {"Content-Range": f"items 4000-{LAST}/{SIZE}"}, REST),
    Reply(206, (("Content-Range", f"bytes 4000-{LAST}/{SIZE}"),) * 2, REST),
    Reply(206, {"Content-Type": "multipart/byteranges; boundary=x"}, b"--x\r\n"),
    wrong(3999, LAST, SIZE, DATA[3999:]),
    wrong(4001, LAST, SIZE, DATA[4001:]),
    wrong(0, LAST, SIZE, DATA),
    wrong(0, 3999, SIZE, DATA[:4000]),
    wrong(4000, LAST - 1, SIZE, REST[:-1]),
    wrong(4000, SIZE, SIZE, REST + b"x"),
    wrong(4000, SIZE, SIZE + 1, REST + b"x"),
    wrong(4000, LAST, SIZE + 1, REST),
    wrong(4000, LAST, SIZE - 1, REST),
    wrong(4000, LAST, "*", REST),
    wrong(LAST, 4000, SIZE, REST),
    wrong(4000, LAST, SIZE, REST[:-1]),
    wrong(4000, LAST, SIZE, REST + b"x"),
    wrong(4000, LAST, SIZE, REST, ETag='"other"'),
    wrong(4000, LAST, SIZE, REST, ETag='W/"one"'),
    wrong(4000, 10**18, 10**18, REST),
    Reply(416, {"Content-Range": f"bytes */{SIZE}"}),
]


@pytest.mark.parametrize("reply", WRONG, ids=range(len(WRONG)))
async def test_malformed_206(server: ScriptedServer, reply: Reply) -> None:
    """THREATS R16, T12: what is not exactly the rest of the same blob is never put to what is here."""
    # What is wrong in the head is wrong with right bytes and others: these must not be taken.
    other = Reply(reply.status, reply.headers, bytes(255 - byte for byte in reply.body))
    first = Reply(headers={"ETag": '"one"'}, body=DATA, faults=(Fault("cut", 4000),))
    server.on("GET", blob_path(), first, Reply(body=DATA), requires={"Range": None})
    server.on("GET", blob_path(), other)
    async with RegistryClient() as client:
        data, answers, repeated = await read(client, server, layer_of())

    assert data == DATA
    assert (answers, repeated) == (2, 4000)
    assert [r.header("Range") for r in server.requests] == [None, "bytes=4000-", None]


async def test_ranges_ignored(server: ScriptedServer) -> None:
    """THREATS R16: of a blob that is sent from its beginning again, what is here is passed over."""
    server.on("GET", blob_path(), Reply(body=DATA, faults=(Fault("cut", 4000),)), Reply(body=DATA))
    async with RegistryClient() as client:
        assert await read(client, server, layer_of()) == (DATA, 2, 4000)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("offset", [0, 5])
async def test_ranges_ignored_in_a_part(server: ScriptedServer, offset: int, place: int) -> None:
    """A part stays the part that it was opened as when the whole is sent to go on with it."""
    length = SIZE - 1000
    after = min(place, length)
    fault = Fault("cut", 20, "response") if after < 0 else Fault("cut", after)

    def first(request: Request) -> Reply:
        reply = ranged(request, DATA, {})
        return Reply(reply.status, reply.headers, reply.body, faults=(fault,))

    server.on("GET", blob_path(), first, Reply(body=DATA))
    async with (
        RegistryClient() as client,
        client.blob(image_at(server), layer_of(), offset=offset, length=length) as stream,
    ):
        opened = (stream.offset, stream.end)
        data = b"".join([chunk async for chunk in stream])

        assert (stream.offset, stream.end) == opened
        assert opened == ((offset, offset + length) if after >= 0 else (0, SIZE))
        assert data == DATA[slice(*opened)]


@pytest.mark.parametrize(("offset", "length"), [(0, 10), (100, 1), (SIZE - 5, 5), (0, SIZE), (7, SIZE - 7)])
async def test_a_part(server: ScriptedServer, offset: int, length: int) -> None:
    """Just the range that was asked for is given, also when it breaks off in the middle."""

    def answer(request: Request) -> Reply:
        reply = ranged(request, DATA, {})
        broken = (Fault("cut", length // 2),) if len(server.requests) == 1 else ()
        return Reply(reply.status, reply.headers, reply.body, faults=broken)

    server.on("GET", blob_path(), answer)
    async with (
        RegistryClient() as client,
        client.blob(image_at(server), layer_of(), offset=offset, length=length) as stream,
    ):
        assert (stream.offset, stream.end) == (offset, offset + length)
        assert b"".join([chunk async for chunk in stream]) == DATA[offset : offset + length]


@pytest.mark.parametrize("headers", [{}, {"Content-Range": f"bytes 5-{SIZE - 1}/{SIZE}"}])
async def test_no_part(server: ScriptedServer, headers: Mapping[str, str]) -> None:
    """A server that does not give the range gives the whole blob, and the stream tells so."""
    if headers:
        server.on("GET", blob_path(), Reply(206, headers, DATA[5:]), times=1)
    server.on("GET", blob_path(), Reply(body=DATA))
    async with (
        RegistryClient() as client,
        client.blob(image_at(server), layer_of(), offset=5, length=10) as stream,
    ):
        assert (stream.offset, stream.end) == (0, SIZE)
        assert b"".join([chunk async for chunk in stream]) == DATA


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, -1), (-1, 2), (5, SIZE - 4), (0, SIZE + 1)])
async def test_no_such_part(server: ScriptedServer, offset: int, length: int) -> None:
    """A range that is not within the layer is refused before a request."""
    async with RegistryClient() as client:
        with pytest.raises(InvalidSpec):
            async with client.blob(image_at(server), layer_of(), offset=offset, length=length):
                pass

    assert server.connections == 0


async def test_surplus_behind_a_resumed_body(server: ScriptedServer) -> None:
    """THREATS R14: bytes beyond the declared size end the blob, also where it went on, and are not given."""
    first = Reply(body=DATA, faults=(Fault("cut", 4000),))
    headers = {"Content-Range": f"bytes 4000-{LAST}/{SIZE}"}
    server.on("GET", blob_path(), first, Reply(206, headers, REST + b"x", framing="chunked"))
    got = bytearray()

    async def collect(client: RegistryClient) -> None:
        async with client.blob(image_at(server), layer_of()) as stream:
            async for chunk in stream:
                got.extend(chunk)

    async with RegistryClient() as client:
        with pytest.raises(SizeMismatch):
            await collect(client)

    assert DATA.startswith(got)


ATTACKS = {
    "response": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "garbage": b"\x00\xff" * 50,
    "one": b"x",
}


@pytest.mark.parametrize("extra", ATTACKS)
async def test_bytes_behind_an_answer(server: ScriptedServer, extra: str) -> None:
    """THREATS R19: what is sent behind an answer answers nothing; that connection is not used again."""
    server.on("GET", blob_path(), Reply(body=DATA, extra=ATTACKS[extra]), Reply(body=DATA))
    async with RegistryClient() as client:
        for _ in range(2):
            assert (await read(client, server, layer_of()))[0] == DATA

    assert server.connections == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200\rOK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;\n\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["two-lengths", "both", "cr", "plus", "chunk"],
)
async def test_ambiguous_framing(server: ScriptedServer, raw: bytes) -> None:
    """THREATS R19: an answer whose end can be read in two ways is dropped with its connection."""
    server.on("GET", blob_path(b"hello"), Reply(raw=raw), Reply(body=b"hello"))
    async with RegistryClient() as client:
        data, _, _ = await read(client, server, layer_of(b"hello"))
        assert data == b"hello"
        await read(client, server, layer_of(b"hello"))

    assert server.connections >= 2
    assert server.requests[1].connection != 1


async def test_random_cuts(server: ScriptedServer) -> None:
    """THREATS R14, T12: 30 connections that end anywhere, by FIN or RST, lose and repeat nothing."""
    data = os.urandom(12 << 20)
    chance = random.Random(7)
    sent = 0

    def answer(request: Request) -> Reply:
        nonlocal sent
        reply = ranged(request, data, {})
        if len(server.requests) > 30:
            sent += len(reply.body)
            return reply
        after = min(chance.randint(1, 800_000), len(reply.body))
        sent += after
        kind: Literal["cut", "reset"] = chance.choice(["cut", "reset"])
        return Reply(reply.status, reply.headers, reply.body, faults=(Fault(kind, after),))

    server.on("GET", blob_path(data), answer)
    async with RegistryClient() as client:
        got, _, repeated = await read(client, server, layer_of(data))

    assert got == data
    assert repeated == 0
    assert sent <= 1.05 * len(data)
