"""Pushing what is in the store: pulled images, and those that were composed here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import write_image
from aioruntime.demo.programs import run_program
from aioruntime.demo.registry import LocalRegistry
from aioruntime.tasks import in_thread
from tests.store.helpers import blob_path
from tests.support.said import Said
from tests.support.tools import remove_images, tiny_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

CONFIG = ImageConfig(env=("PATH=/bin",))


@pytest.fixture
async def docker(docker_engine: Engine, store: ar.ImageStore) -> AsyncIterator[EngineRuntime]:
    """A runtime on Docker, with an empty store."""
    async with ar.DockerRuntime(docker_engine.url, store=store) as runtime:
        yield runtime
        await remove_images(runtime)


@pytest.mark.slow
async def test_a_composed_image_is_shared(
    docker: EngineRuntime, registry: LocalRegistry, tmp_path: Path
) -> None:
    """An image composed of two tools is pushed without a layer being sent; another store and skopeo have it
    by the same digest, and it runs.
    """
    tools = [f"{registry.host}/samtools:gzip", f"{registry.host}/bcftools:gzip"]
    for tool in tools:
        await docker.pull(tool)
    name, said = f"{registry.host}/lab/tools:1", Said()
    made = (await docker.compose_image(name, tools)).reference
    before = len(await registry.settle())

    assert await docker.push(made, progress=said) == made.digest

    asked = (await registry.settle())[before:]
    posts = [request for request in asked if request.method == "POST"]
    mounted = [request for request in posts if request.status == 201]
    layers = (await docker.resolve(f"{name}@{made.digest}")).layers
    assert len(mounted) == len(layers)
    assert {r.path.partition("&from=")[2] for r in mounted} == {"samtools", "bcftools"}
    assert len(posts) == len(layers) + 1, "the config is new"
    assert f": 1 of {len(layers) + 1} blobs sent (" in said.last
    assert said.last.endswith(f" {len(layers)} mounted")
    await remove_images(docker)
    async with type(docker)(store=tmp_path / "other", client=docker._client) as other:
        assert await other.pull(f"{registry.host}/lab/tools:1") == made.digest
        for tool in ("samtools", "bcftools"):
            outcome = await other.run(ar.RunSpec(name, [tool, "--version"], capture_output=True))
            assert outcome.stdout.startswith(f"{tool} 1.16".encode())
    source = f"docker://{registry.host}/lab/tools@{made.digest}"
    flags = ("--insecure-policy", "copy", "--src-tls-verify=false", "--preserve-digests")
    await run_program(["skopeo", *flags, source, f"oci:{tmp_path}/copy:1"], debian_package="skopeo")
    copied = json.loads((tmp_path / "copy/index.json").read_bytes())
    assert [entry["digest"] for entry in copied["manifests"]] == [made.digest]


async def keep(store: ar.ImageStore, name: str, *layers: dict[str, bytes], **options: Any) -> ar.ImageDigest:
    """Have an image in the store as if it had been pulled: the store is the layout that is written."""
    image = await in_thread(lambda: write_image(store.path, name, layers, CONFIG, **options))
    return ar.ImageDigest(image.manifest.digest)


@pytest.mark.parametrize("tag", ["docker", "index"])
async def test_to_another_registry(docker: EngineRuntime, registry: LocalRegistry, tag: str) -> None:
    """A pulled image goes to another registry byte for byte; of an index, the manifest that was pulled."""
    image = f"{registry.host}/tiny:{tag}"
    pinned = await docker.pull(image)
    here = await docker.resolve(f"{registry.host}/tiny@{pinned}")
    async with LocalRegistry() as elsewhere, ar.RegistryClient() as client:
        for source in (image, pinned, ar.ImageRef(image, pinned)):
            digest = await docker.push(source, f"{elsewhere.host}/copy/tiny:{tag}")
            assert digest == here.manifest_digest
        there = await client.resolve(ar.OciRef.parse(f"{elsewhere.host}/copy/tiny:{tag}"))
        requests = await elsewhere.settle()

    assert (there.raw_manifest, there.raw_config) == (here.raw_manifest, here.raw_config)
    assert there.manifest.media_type == here.manifest.media_type
    assert len([r for r in requests if r.method == "POST"]) == 4
    assert not any("mount=" in r.path for r in requests)


async def test_back_to_its_own_name(docker: EngineRuntime, registry: LocalRegistry) -> None:
    """Without another name, an image goes to where it is from: by tag, or by digest if that is its name."""
    pinned = await docker.pull(f"{registry.host}/tiny:index")
    manifest = (await docker.resolve(f"{registry.host}/tiny@{pinned}")).manifest_digest
    before = len(await registry.settle())

    assert await docker.push(f"{registry.host}/tiny@{pinned}") == manifest

    asked = (await registry.settle())[before:]
    assert [r.path for r in asked if r.method == "PUT"] == [f"/v2/tiny/manifests/{manifest}"]
    assert {r.status for r in asked if r.method == "HEAD"} == {200}


async def test_a_tag_that_moves(docker: EngineRuntime, tmp_path: Path) -> None:
    """THREATS R21: a tag that is given to another image in the middle of a pull does not mix the two."""
    other = ar.ImageStore(tmp_path / "other")
    await keep(other, "example.org/other:1", tiny_files(), {"which": b"other\n"})

    class Moving(ar.RegistryClient):
        async def resolve(self, image: ar.OciRef, *args: Any, **options: Any) -> ar.ResolvedImage:
            found = await super().resolve(image, *args, **options)
            async with ar.DockerRuntime(store=other, client=docker._client, registry=self) as pusher:
                await pusher.push("example.org/other:1", image)
            return found

    async with LocalRegistry() as registry, Moving() as client:
        await keep(docker.store, "example.org/one:1", tiny_files(), {"which": b"one\n"})
        name = ar.OciRef.parse(f"{registry.host}/tool:1")
        first = await docker.push("example.org/one:1", name)
        async with ar.DockerRuntime(
            store=tmp_path / "new", client=docker._client, registry=client
        ) as runtime:
            assert await runtime.pull(name) == first
            outcome = await runtime.run(ar.RunSpec(name, ["cat", "/which"], capture_output=True))
            assert (await client.resolve(name)).digest != first

    assert outcome.stdout == b"one\n"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("UPPER", None), ar.InvalidReference, "UPPER"),
        (("example.org/a:1", "UPPER/x:"), ar.InvalidReference, "reference"),
        (("example.org/z:1", None), ar.LayersMissing, "z:1 is not in the store .*; pull it by layers first"),
        (("sha256:" + "0" * 64, "example.org/z:1"), ar.LayersMissing, "sha256:000.* is not in the store"),
        (("sha256:" + "0" * 64, None), ar.InvalidSpec, "tells no registry to push to; give to="),
        (("example.org/a:1", "example.org/b@sha256:" + "0" * 64), ar.DigestMismatch, "for sha256:000"),
    ],
)
async def test_wrong_input(
    docker: EngineRuntime, arguments: tuple[str, str | None], error: type[Exception], message: str
) -> None:
    """What can't be pushed is refused by an error that says what to do."""
    await keep(docker.store, "example.org/a:1", {"x": b"1"})

    with pytest.raises(error, match=message):
        await docker.push(*arguments)


