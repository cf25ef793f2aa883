"""OCI image layouts as other tools make them, written without the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aioruntime.oci.digest import ImageDigest
from tests.store.helpers import MANIFEST_TYPE, content

if TYPE_CHECKING:
    from pathlib import Path

REF_NAME = "org.opencontainers.image.ref.name"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


def blob_at(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def add_blob(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = ImageDigest.of(data)
    blob_at(layout, digest).parent.mkdir(parents=True, exist_ok=True)
    blob_at(layout, digest).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def add_image(layout: Path, seed: int, size: int = 3_000_000) -> dict[str, Any]:
    """Add an image with a layer of its own and one that all have."""
    layers = [add_blob(layout, content(size, one)[0], LAYER_TYPE) for one in (1000, seed)]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["", ""]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": add_blob(layout, json.dumps(config | {"author": str(seed)}).encode(), CONFIG_TYPE),
        "layers": layers,
    }
    return add_blob(layout, json.dumps(manifest).encode(), MANIFEST_TYPE)


def list_images(layout: Path, *entries: tuple[str | None, dict[str, Any]]) -> None:
    listed = [
        entry if name is None else {**entry, "annotations": {REF_NAME: name}} for name, entry in entries
    ]
    layout.mkdir(exist_ok=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": listed}))


def make_layout(layout: Path, *names: str | None) -> list[dict[str, Any]]:
    """Make a layout of an image for each name."""
    images = [add_image(layout, seed) for seed in range(len(names))]
    list_images(layout, *zip(names, images, strict=True))
    return images


def names_in(layout: Path) -> dict[str, str]:
    """The named images that a layout lists, each with all that it consists of there and sound."""
    listed = json.loads((layout / "index.json").read_bytes())["manifests"]
    for entry in listed:
        check(layout, entry)
    return {entry["annotations"][REF_NAME]: entry["digest"] for entry in listed}


def check(layout: Path, descriptor: dict[str, Any]) -> None:
    data = blob_at(layout, descriptor["digest"]).read_bytes()
    assert len(data) == descriptor["size"]
    assert ImageDigest(descriptor["digest"]).matches(data)
    if descriptor["mediaType"] == MANIFEST_TYPE:
        manifest = json.loads(data)
        for part in (manifest["config"], *manifest["layers"]):
            check(layout, part)


def changed(path: Path) -> None:
    """Alter a file, its size kept."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
