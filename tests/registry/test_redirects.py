"""Redirects: where they may lead, and what goes along."""

from __future__ import annotations

import traceback

import pytest

from aioruntime.errors import NotFound, RegistryError, RequestRefused, Unauthorized
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import DATA, blob_path, image_at, layer_of, read_blob
from tests.support.scripted import Reply, ScriptedServer

BEARER = "Bearer the-token"


def needs_token(server: ScriptedServer, reply: Reply) -> None:
    """Let the blob want a token, and then give *reply*."""
    challenge = f'Bearer realm="{server.url}/token",service="s",scope="repository:org/tool:pull"'
    server.on("GET", "/token", Reply(body=b'{"token": "the-token"}'))
    server.on(
        "GET", blob_path(), Reply(401, {"WWW-Authenticate": challenge}), requires={"Authorization": None}
    )
    server.on("GET", blob_path(), reply, requires={"Authorization": BEARER})


async def test_within_the_origin(server: ScriptedServer) -> None:
    """A redirect within the registry keeps the token."""
    needs_token(server, Reply(307, {"Location": "/elsewhere?x=%2f"}))
    moved = server.on("GET", "/elsewhere", Reply(body=DATA))

    assert await read_blob(server, layer_of()) == (0, DATA)
    assert [(hit.target, hit.header("Authorization")) for hit in moved.hits] == [("/elsewhere?x=%2f", BEARER)]


async def test_to_another_port(server: ScriptedServer, other: ScriptedServer) -> None:
    """R3: another port is another origin: the token stays behind, the range goes along, the host is named."""
    needs_token(server, Reply(307, {"Location": f"{other.url}/blob?X-Sig=%41%2b"}))
    part = Reply(206, {"Content-Range": f"bytes 9-{len(DATA) - 1}/{len(DATA)}"}, DATA[9:])
    moved = other.on("GET", "/blob", part)
    async with (
        RegistryClient() as client,
        client.blob(image_at(server), layer_of(), offset=9) as stream,
    ):
        assert (stream.host, stream.offset) == (other.origin, 9)
        assert b"".join([chunk async for chunk in stream]) == DATA[9:]

    (hit,) = moved.hits
    assert hit.target == "/blob?X-Sig=%41%2b"
    assert hit.header("Range") == "bytes=9-"
    for name in ("Authorization", "Cookie", "Proxy-Authorization", "Referer"):
        assert hit.header(name) is None


async def test_there_and_back(server: ScriptedServer, other: ScriptedServer) -> None:
    """R3: a token that was dropped on the way is not sent again when the way leads back."""
    needs_token(server, Reply(307, {"Location": f"{other.url}/a"}))
    other.on("GET", "/a", Reply(302, {"Location": f"{server.url}/back"}))
    back = server.on("GET", "/back", Reply(body=DATA))

    assert await read_blob(server, layer_of()) == (0, DATA)
    assert back.hits[0].header("Authorization") is None


async def test_challenge_of_another_host(server: ScriptedServer, other: ScriptedServer) -> None:
    """R4: a challenge from where a redirect led is not answered: no token server of its choice is asked."""
    server.on("GET", blob_path(), Reply(307, {"Location": f"{other.url}/a"}))
    challenge = f'Bearer realm="{other.url}/token"'
    other.on("GET", "/a", Reply(401, {"WWW-Authenticate": challenge}))

    with pytest.raises(Unauthorized) as caught:
        await read_blob(server, layer_of())

    assert other.origin in str(caught.value)
    assert len(other.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_ten_hops(server: ScriptedServer, status: int) -> None:
    """Ten redirects are followed, whatever their kind."""
    server.on("GET", blob_path(), Reply(status, {"Location": "/1"}))
    for hop in range(1, 10):
        server.on("GET", f"/{hop}", Reply(status, {"Location": f"/{hop + 1}"}))
    server.on("GET", "/10", Reply(body=DATA))

    assert await read_blob(server, layer_of()) == (0, DATA)


async def test_loop(server: ScriptedServer) -> None:
    """R5: a redirect to itself ends after ten hops."""
    server.on("GET", blob_path(), Reply(307, {"Location": blob_path()}))

    with pytest.raises(RequestRefused, match="more than 10"):
        await read_blob(server, layer_of())

    assert len(server.requests) == 11


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://user:pw@127.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/x",
        "http://registry.example/x",
        "http://",
        "http://127.0.0.1:0/x",
        "/caf\u00e9",
        "/a b",
    ],
)
async def test_refused(server: ScriptedServer, location: str) -> None:
    """R5: a redirect to where no request may go is refused, and nothing more is sent."""
    server.on("GET", blob_path(), Reply(307, {"Location": location}))

    with pytest.raises(RequestRefused) as caught:
        await read_blob(server, layer_of())

    assert len(server.requests) == 1
    assert "pw" not in str(caught.value)


async def test_without_location(server: ScriptedServer) -> None:
    """A redirect that leads nowhere is an error like any other."""
    server.on("GET", blob_path(), Reply(307))

    with pytest.raises(RegistryError, match="307"):
        await read_blob(server, layer_of())


async def test_signature_is_not_shown(server: ScriptedServer, other: ScriptedServer) -> None:
    """C10: what fails behind a signed URL is told without its query, in the whole chain of errors."""
    server.on("GET", blob_path(), Reply(307, {"Location": f"{other.url}/a?X-Sig=canary"}))
    other.on("GET", "/a", Reply(404), Reply(raw=b"HTTP/1.1 200 OK\r\nX\r\n\r\n"), Reply(500))
    for kind in (NotFound, RegistryError, RegistryError):
        with pytest.raises(kind) as caught:
            await read_blob(server, layer_of())
        assert "canary" not in "".join(traceback.format_exception(caught.value))
        assert other.origin in str(caught.value)


@pytest.mark.usefixtures("example_names")
async def test_no_plain_http_off_loopback(server: ScriptedServer) -> None:
    """A registry elsewhere is spoken to with TLS only; it gets no request, and plain_http= is told of."""
    image = OciRef.parse(f"registry.example:{server.port}/org/tool:1")
    async with RegistryClient(connect_timeout=0.3) as client:
        with pytest.raises(RegistryError, match="plain_http=") as caught:
            await client.resolve(image)

    assert image.registry in str(caught.value)
    assert caught.value.status is None
    assert server.requests == []


@pytest.mark.usefixtures("example_names")
@pytest.mark.parametrize("named", ["registry.example", "registry.example:{port}"])
async def test_plain_http_as_told(server: ScriptedServer, named: str) -> None:
    """A registry that the user names may be spoken to without TLS; a redirect to another may not."""
    server.on("GET", blob_path(), Reply(body=DATA), Reply(307, {"Location": "http://cdn.example/x"}))
    image = OciRef.parse(f"registry.example:{server.port}/org/tool:1")
    async with RegistryClient(plain_http=[named.format(port=server.port)]) as client:
        async with client.blob(image, layer_of()) as stream:
            assert b"".join([chunk async for chunk in stream]) == DATA
        with pytest.raises(RequestRefused, match=r"cdn\.example"):
            async with client.blob(image, layer_of()):
                pass
