"""Layers that mirrors, or URLs of a manifest's, give, lack, or give wrong."""

from __future__ import annotations

import hashlib
import random
import shutil
from typing import TYPE_CHECKING

import anyio
import pytest

from aioruntime.assembly.fetch import FetchReport, fetch_layers
from aioruntime.demo.registry import LocalRegistry
from aioruntime.errors import DigestMismatch, NotFound, RegistryError, SizeMismatch
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress
from aioruntime.registry.client import RegistryClient
from tests.store.helpers import content, save
from tests.support.layouts import write_layout
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import make_image, ranged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from pathlib import Path

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.store.store import ImageStore

DATA, DIGEST = content(100_000)
WRONG = DATA[:-1] + bytes([DATA[-1] ^ 1])
LAYER = LayerSpec(DIGEST, len(DATA), "x")
PATH = f"/v2/org/tool/blobs/{DIGEST}"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """The registry of the image."""
    async with ScriptedServer() as running:
        yield running


@pytest.fixture
async def mirror() -> AsyncIterator[ScriptedServer]:
    """A mirror of it."""
    async with ScriptedServer() as running:
        yield running


class Shown(NoopProgress):
    """A reporter that keeps the figures."""

    def __init__(self) -> None:
        self.all: list[tuple[int | None, int | None]] = []
        self.layers: dict[str, tuple[int, int]] = {}

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        self.all.append((current, total))

    def layer(self, digest: str, current: int, total: int) -> None:
        self.layers[digest] = (current, total)


async def fetch(
    store: ImageStore,
    host: str,
    mirrors: Sequence[str],
    layers: Sequence[LayerSpec] = (LAYER,),
    *,
    name: str = "org/tool:1",
    shown: Shown | None = None,
) -> FetchReport:
    async with RegistryClient(mirrors={host: mirrors}) as client:
        return await fetch_layers(
            layers,
            image=OciRef.parse(f"{host}/{name}"),
            source=client,
            store=store,
            progress=shown or NoopProgress(),
            connections=anyio.CapacityLimiter(16),
        )


def in_store(store: ImageStore, digest: ImageDigest = DIGEST) -> bytes:
    return (store.path / "blobs" / digest.algorithm / digest.hex).read_bytes()


async def test_wrong_bytes(store: ImageStore, server: ScriptedServer, mirror: ScriptedServer) -> None:
    """THREATS R14: a mirror's wrong layer of the right size is thrown away and comes from the registry."""
    mirror.on("GET", PATH, Reply(body=WRONG))
    server.on("GET", PATH, Reply(body=DATA))
    shown = Shown()

    report = await fetch(store, server.origin, [mirror.origin], shown=shown)

    assert in_store(store) == DATA
    assert report.fetched == (DIGEST,)
    assert shown.all[-1] == (len(DATA), len(DATA))
    assert shown.layers == {DIGEST: (len(DATA), len(DATA))}
    assert (len(mirror.requests), len(server.requests)) == (1, 1)
    assert server.requests[0].header("Range") is None


async def test_wrong_everywhere(store: ImageStore, server: ScriptedServer, mirror: ScriptedServer) -> None:
    """THREATS R14: if nobody has the right bytes, each was asked once, and nothing is kept."""
    mirror.on("GET", PATH, Reply(body=WRONG))
    server.on("GET", PATH, Reply(body=WRONG))

    with pytest.raises(DigestMismatch, match=server.origin) as caught:
        await fetch(store, server.origin, [mirror.origin])

    assert any(mirror.origin in note for note in caught.value.__notes__)
    assert (len(mirror.requests), len(server.requests)) == (1, 1)
    assert not (store.path / "blobs/sha256" / DIGEST.hex).exists()
    assert list((store.path / "ingest").iterdir()) == []


async def test_wrong_layers_are_not_asked_for_again(
    store: ImageStore, server: ScriptedServer, mirror: ScriptedServer
) -> None:
    """A mirror that gave wrong bytes is asked for no further layer that the registry has."""
    mirror.on("GET", PATH, Reply(body=WRONG))
    server.on("GET", PATH, Reply(body=DATA))
    others = [content(1000, seed) for seed in range(2, 12)]
    for data, digest in others:
        server.on("GET", f"/v2/org/tool/blobs/{digest}", Reply(body=data))
    async with RegistryClient(mirrors={server.origin: [mirror.origin]}) as client:
        for data, digest in ((DATA, DIGEST), *others):
            await fetch_layers(
                [LayerSpec(digest, len(data), "x")],
                image=OciRef.parse(f"{server.origin}/org/tool"),
                source=client,
                store=store,
                progress=NoopProgress(),
                connections=anyio.CapacityLimiter(16),
            )

    assert len(mirror.requests) == 1


