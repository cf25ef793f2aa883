"""Loads that go wrong on real engines: refused, cut, gone, or another's by the time they are looked at."""

from __future__ import annotations

import gzip
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import write_image
from aioruntime.engine import images
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.oci.digest import ImageDigest
from aioruntime.tasks import in_thread
from tests.engine import documents
from tests.support.proxy import Connection, Direction, Fault, UnixProxy
from tests.support.scripted import Reply, ScriptedServer
from tests.support.tools import remove_images, tiny_files

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine
    from tests.support.httpmeter import Span

# The calls by which an image gets into an engine.
ENTRY = r"POST .*/images/(load|create|pull)"


class BeforeTheProof(UnixProxy):
    """Acts once, when it is asked what the engine has under a name: after the load, before the proof."""

    def __init__(self, path: Path, target: Path, name: str, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(path, target)
        self._name = name.encode()
        self._act = act
        self.acted = False

    async def _pass_on(
        self,
        connection: Connection,
        way: Direction,
        passed: int,
        data: bytes,
        spans: list[Span],
        writer: asyncio.StreamWriter,
    ) -> None:
        if way == "up" and not self.acted and self._name in data.partition(b"\r\n")[0]:
            self.acted = True
            await self._act()
        await super()._pass_on(connection, way, passed, data, spans, writer)


@asynccontextmanager
async def through(proxy: UnixProxy, store: ar.ImageStore) -> AsyncIterator[EngineRuntime]:
    async with proxy, ar.connect(proxy.url, store=store) as runtime:
        yield runtime


@asynccontextmanager
async def second_client(engine: Engine) -> AsyncIterator[EngineClient]:
    async with EngineClient.open(Endpoint(engine.url, "test")) as client:
        yield client


async def says_hello(runtime: EngineRuntime, image: ar.OciRef) -> bool:
    spec = ar.RunSpec(image, ["sh", "-c", "echo hello"], capture_output=True)
    return (await runtime.run(spec)).stdout == b"hello\n"


async def test_a_layer_that_the_engine_refuses(
    runtime: EngineRuntime, registry: LocalRegistry, tmp_path: Path
) -> None:
    """E1: a layer that is no tar is ImageLoadFailed, though Docker tells it in an answer that began with 200.

    Nothing of that image is there, and when it was mended in the registry, the next pull succeeds.
    """
    layout = tmp_path / "layout"
    files = [tiny_files(), {"etc/two": b"two"}]
    config = ImageConfig(env=("PATH=/bin",))
    await in_thread(write_image, layout, "good", files, config)
    await in_thread(write_image, layout, "bad", files, config)
    await in_thread(_spoil_the_last_layer, layout, "bad")
    image = ar.OciRef.parse(await registry.push(layout, "bad", "mended:1"))

    with pytest.raises(ar.ImageLoadFailed) as caught:
        await runtime.pull(image)

    assert not isinstance(caught.value, ar.EngineDiskFull)
    with pytest.raises(ar.ImageNotFound):
        await runtime.inspect(image)
    await registry.push(layout, "good", "mended:1")
    await runtime.pull(image)
    assert await says_hello(runtime, image)


def _spoil_the_last_layer(layout: Path, name: str) -> None:
    """Put something that is no tar in place of the last layer of image *name*, with all digests right."""

    def read(digest: str) -> Any:
        return json.loads((layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes())

    def write(data: bytes) -> dict[str, object]:
        digest = ImageDigest.of(data)
        (layout / "blobs/sha256" / digest.hex).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    content = b"this is no tar. " * 1000
    index = json.loads((layout / "index.json").read_bytes())
    entry = next(each for each in index["manifests"] if name in each["annotations"].values())
    manifest = read(entry["digest"])
    config = read(manifest["config"]["digest"])
    config["rootfs"]["diff_ids"][-1] = ImageDigest.of(content)
    manifest["config"] |= write(json.dumps(config).encode())
    manifest["layers"][-1] |= write(gzip.compress(content, mtime=0))
    entry |= write(json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(("kind", "after"), [("cut", 0), ("cut", 9), ("reset", 9)])
async def test_an_answer_cut_in_the_middle(
    engine: Engine, registry: LocalRegistry, store: ar.ImageStore, tmp_path: Path, kind: str, after: int
) -> None:
    """E1: an answer that ends too early is ImageLoadFailed, though the image is there; then it heals."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    proxy = UnixProxy(tmp_path / "p", engine.socket)
    fault = proxy.add(Fault(kind, after=after, request=ENTRY))  # type: ignore[arg-type]
    async with through(proxy, store) as runtime:
        with pytest.raises(ar.ImageLoadFailed, match=r"cut|closed"):
            await runtime.pull(image)
        assert fault.reached.is_set()

        await runtime.pull(image)
        assert await says_hello(runtime, image)
        await remove_images(runtime)


async def test_loaded_but_absent(
    engine: Engine, registry: LocalRegistry, store: ar.ImageStore, tmp_path: Path
) -> None:
    """E1: an image that is not there after a load that went well is ImageLoadFailed; the next pull heals."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    async with second_client(engine) as other:
        proxy = BeforeTheProof(
            tmp_path / "p",
            engine.socket,
            f"/{image.full_name}:1/json",
            lambda: images.remove_image(other, str(image), force=True),
        )
        async with through(proxy, store) as runtime:
            with pytest.raises(ar.ImageLoadFailed, match=f"has no image {image}"):
                await runtime.pull(image)
            assert proxy.acted

            await runtime.pull(image)
            assert await says_hello(runtime, image)
            await remove_images(runtime)


async def test_success_that_is_none(registry: LocalRegistry, store: ar.ImageStore) -> None:
    """E1: an engine that takes an archive, says it loaded it and has nothing is ImageLoadFailed."""
    version, info, _ = (Reply(body=json.dumps(each).encode()) for each in documents.DOCKER_20)
    absent = Reply(404, body=b'{"message":"No such image"}')
    async with ScriptedServer() as server:
        server.on("GET", "/version", version)
        server.on("GET", "/v1.41/info", info)
        server.on("GET", "/v1.41/images/json", Reply(body=b"[]"))
        server.on("POST", "/v1.41/images/load", Reply(body=b'{"stream":"Loaded image: x"}'))
        server.on("GET", re.compile(r"/v1\.41/images/.*/json"), absent)
        async with ar.connect(server.url.replace("http", "tcp", 1), store=store) as runtime:
            with pytest.raises(ar.ImageLoadFailed, match="reported success but has no image"):
                await runtime.pull(f"{registry.host}/tiny:0")


async def test_name_taken_between_load_and_proof(
    engine: Engine, registry: LocalRegistry, store: ar.ImageStore, tmp_path: Path
) -> None:
    """E13: another client that takes the name before we look makes ImageLoadFailed; the next pull heals."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    async with second_client(engine) as other, ar.connect(engine.url, store=store) as direct:
        wrong = ar.OciRef.parse(f"{registry.host}/tiny:0")
        await direct.pull(wrong)
        proxy = BeforeTheProof(
            tmp_path / "p",
            engine.socket,
            f"/{image.full_name}:1/json",
            lambda: images.tag_image(other, str(wrong), str(image)),
        )
        async with through(proxy, store) as runtime:
            with pytest.raises(ar.ImageLoadFailed, match="another client may have loaded it"):
                await runtime.pull(image)
            assert proxy.acted

            await runtime.pull(image)
            assert await says_hello(runtime, image)
        await remove_images(direct)
