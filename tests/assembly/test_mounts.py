"""Which repositories of a registry are taken to have a layer of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioruntime.assembly.mounts import mount_sources
from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import write_image
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef
from aioruntime.tasks import in_thread
from tests.store.helpers import blob_path

if TYPE_CHECKING:
    from aioruntime.store.store import ImageStore


async def test_mount_sources(store: ImageStore) -> None:
    """Layers are known from other repositories of the same registry, by their names in request paths."""
    mine, hub = "docker.io/org/mine:1", "docker.io/org/tool:1"
    names = ("docker.io/library/ubuntu:latest", hub, "ghcr.io/org/tool:1", mine, "not-a-name:")
    own = {}
    for name in (*names, "docker.io/org/lost:1"):
        files = [{"shared": b""}, {name: b"x"}]
        image = await in_thread(write_image, store.path, name, files, ImageConfig())
        own[name] = ImageDigest(image.layers[1].digest)
    blob_path(store, ImageDigest(image.manifest.digest)).unlink()

    found = await mount_sources(store, OciRef.parse("org/mine:2"))

    assert {name: found.get(digest) for name, digest in own.items()} == {
        "docker.io/library/ubuntu:latest": "library/ubuntu",
        hub: "org/tool",
        "ghcr.io/org/tool:1": None,
        mine: None,
        "not-a-name:": None,
        "docker.io/org/lost:1": None,
    }
