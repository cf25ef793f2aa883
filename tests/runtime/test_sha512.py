"""Images whose descriptors are by sha512: pulled, stored, and run where the engine can."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.oci import media_types
from tests.store.helpers import blob_path
from tests.support.rootfs import program_tar
from tests.support.scripted import Reply, ScriptedServer
from tests.support.served_image import digest_of
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from tests.support.engines import Engine

LAYER = program_tar("echo")


@dataclass(frozen=True)
class Named:
    """An image in an index, and how its parts are named."""

    index: bytes
    manifest: bytes
    config: bytes
    name: Callable[[bytes], str]
    layer: str


def sha512(data: bytes) -> str:
    return f"sha512:{hashlib.sha512(data).hexdigest()}"


def image_named(documents: Callable[[bytes], str], diff_id: Callable[[bytes], str]) -> Named:
    """Make an image of one layer, which is named by sha512."""

    def described(data: bytes, media_type: str, name: Callable[[bytes], str], **more: Any) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": name(data), "size": len(data), **more}

    made_for = {"os": "linux", "architecture": "amd64"}
    rootfs = {"type": "layers", "diff_ids": [diff_id(LAYER)]}
    config = json.dumps({**made_for, "config": {}, "rootfs": rootfs}).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": described(config, media_types.OCI_CONFIG, documents),
            "layers": [described(LAYER, media_types.OCI_LAYER, sha512)],
        }
    ).encode()
    entry = described(manifest, media_types.OCI_MANIFEST, documents, platform=made_for)
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [entry]}
    return Named(json.dumps(index).encode(), manifest, config, documents, sha512(LAYER))


def serve(server: ScriptedServer, image: Named) -> ar.OciRef:
    for data, media_type in (
        (image.index, media_types.OCI_INDEX),
        (image.manifest, media_types.OCI_MANIFEST),
    ):
        path = f"/v2/org/tool/manifests/{image.name(data)}"
        server.on("GET", path, Reply(body=data, headers={"Content-Type": media_type}))
    server.on("GET", f"/v2/org/tool/blobs/{image.name(image.config)}", Reply(body=image.config))
    server.on("GET", f"/v2/org/tool/blobs/{image.layer}", Reply(body=LAYER))
    return ar.OciRef.parse(f"{server.origin}/org/tool@{image.name(image.index)}")


@pytest.mark.parametrize("documents", [digest_of, sha512])
async def test_by_sha512(
    every_engine: Engine, store: ar.ImageStore, documents: Callable[[bytes], str]
) -> None:
    """What is named by sha512 is checked and stored as such, and runs; containerd's store is told to fail."""
    named = image_named(documents, digest_of)
    async with ScriptedServer() as server, ar.connect(every_engine.url, store=store) as runtime:
        image = serve(server, named)
        resolved = await runtime.resolve(image)
        assert (resolved.digest, resolved.manifest_digest) == (
            documents(named.index),
            documents(named.manifest),
        )
        await runtime.ensure_layers(resolved.layers, image=image)
        assert blob_path(store, resolved.layers[0].digest).read_bytes() == LAYER
        if (await runtime.health_check()).extra["image_store"] == "containerd":
            with pytest.raises(ar.ImageLoadFailed, match="sha512"):
                await runtime.pull(image)
            return
        assert await runtime.pull(image) == documents(named.index)
        outcome = await runtime.run(ar.RunSpec(image, ["/bin/echo", "here"], capture_output=True))
        assert outcome.stdout == b"here\n"
        assert (await runtime.inspect(resolved.digest)).digest == resolved.digest
        await remove_images(runtime)


async def test_diff_ids_by_sha512(every_engine: Engine, store: ar.ImageStore) -> None:
    """A config that names diff IDs by sha512 is a typed error with an engine that does not take it."""
    async with ScriptedServer() as server, ar.connect(every_engine.url, store=store) as runtime:
        image = serve(server, image_named(digest_of, sha512))
        try:
            await runtime.pull(image)
        except ar.ImageLoadFailed:
            return
        assert every_engine.kind == "podman"
        outcome = await runtime.run(ar.RunSpec(image, ["/bin/echo", "here"], capture_output=True))
        assert outcome.stdout == b"here\n"
        await remove_images(runtime)
