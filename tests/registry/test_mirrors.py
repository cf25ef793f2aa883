"""Mirrors: asked first, left for the next on any failure, and never given what is for another host."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import (
    InvalidConfiguration,
    InvalidManifest,
    NotFound,
    RegistryError,
    RequestRefused,
)
from aioruntime.oci import media_types
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import Credentials, Secret
from tests.registry.helpers import DATA, blob_path, image_at, layer_of
from tests.registry.test_push_real import push
from tests.registry.uploads import Image, Taker
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import digest_of, make_image, serve_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


CONTENTS = make_image("org/tool", "1", (DATA,))
MANIFEST = CONTENTS["/v2/org/tool/manifests/1"]
OCI = media_types.OCI_MANIFEST
PIN = digest_of(MANIFEST)
CONFIG = next(data for path, data in CONTENTS.items() if "/blobs/" in path)


@pytest.fixture
async def mirror() -> AsyncIterator[ScriptedServer]:
    """A mirror of `server`, on another port."""
    async with ScriptedServer() as running:
        yield running


def client_of(server: ScriptedServer, *mirrors: str, **more: object) -> RegistryClient:
    return RegistryClient(mirrors={server.origin: mirrors}, **more)  # type: ignore[arg-type]


async def read(client: RegistryClient, image: OciRef) -> bytes:
    async with client.blob(image, layer_of()) as stream:
        return b"".join([chunk async for chunk in stream])


def paths(server: ScriptedServer) -> list[str]:
    return [request.path for request in server.requests]


async def test_the_mirror_alone(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """What a mirror has is not asked of the registry, and the image keeps its own name."""
    serve_image(mirror, make_image("deep/org/tool", "1", (DATA,)))
    async with client_of(server, f"{mirror.origin}/deep") as client:
        found = await client.resolve(image_at(server))
        assert await read(client, found.reference) == DATA

    assert (found.digest, found.reference) == (PIN, image_at(server))
    assert server.requests == []
    assert len(mirror.requests) == 3


FAILURES = {
    "404": Reply(404),
    "401": Reply(401),
    "403": Reply(403, body=b'{"errors": [{"code": "DENIED"}]}'),
    "500": Reply(500),
    "503": Reply(503),
    "redirected to another network": Reply(302, {"Location": "http://10.0.0.1/"}),
    "cut": Reply(body=MANIFEST, headers={"Content-Type": OCI}, faults=(Fault("cut", 20),)),
    "reset": Reply(faults=(Fault("reset", 0, "response"),)),
    "no HTTP": Reply(raw=b"hello\r\n\r\n"),
    "wrong bytes": Reply(body=MANIFEST[:-1] + b" ", headers={"Content-Type": OCI}),
    "longer": Reply(body=MANIFEST + b" ", headers={"Content-Type": OCI}),
    "endless": Reply(body=b"x" * (5 << 20)),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_document_from_elsewhere(
    server: ScriptedServer, mirror: ScriptedServer, failure: Reply
) -> None:
    """Whatever a mirror does wrong, the document comes from the next place."""
    mirror.on("GET", f"/v2/org/tool/manifests/{PIN}", failure)
    mirror.on("GET", blob_path(CONFIG), failure)
    serve_image(server, CONTENTS)
    async with client_of(server, mirror.origin) as client:
        found = await client.resolve(image_at(server, f"org/tool@{PIN}"))

    assert (found.raw_manifest, found.raw_config) == (MANIFEST, CONFIG)
    assert paths(server)[-1] == blob_path(CONFIG)


NO_DOCUMENTS = {
    "a page to log in": Reply(body=b"<html>Welcome</html>", headers={"Content-Type": "text/html"}),
    "nothing": Reply(),
    "another document": Reply(body=b'{"status": "ok"}', headers={"Content-Type": "application/json"}),
    "served as another type": Reply(body=MANIFEST, headers={"Content-Type": "text/html"}),
}


@pytest.mark.parametrize("reply", NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
async def test_a_tag_that_a_mirror_gives_no_manifest_for(
    server: ScriptedServer, mirror: ScriptedServer, reply: Reply
) -> None:
    """No digest tells that it is wrong, but it is no manifest: the registry's own is taken."""
    mirror.on("GET", "/v2/org/tool/manifests/1", reply)
    serve_image(server, CONTENTS)
    async with client_of(server, mirror.origin) as client:
        assert (await client.resolve(image_at(server))).digest == PIN

    assert len(mirror.requests) == 1


