"""Against a registry as people run it: Debian's docker-registry, filled by skopeo."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from aioruntime.demo.registry import LocalRegistry
from aioruntime.errors import NotFound
from aioruntime.oci import media_types
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import descriptor
from tests.support.served_image import make_image

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs Debian's docker-registry and skopeo",
)


def write_layout(path: Path, contents: dict[str, bytes]) -> None:
    """Write an OCI image layout that names the image `tool`."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data in contents.values():
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
    manifest = next(data for name, data in contents.items() if "/manifests/" in name)
    entry = descriptor(
        manifest, media_types.OCI_MANIFEST, annotations={"org.opencontainers.image.ref.name": "tool"}
    )
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


async def test_pushed_by_skopeo(tmp_path: Path) -> None:
    """What skopeo has pushed is resolved by tag and digest, and streamed whole and in part, byte for byte."""
    layers = [os.urandom(3 << 20), os.urandom(1000)]
    write_layout(tmp_path, make_image("org/tool", "1", layers))
    async with LocalRegistry() as registry, RegistryClient() as client:
        image = OciRef.parse(await registry.push(tmp_path, "tool", "org/tool:1"))
        found = await client.resolve(image)
        assert (await client.resolve(OciRef.parse(f"{image}@{found.digest}"))).layers == found.layers
        for layer, data in zip(found.layers, layers, strict=True):
            for offset in (0, 1, len(data) - 1):
                async with client.blob(image, layer, offset=offset) as stream:
                    assert stream.offset == offset
                    assert b"".join([chunk async for chunk in stream]) == data[offset:]
        with pytest.raises(NotFound, match="check the repository's name") as caught:
            await client.resolve(OciRef.parse(f"{registry.host}/org/tool:2"))

    assert caught.value.code == "MANIFEST_UNKNOWN"
