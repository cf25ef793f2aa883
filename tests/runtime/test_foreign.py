"""Layers of images that an engine got from others are not sent again, and not given to who claims them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.assembly import load
from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.plan import HeldImage
from tests.support.proxy import UnixProxy
from tests.support.said import Said
from tests.support.scripted import ScriptedServer
from tests.support.served_image import digest_of, make_image, serve_image
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


@pytest.fixture
async def elsewhere(engine: Engine, tmp_path: Path) -> AsyncIterator[EngineRuntime]:
    """A runtime of somebody else on the same engine, with a store of its own."""
    async with ar.connect(engine.url, store=tmp_path / "elsewhere") as connected:
        yield connected


def asked(proxy: UnixProxy, what: str) -> int:
    """Count the requests that passed and name *what*."""
    return sum(what in request for connection in proxy.connections for request in connection.requests)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_layers_the_engine_pulled_are_not_sent(
    runtime: EngineRuntime,
    elsewhere: EngineRuntime,
    engine: Engine,
    registry: LocalRegistry,
    tmp_path: Path,
    compression: str,
) -> None:
    """Samtools pulled by the engine itself, bcftools wanted: little more than the one new layer is sent.

    A graph driver knows the layers by what they hold, however they are compressed; other stores have those
    whose digests are in a manifest that our store has too.
    """
    graph = runtime._client.capabilities.sparse == "prefix"
    samtools = f"{registry.host}/samtools:{'gzip' if graph else compression}"
    await elsewhere.pull(samtools, via="engine")
    held = await elsewhere.inspect(samtools)
    if not graph:
        await keep_image(runtime.store, await runtime.resolve(samtools))
    bcftools = await runtime.resolve(f"{registry.host}/bcftools:{compression}")
    kind = type(runtime)

    async with UnixProxy(tmp_path / "s", engine.socket) as proxy:
        async with kind(proxy.url, store=runtime.store) as counted:
            said = Said()
            await counted.pull(bcftools.reference, said)
            # Who takes any layer alone comes for it to a socket of ours.
            sent = proxy.up if graph else said.sent_bytes
            assert bcftools.layers[-1].size * 0.9 < sent < 2**20 + bcftools.layers[-1].size * 4
            outcome = await counted.run(
                ar.RunSpec(bcftools.reference, ["bcftools", "--version"], capture_output=True)
            )
            assert outcome.stdout.startswith(b"bcftools 1.16")
            looked = asked(proxy, f"/images/{held.id}/json")
            await counted.pull(f"{registry.host}/tiny:1")
        assert asked(proxy, f"/images/{held.id}/json") == looked == 1


async def test_what_was_learnt_is_forgotten_with_the_image(
    runtime: EngineRuntime, elsewhere: EngineRuntime, registry: LocalRegistry
) -> None:
    """An image that the engine lost since it was looked at spares nothing any more, and is forgotten."""
    digest = await elsewhere.pull(f"{registry.host}/tiny:1", via="engine")
    await runtime.pull(f"{registry.host}/tiny:0")
    assert len(await runtime._open.memory.others()) == 1
    await elsewhere.remove_image(digest)

    await runtime.pull(f"{registry.host}/tiny:2")

    assert await runtime._open.memory.others() == {}
    spec = ar.RunSpec(f"{registry.host}/tiny:2", ["cat", "/data/one"], capture_output=True)
    assert (await runtime.run(spec)).stdout == b"1" * 5000


async def test_a_stale_belief_costs_a_full_load(
    runtime: EngineRuntime, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If what was learnt of the engine is wrong when the load comes, the image is sent in full, and runs."""
    image = await runtime.resolve(f"{registry.host}/tiny:1")
    layers = tuple(layer.digest for layer in image.layers)

    async def wrong(*_: object) -> list[HeldImage]:
        return [HeldImage(ar.ImageDigest.of(b"gone"), (), layers, image.config.rootfs.diff_ids)]

    monkeypatch.setattr(load, "foreign_donors", wrong)
    await runtime.pull(image.reference)

    spec = ar.RunSpec(image.reference, ["cat", "/data/one"], capture_output=True)
    assert (await runtime.run(spec)).stdout == b"1" * 5000


def tar_of(name: str, data: bytes) -> bytes:
    header = bytearray(512)
    header[: len(name)] = name.encode()
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148] = b"%011o\0" % len(data), b"00000000000\0"
    header[148:156], header[156:157], header[257:265] = b" " * 8, b"0", b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512) + bytes(1024)


@pytest.mark.parametrize("theirs", [True, False])
async def test_a_lying_config_gets_nothing(
    runtime: EngineRuntime, elsewhere: EngineRuntime, registry: LocalRegistry, theirs: bool
) -> None:
    """I2: an image that claims the diff IDs of layers in the engine, with blobs of its own, is not made.

    Nor is one whose manifest names the victim's own config beside them.
    """
    if theirs:
        await elsewhere.pull(f"{registry.host}/tiny:1", via="engine")
    else:
        await runtime.pull(f"{registry.host}/tiny:1")
    victim = await runtime.resolve(f"{registry.host}/tiny:1")
    diff_ids = victim.config.rootfs.diff_ids
    blobs = [tar_of(f"own{position}", b"x") for position in range(3)]
    top = tar_of("top", b"y")
    lie = make_image("liar", "1", [*blobs, top], diff_ids=[*diff_ids, digest_of(top)])
    config = f"/v2/liar/blobs/{victim.manifest.config.digest}"
    lure = make_image("lure", "1", blobs, diff_ids=diff_ids)
    own = next(path for path, data in lure.items() if b'"rootfs"' in data)
    manifest = lure["/v2/lure/manifests/1"].replace(
        own.rpartition("/")[2].encode(), victim.manifest.config.digest.encode()
    )
    manifest = manifest.replace(b'"size": %d' % len(lure[own]), b'"size": %d' % len(victim.raw_config), 1)
    lure |= {
        "/v2/lure/manifests/1": manifest,
        config.replace("liar", "lure"): victim.raw_config,
    }
    async with ScriptedServer() as server:
        serve_image(server, {**lure, **lie})
        host = server.origin
        for _ in range(2):
            with pytest.raises(ar.DigestMismatch, match=r"layer 0 .* broken at its source"):
                await runtime.pull(f"{host}/liar:1")
            with pytest.raises(ar.DigestMismatch, match=r"layer 0 .* broken at its source"):
                await runtime.pull(f"{host}/lure:1")
        for name in ("liar", "lure"):
            with pytest.raises(ar.ImageNotFound):
                await runtime.inspect(f"{host}/{name}:1")
    await remove_images(runtime)
