"""Documents to serve, and short names for what the tests of the registry client do often."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from tests.support.scripted import Reply
from tests.support.served_image import LAYER, digest_of

if TYPE_CHECKING:
    from tests.support.scripted import Route, ScriptedServer

DATA = bytes(range(256)) * 40


def image_at(server: ScriptedServer, name: str = "org/tool:1") -> OciRef:
    return OciRef.parse(f"{server.origin}/{name}")


def layer_of(data: bytes = DATA, *, size: int | None = None, url: str | None = None) -> LayerSpec:
    return LayerSpec(ImageDigest(digest_of(data)), len(data) if size is None else size, LAYER, url)


def blob_path(data: bytes = DATA, repository: str = "org/tool") -> str:
    return f"/v2/{repository}/blobs/{digest_of(data)}"


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def index_of(*entries: dict[str, Any], media_type: str = media_types.OCI_INDEX) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)}).encode()


def for_platform(data: bytes, media_type: str, platform: str, **more: Any) -> dict[str, Any]:
    os, architecture, *variant = platform.split("/")
    named = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
    return descriptor(data, media_type, platform=named, **more)


def serve_manifest(server: ScriptedServer, selector: str, raw: bytes, media_type: str) -> Route:
    return server.on(
        "GET", f"/v2/org/tool/manifests/{selector}", Reply(headers={"Content-Type": media_type}, body=raw)
    )


async def read_blob(server: ScriptedServer, layer: LayerSpec, offset: int = 0) -> tuple[int, bytes]:
    """Stream a layer with a client of its own; return where the body starts and all of it."""
    async with RegistryClient() as client, client.blob(image_at(server), layer, offset=offset) as stream:
        start = stream.offset
        return start, b"".join([chunk async for chunk in stream])