@pytest.mark.parametrize("at", [1, len(DATA) // 2, len(DATA) - 1])
async def test_cut(store: ImageStore, server: ScriptedServer, mirror: ScriptedServer, at: int) -> None:
    """What a mirror gave before it broke off is kept: the registry is asked for the rest."""
    mirror.on("GET", PATH, Reply(body=DATA, faults=(Fault("cut", at),)))
    server.on("GET", PATH, lambda request: ranged(request, DATA, {}))
    shown = Shown()

    report = await fetch(store, server.origin, [mirror.origin], shown=shown)

    assert in_store(store) == DATA
    assert server.requests[0].header("Range") == f"bytes={at}-"
    assert report.downloaded_bytes == len(DATA)
    assert shown.all[-1] == (len(DATA), len(DATA))


async def test_wrong_before_the_cut(
    store: ImageStore, server: ScriptedServer, mirror: ScriptedServer
) -> None:
    """THREATS R14: if the part that a mirror gave was wrong, the registry is asked for all of it."""
    mirror.on("GET", PATH, Reply(body=b"\0" * len(DATA), faults=(Fault("cut", 50_000),)))
    server.on("GET", PATH, lambda request: ranged(request, DATA, {}))
    shown = Shown()

    await fetch(store, server.origin, [mirror.origin], shown=shown)

    assert in_store(store) == DATA
    assert [request.header("Range") for request in server.requests] == ["bytes=50000-", None]
    assert shown.all[-1] == (len(DATA), len(DATA))


async def test_longer(store: ImageStore, server: ScriptedServer, mirror: ScriptedServer) -> None:
    """THREATS R14: a mirror's layer that goes on after its size is cut off, and comes from the registry."""
    mirror.on("GET", PATH, Reply(body=DATA + b"x", framing="chunked"))
    server.on("GET", PATH, lambda request: ranged(request, DATA, {}))

    await fetch(store, server.origin, [mirror.origin])

    assert in_store(store) == DATA


@pytest.mark.parametrize(
    "reply", [Reply(500), Reply(body=DATA[:-1]), Reply(body=DATA + b"x", framing="chunked")]
)
async def test_the_last_error(
    store: ImageStore, server: ScriptedServer, mirror: ScriptedServer, reply: Reply
) -> None:
    """What the registry does wrong at last is the error, with a note of the mirror."""
    mirror.on("GET", PATH, Reply(403))
    server.on("GET", PATH, reply)

    with pytest.raises((RegistryError, SizeMismatch), match=server.origin):
        await fetch(store, server.origin, [mirror.origin])


async def test_a_mirror_counts_for_the_repository(
    store: ImageStore, server: ScriptedServer, mirror: ScriptedServer
) -> None:
    """THREATS I3: what a mirror gives counts for that repository's images, not for all of the registry."""
    mirror.on("GET", PATH, Reply(body=DATA))
    await fetch(store, server.origin, [mirror.origin])
    await fetch(store, server.origin, [mirror.origin], name="org/tool:2")
    assert len(mirror.requests) == 1

    other = f"/v2/org/other/blobs/{DIGEST}"
    for each in (server, mirror):
        each.on("*", other, Reply(404))
    with pytest.raises(NotFound, match="counts only for images"):
        await fetch(store, server.origin, [mirror.origin], name="org/other:1")


def foreign(*urls: str) -> LayerSpec:
    return LayerSpec(DIGEST, len(DATA), "x", urls=urls)


async def test_a_foreign_layer(store: ImageStore, server: ScriptedServer, mirror: ScriptedServer) -> None:
    """THREATS R6: a layer that the registry has not comes from the first URL that has it, hash checked."""
    server.on("GET", PATH, Reply(404))
    mirror.on("GET", "/gone", Reply(404))
    mirror.on("GET", "/wrong", Reply(body=WRONG))
    mirror.on("GET", "/right", Reply(body=DATA))
    urls = [f"{mirror.url}/{path}" for path in ("gone", "wrong", "right")]

    await fetch(store, server.origin, [], [foreign("http://10.0.0.1/x", "ftp://x", *urls)])

    assert in_store(store) == DATA
    assert [request.path for request in mirror.requests][:2] == ["/gone", "/wrong"]
    assert mirror.requests[-1].path == "/right"


async def test_foreign_layers_that_are_in_the_store(
    store: ImageStore, server: ScriptedServer, mirror: ScriptedServer
) -> None:
    """THREATS I3, R6: that a URL answers is no proof that it has a layer; only the layer's bytes are."""
    await save(store, DATA, DIGEST)
    server.on("*", PATH, Reply(404))
    mirror.on("GET", "/yes", Reply(body=WRONG))
    mirror.on("GET", "/right", Reply(body=DATA))

    with pytest.raises(NotFound, match="counts only for images"):
        await fetch(store, server.origin, [], [foreign(f"{mirror.url}/yes")])
    report = await fetch(store, server.origin, [], [foreign(f"{mirror.url}/right")])
    again = await fetch(store, server.origin, [], [foreign(f"{mirror.url}/right")])

    assert report.fetched == again.fetched == ()
    assert [request.path for request in mirror.requests] == ["/yes", "/right"]


async def test_a_foreign_layer_is_not_public(
    store: ImageStore, server: ScriptedServer, mirror: ScriptedServer
) -> None:
    """THREATS I3, R6: a layer from a URL counts for the repository that named it, and for no other."""
    server.on("*", PATH, Reply(404))
    mirror.on("GET", "/right", Reply(body=DATA))
    await fetch(store, server.origin, [], [foreign(f"{mirror.url}/right")])

    server.on("*", f"/v2/org/other/blobs/{DIGEST}", Reply(404))
    with pytest.raises(NotFound, match="counts only for images"):
        await fetch(store, server.origin, [], name="org/other:1")


needs_registry = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs Debian's docker-registry and skopeo",
)


def forget(storage: Path, digests: Iterable[str]) -> None:
    """Remove blobs from a registry's storage."""
    for digest in digests:
        hexed = digest.removeprefix("sha256:")
        shutil.rmtree(storage / "docker/registry/v2/blobs/sha256" / hexed[:2] / hexed)


@needs_registry
@pytest.mark.parametrize("lacks_config", [False, True])
async def test_a_real_mirror_that_lacks_half(store: ImageStore, tmp_path: Path, lacks_config: bool) -> None:
    """Of an image of 20 layers, a mirror with 10 gives these; the registry is asked for the others alone."""
    layers = [random.Random(seed).randbytes(50_000) for seed in range(20)]
    write_layout(tmp_path / "layout", make_image("org/tool", "1", layers))
    async with LocalRegistry(tmp_path / "own") as own:
        image = OciRef.parse(await own.push(tmp_path / "layout", "tool", "org/tool:1"))
        pushed = len(await own.settle())
        shutil.copytree(tmp_path / "own", tmp_path / "copy")
        lacking = {f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers[::2]}
        async with RegistryClient() as client:
            config = (await client.resolve(image)).manifest.config.digest
        pushed += 2
        forget(tmp_path / "copy", lacking | ({config} if lacks_config else set()))
        async with LocalRegistry(tmp_path / "copy") as mirror:
            async with RegistryClient(mirrors={own.host: [mirror.host]}) as client:
                found = await client.resolve(image)
                await fetch_layers(
                    found.layers,
                    image=image,
                    source=client,
                    store=store,
                    progress=NoopProgress(),
                    connections=anyio.CapacityLimiter(16),
                )
            at_mirror, at_own = await mirror.settle(), (await own.settle())[pushed:]

    for layer, spec in zip(layers, found.layers, strict=True):
        assert in_store(store, spec.digest) == layer
    base = "/v2/org/tool"
    wanted = {f"{base}/blobs/{digest}" for digest in (*(layer.digest for layer in found.layers), config)}
    absent = {f"{base}/blobs/{digest}" for digest in (*lacking, *((config,) if lacks_config else ()))}
    assert sorted((request.method, request.path) for request in at_mirror) == sorted(
        ("GET", path) for path in (f"{base}/manifests/1", *wanted)
    )
    assert {request.path for request in at_mirror if request.status == 404} == absent
    assert sorted(request.path for request in at_own) == sorted(absent)
    assert {request.status for request in at_own} == {200}
