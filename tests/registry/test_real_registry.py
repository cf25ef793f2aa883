"""Against a registry as people run it: Debian's docker-registry, filled by skopeo."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from aioruntime.demo.registry import LocalRegistry
from aioruntime.errors import NotFound
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from tests.support.layouts import write_layout
from tests.support.served_image import make_image

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs Debian's docker-registry and skopeo",
)


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