@pytest.mark.parametrize("reply", NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
async def test_no_manifest_for_a_tag_anywhere(
    server: ScriptedServer, mirror: ScriptedServer, reply: Reply
) -> None:
    """What the registry itself said is told, and that a mirror gave something else than a manifest."""
    mirror.on("GET", "/v2/org/tool/manifests/1", reply)
    server.on("GET", "/v2/org/tool/manifests/1", Reply(404), reply)
    async with client_of(server, mirror.origin) as client:
        with pytest.raises(NotFound) as caught:
            await client.resolve(image_at(server))
        with pytest.raises(InvalidManifest, match=rf"^{image_at(server)}: "):
            await client.resolve(image_at(server))

    assert f"(of {mirror.origin})" in caught.value.__notes__[0]


async def test_the_registrys_error_comes_out(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """If nobody has it, the registry's own error is raised, with one line of what the mirrors said."""
    mirror.on("GET", "/v2/org/tool/manifests/1", Reply(503, body=b'{"errors": [{"code": "\\u001b[31m\\n"}]}'))
    server.on("GET", "/v2/org/tool/manifests/1", Reply(404))
    async with client_of(server, mirror.origin) as client:
        for _ in range(2):  # the second time, the mirror is asked last
            with pytest.raises(NotFound, match=f"not found at {server.origin}") as caught:
                await client.resolve(image_at(server))

            (note,) = caught.value.__notes__
            assert note.startswith("also asked: ")
            assert f"{mirror.origin} answered 503" in note
            assert note.isprintable()


async def test_a_mirror_that_fails_is_asked_last(
    server: ScriptedServer, mirror: ScriptedServer, free_port: int
) -> None:
    """After one failure a mirror is asked after the others, so that it does not hold up each layer."""
    stalled = Fault("stall", 0, "response")
    mirror.on("GET", "/v2/org/tool/manifests/1", Reply(faults=(stalled,)))
    serve_image(server, CONTENTS)
    nobody = f"127.0.0.1:{free_port}"
    async with client_of(server, nobody, mirror.origin, stall_timeout=0.5) as client:
        found = await client.resolve(image_at(server))
        for _ in range(20):
            assert await read(client, found.reference) == DATA

    assert paths(mirror) == ["/v2/org/tool/manifests/1"]
    stalled.release.set()


async def test_a_mirror_that_lacks_one_is_asked_for_the_next(
    server: ScriptedServer, mirror: ScriptedServer
) -> None:
    """That a mirror has not one thing tells nothing of the others."""
    mirror.on("GET", "/v2/org/tool/manifests/1", Reply(404))
    mirror.on("GET", blob_path(CONFIG), Reply(404))
    mirror.on("GET", blob_path(), Reply(body=DATA))
    serve_image(server, CONTENTS)
    async with client_of(server, mirror.origin) as client:
        found = await client.resolve(image_at(server))
        assert await read(client, found.reference) == DATA

    assert blob_path() not in paths(server)


async def test_a_mirror_that_failed_is_still_asked(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """Where the registry itself has failed since, the mirror gets another chance."""
    mirror.on("GET", blob_path(), Reply(500), Reply(body=DATA))
    server.on("GET", blob_path(), Reply(body=DATA), Reply(500))
    async with client_of(server, mirror.origin) as client:
        assert await read(client, image_at(server)) == DATA
        assert await read(client, image_at(server)) == DATA

    assert (len(mirror.requests), len(server.requests)) == (2, 2)


class KeyForEach:
    """Has credentials of its own for each repository at each host, and notes for whom it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        self.asked.append((host, repository))
        return Credentials(f"user of {host}", Secret(f"secret of {host}"))

    def basic(self, server: ScriptedServer) -> str:
        """What the server is to be sent."""
        pair = Credentials(f"user of {server.origin}", Secret(f"secret of {server.origin}"))
        return pair.basic().reveal()


def authorizations(server: ScriptedServer) -> set[str]:
    return {value for request in server.requests if (value := request.header("Authorization"))}


async def test_credentials_stay_with_their_host(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """THREATS C6: each host gets the credentials that are looked up under its own name, and no others."""
    keychain = KeyForEach()
    at_mirror = {path: data for path, data in CONTENTS.items() if "/manifests/" in path}
    for each, contents in ((mirror, at_mirror), (server, CONTENTS)):
        for path, data in contents.items():
            reply = Reply(body=data, headers={"Content-Type": OCI})
            each.on("GET", path, reply, requires={"Authorization": keychain.basic(each)})
        challenge = Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
        each.on("GET", re.compile(".*"), challenge, requires={"Authorization": None})
        each.on("GET", re.compile(".*"), Reply(404))
    async with client_of(server, mirror.origin, keychain=keychain) as client:
        found = await client.resolve(image_at(server))
        assert await read(client, found.reference) == DATA

    for each in (server, mirror):
        assert authorizations(each) == {keychain.basic(each)}
    assert set(keychain.asked) == {(server.origin, "org/tool"), (mirror.origin, "org/tool")}


async def test_tokens_stay_with_their_host(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """THREATS C6: a token that one host's token server gave is not sent to another of the same name."""
    for each in (server, mirror):
        token = f"token-of-{each.port}"
        realm = f'Bearer realm="{each.url}/token",service="same",scope="repository:org/tool:pull"'
        each.on("GET", "/token", Reply(body=f'{{"token": "{token}"}}'.encode()))
        refuse = Reply(401, {"WWW-Authenticate": realm})
        good = {"Authorization": f"Bearer {token}"}
        if each is server:
            each.on("GET", blob_path(), Reply(body=DATA), requires=good)
        else:
            each.on("GET", blob_path(), Reply(404), requires=good)
        each.on("GET", blob_path(), refuse)
    async with client_of(server, mirror.origin) as client:
        assert await read(client, image_at(server)) == DATA

    for each in (server, mirror):
        assert authorizations(each) == {f"Bearer token-of-{each.port}"}


async def test_a_tag_from_a_mirror_pins_the_rest(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """THREATS R21: what a mirror says of a tag holds for the whole pull, also for what the registry gives."""
    newer = make_image("org/tool", "1", (DATA[::-1],))
    serve_image(server, {**newer, **{p: d for p, d in CONTENTS.items() if "/blobs/" in p}})
    mirror.on("GET", "/v2/org/tool/manifests/1", Reply(body=MANIFEST, headers={"Content-Type": OCI}))
    mirror.on("GET", blob_path(CONFIG), Reply(404))
    async with client_of(server, mirror.origin) as client:
        found = await client.resolve(image_at(server))

    assert (found.digest, found.raw_config) == (PIN, CONFIG)
    assert paths(server) == [blob_path(CONFIG)]


async def test_digests_only(
    server: ScriptedServer, mirror: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest-only mirror of `registries.conf` is not asked what a tag names, but for all that it led to."""
    conf = tmp_path / "registries.conf"
    conf.write_text(
        f"[[registry]]\nlocation = '{server.origin}'\nmirror-by-digest-only = true\n"
        f"[[registry.mirror]]\nlocation = '{mirror.origin}'\n"
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    serve_image(server, CONTENTS)
    serve_image(mirror, CONTENTS)
    async with RegistryClient() as client:
        found = await client.resolve(image_at(server))
        assert await read(client, found.reference) == DATA

    assert paths(server) == ["/v2/org/tool/manifests/1"]
    assert paths(mirror) == [blob_path(CONFIG), blob_path()]


async def test_none_in_code(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors given in code, even none, keep `registries.conf` from being read; else it has to be right."""
    conf = tmp_path / "registries.conf"
    conf.write_text("[[registry]")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    serve_image(server, CONTENTS)
    async with RegistryClient(mirrors={}) as client:
        assert (await client.resolve(image_at(server))).digest == PIN
    async with RegistryClient() as client:
        with pytest.raises(InvalidConfiguration, match=r"registries\.conf"):
            await client.resolve(image_at(server))


async def test_blocked(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocked image is asked for nowhere."""
    conf = tmp_path / "registries.conf"
    conf.write_text(f"[[registry]]\nlocation = '{server.origin}/org'\nblocked = true\n")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    async with RegistryClient() as client:
        with pytest.raises(RequestRefused, match="blocked"):
            await client.resolve(image_at(server))
        with pytest.raises(RequestRefused, match="blocked"):
            await read(client, image_at(server))
        with pytest.raises(RequestRefused, match="blocked"):
            await client.has_blob(image_at(server), layer_of())
        with pytest.raises(RequestRefused, match="blocked"):
            await push(client, Image(), str(image_at(server)))
        with pytest.raises(RequestRefused, match="blocked"):
            await anext(client.tags(image_at(server)))

    assert server.connections == 0


@pytest.mark.usefixtures("example_names")
async def test_insecure(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that `registries.conf` calls insecure is asked without TLS if it speaks none; others not."""
    name = f"registry.example:{server.port}"
    conf = tmp_path / "registries.conf"
    conf.write_text(f"[[registry]]\nlocation = '{name}'\ninsecure = true\n")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    absolute = Reply(307, {"Location": f"http://{name}/v2/org/tool/manifests/moved"})
    server.on("GET", "/v2/org/tool/manifests/1", absolute)
    serve_image(server, {p.replace("manifests/1", "manifests/moved"): d for p, d in CONTENTS.items()})
    async with RegistryClient() as client:
        assert (await client.resolve(OciRef.parse(f"{name}/org/tool:1"))).digest == PIN
        with pytest.raises(RegistryError, match="plain_http"):
            await client.resolve(OciRef.parse(f"other.example:{server.port}/org/tool:1"))

        taker, image = Taker(server), Image()
        server.on("GET", "/v2/org/tool/tags/list", Reply(body=b'{"tags": ["1"]}'))
        assert [tag async for tag in client.tags(OciRef.parse(f"{name}/org/tool"))] == ["1"]
        await push(client, image, f"{name}/org/tool:2")
        assert taker.manifests


@pytest.mark.parametrize("mirrored", [True, False])
async def test_public_is_the_registrys_word(
    server: ScriptedServer, mirror: ScriptedServer, mirrored: bool
) -> None:
    """THREATS I3: what a mirror gives without credentials need not be given to anybody by the registry."""
    (mirror if mirrored else server).on("GET", blob_path(), Reply(body=DATA))
    if not mirrored:
        mirror.on("GET", blob_path(), Reply(404))
    async with (
        client_of(server, mirror.origin) as client,
        client.blob(image_at(server), layer_of()) as stream,
    ):
        assert stream.public is not mirrored


@pytest.mark.parametrize(
    ("at_mirror", "at_registry", "expected"),
    [
        (Reply(), None, True),
        (Reply(404), Reply(), True),
        (Reply(500), Reply(), True),
        (Reply(403), Reply(404), False),
        (Reply(404), Reply(401), False),
        (Reply(faults=(Fault("reset", 0, "response"),)), Reply(405), False),
    ],
)
async def test_has_blob(
    server: ScriptedServer,
    mirror: ScriptedServer,
    at_mirror: Reply,
    at_registry: Reply | None,
    expected: bool,
) -> None:
    """A blob is there if the mirror or the registry says so."""
    mirror.on("HEAD", blob_path(), at_mirror)
    if at_registry is not None:
        server.on("HEAD", blob_path(), at_registry)
    async with client_of(server, mirror.origin) as client:
        assert await client.has_blob(image_at(server), layer_of()) is expected


async def test_nobody_can_be_asked(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """If the registry can't be asked, that is an error, though a mirror says no."""
    mirror.on("HEAD", blob_path(), Reply(404))
    server.on("HEAD", blob_path(), Reply(faults=(Fault("reset", 0, "response"),)))
    async with client_of(server, mirror.origin) as client:
        with pytest.raises(RegistryError):
            await client.has_blob(image_at(server), layer_of())


async def test_a_longer_blob(server: ScriptedServer, mirror: ScriptedServer) -> None:
    """A mirror that declares more bytes than the layer has is passed over before a byte is taken."""
    mirror.on("GET", blob_path(), Reply(body=DATA + b"x"))
    server.on("GET", blob_path(), Reply(body=DATA))
    async with client_of(server, mirror.origin) as client:
        assert await read(client, image_at(server)) == DATA
