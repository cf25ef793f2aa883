"""Other tools read the store as it lies."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor
from tests.store.helpers import MANIFEST_TYPE, save

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.store import ImageStore

_REFERENCES = [
    "docker.io/library/ubuntu:22.04",
    "127.0.0.1:5000/org/tool:1.21",
    f"ghcr.io/org/tool@sha256:{'0' * 64}",
]


def _needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def _image(store: ImageStore) -> Descriptor:
    """Store a real image of one layer with one file."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        member = tarfile.TarInfo("hello")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    layer = gzip.compress(plain.getvalue(), mtime=0)
    diff_id = f"sha256:{hashlib.sha256(plain.getvalue()).hexdigest()}"
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()

    def describe(kind: str, data: bytes) -> dict[str, object]:
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": ImageDigest.of(data), "size": len(data)}

    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": describe("config.v1+json", config),
        "layers": [describe("layer.v1.tar+gzip", layer)],
    }
    manifest = json.dumps(document).encode()
    await save(store, layer, ImageDigest.of(layer))
    await store.put(config, ImageDigest.of(config))
    await store.put(manifest, ImageDigest.of(manifest))
    return Descriptor(MANIFEST_TYPE, ImageDigest.of(manifest), len(manifest))


@_needs("skopeo")
@pytest.mark.parametrize("reference", _REFERENCES)
async def test_skopeo_reads_the_store(store: ImageStore, reference: str, tmp_path: Path) -> None:
    """skopeo inspects and copies an image by its full reference, with a port, path, tag or digest in it."""
    descriptor = await _image(store)
    for name in _REFERENCES:
        await store.set_reference(name, descriptor)
    found = json.loads(_run("skopeo", "inspect", f"oci:{store.path}:{reference}"))
    assert found["Digest"] == descriptor.digest
    _run("skopeo", "--insecure-policy", "copy", f"oci:{store.path}:{reference}", f"dir:{tmp_path / 'copy'}")


@_needs("skopeo")
async def test_references_of_skopeo_and_ours_live_together(store: ImageStore) -> None:
    """An image that skopeo copies into the store is found by us, and ours stays."""
    descriptor = await _image(store)
    await store.set_reference("ours", descriptor)
    _run("skopeo", "--insecure-policy", "copy", f"oci:{store.path}:ours", f"oci:{store.path}:docker.io/x/y:1")
    assert set(await store.references()) == {"ours", "docker.io/x/y:1"}
    await store.set_reference("more", descriptor)
    assert set(await store.references()) == {"ours", "docker.io/x/y:1", "more"}
    assert await store.verify() == []


@_needs("umoci")
async def test_umoci_reads_and_tidies_the_store(store: ImageStore, tmp_path: Path) -> None:
    """umoci lists and unpacks our images, and its garbage collection does not keep us from going on."""
    descriptor = await _image(store)
    for name in _REFERENCES:
        await store.set_reference(name, descriptor)
    listed = _run("umoci", "list", "--layout", store.path).split()
    assert sorted(listed) == sorted(_REFERENCES)
    _run("umoci", "gc", "--layout", store.path)
    assert await store.verify() == []
    assert await save(store, b"more", ImageDigest.of(b"more"))
    await store.set_reference("again", descriptor)
    assert set(await store.references()) == {*_REFERENCES, "again"}
