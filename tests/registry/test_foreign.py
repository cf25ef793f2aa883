"""Layers by the URLs that a manifest names: asked last, anonymously, and only where requests may go."""

from __future__ import annotations

import json
import re

import pytest

from aioruntime.errors import NotFound, RequestRefused
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import Credentials, Secret
from tests.registry.helpers import DATA, blob_path, image_at, serve_manifest
from tests.support.scripted import Reply, ScriptedServer
from tests.support.served_image import LAYER, MANIFEST, digest_of, make_image, serve_image


class OneKey:
    """Has credentials for whoever asks."""

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        return Credentials("me", Secret("word"))


BASIC = Credentials("me", Secret("word")).basic().reveal()


def foreign(*urls: str) -> LayerSpec:
    return LayerSpec(digest_of(DATA), len(DATA), LAYER, urls=urls)


async def read(image: OciRef, layer: LayerSpec) -> bytes:
    async with RegistryClient(keychain=OneKey()) as client, client.blob(image, layer) as stream:
        assert not stream.public
        return b"".join([chunk async for chunk in stream])


async def test_urls_of_a_manifest(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R6: a manifest's URLs are kept, asked after the registry, and sent no credentials."""
    contents = make_image("org/tool", "1", (DATA,))
    del contents[blob_path()]
    document = json.loads(contents.pop("/v2/org/tool/manifests/1"))
    document["layers"][0] |= {"urls": [f"{other.url}/a", f"{server.url}/b"]}
    serve_manifest(server, "1", json.dumps(document).encode(), MANIFEST)
    serve_image(server, contents)
    server.on("GET", blob_path(), Reply(404), requires={"Authorization": BASIC})
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    # Whoever wants credentials for it does not get them.
    other.on("GET", "/a", Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    server.on("GET", "/b", Reply(body=DATA))
    async with RegistryClient(keychain=OneKey()) as client:
        (layer,) = (await client.resolve(image_at(server))).layers
    assert layer.urls == (f"{other.url}/a", f"{server.url}/b")
    assert layer.blob_url is None

    assert await read(image_at(server), layer) == DATA

    assert [(r.path, r.header("Authorization")) for r in server.requests[-3:]] == [
        (blob_path(), None),
        (blob_path(), BASIC),
        ("/b", None),
    ]
    assert [(r.path, r.header("Authorization")) for r in other.requests] == [("/a", None)]


async def test_the_registry_has_it(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R6: what the registry has is not fetched from elsewhere."""
    server.on("GET", blob_path(), Reply(body=DATA))
    async with (
        RegistryClient() as client,
        client.blob(image_at(server), foreign(f"{other.url}/a")) as stream,
    ):
        assert b"".join([chunk async for chunk in stream]) == DATA

    assert other.requests == []


@pytest.mark.usefixtures("example_names")
@pytest.mark.parametrize(
    "url",
    [
        "http://files.example:PORT/a",
        "https://127.0.0.1:PORT/a",
        "https://[::ffff:127.0.0.1]:PORT/a",
        "https://2130706433:PORT/a",
        "https://10.0.0.1:PORT/a",
        "https://169.254.169.254/latest",
        "https://metadata.google.internal/x",
        "https://localhost:PORT/a",
        "https://user:word@files.example:PORT/a",
        "file:///etc/passwd",
        "/a",
        "",
        "https://files.example:PORT/\r\nX: y",
    ],
)
async def test_where_no_request_may_go(other: ScriptedServer, server: ScriptedServer, url: str) -> None:
    """THREATS R6: a URL without TLS, at an internal address or malformed is refused before a request."""
    name = f"registry.example:{server.port}"
    server.on("GET", blob_path(), Reply(404))
    layer = foreign(url.replace("PORT", str(other.port)))
    async with RegistryClient(plain_http=[name]) as client:
        with pytest.raises(RequestRefused, match="URL of layer"):
            async with client.blob(OciRef.parse(f"{name}/org/tool"), layer):
                pass

    assert other.connections == 0


async def test_where_a_url_leads(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R6: each redirect of a URL is checked as the URL itself."""
    server.on("GET", blob_path(), Reply(404))
    other.on("GET", "/a", Reply(302, {"Location": "http://10.0.0.1/a"}))
    async with RegistryClient() as client:
        with pytest.raises(RequestRefused, match="redirect to 10"):
            async with client.blob(image_at(server), foreign(f"{other.url}/a")):
                pass


async def test_a_manifest_of_many_urls(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R6: of a hundred thousand URLs a few are tried."""
    server.on("GET", blob_path(), Reply(404))
    other.on("GET", re.compile("/.*"), Reply(404))
    layer = foreign(*(f"{other.url}/{number}" for number in range(100_000)))
    async with RegistryClient() as client:
        with pytest.raises(NotFound) as caught:
            async with client.blob(image_at(server), layer):
                pass

    assert len(other.requests) == 8
    assert len("".join(caught.value.__notes__)) < 5000


async def test_a_longer_body(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R6: a URL that declares another size is passed over."""
    server.on("GET", blob_path(), Reply(404))
    other.on("GET", "/long", Reply(body=DATA + b"x"))
    other.on("GET", "/right", Reply(body=DATA))

    assert await read(image_at(server), foreign(f"{other.url}/long", f"{other.url}/right")) == DATA