async def test_a_layer_is_gone(docker: EngineRuntime) -> None:
    """An image that lost a layer in the store is refused, naming it, before anything is sent."""
    digest = await keep(docker.store, "example.org/a:1", {"x": b"1"}, {"y": b"2"})
    lost = (await docker.resolve(f"example.org/a@{digest}")).layers[1].digest
    blob_path(docker.store, lost).unlink()
    async with LocalRegistry() as registry:
        with pytest.raises(ar.LayersMissing, match=r"a:1: 1 of 2 layers .* call pull first") as caught:
            await docker.push("example.org/a:1", f"{registry.host}/a:1")
        assert await registry.settle() == ()

    assert caught.value.digests == (lost,)


async def test_a_layer_that_rotted(docker: EngineRuntime) -> None:
    """A blob that was altered on disk is not pushed; it is thrown away, so that the next pull fetches it."""
    digest = await keep(docker.store, "example.org/a:1", {"x": b"1"}, compression="none")
    [layer] = (await docker.resolve(f"example.org/a@{digest}")).layers
    path = blob_path(docker.store, layer.digest)
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    async with LocalRegistry() as registry, ar.RegistryClient() as client:
        name = ar.OciRef.parse(f"{registry.host}/a:1")
        with pytest.raises(ar.DigestMismatch):
            await docker.push("example.org/a:1", name)
        assert not await client.exists(name)

    assert await docker.store.missing([layer]) == [layer]
