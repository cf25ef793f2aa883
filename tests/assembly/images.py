"""Images made in memory for the tests of this directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Manifest, decode_config, decode_document
from aioruntime.oci.image import ResolvedImage, layers_of
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import Sequence

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def made_image(
    layers: Sequence[bytes],
    *,
    reference: str = "example.org/tool:1",
    index: ImageDigest | None = None,
    architecture: str = "amd64",
    diff_ids: Sequence[ImageDigest] | None = None,
) -> ResolvedImage:
    """An image with these blobs as its layers, and what they hold as its diff IDs."""
    diffs = diff_ids or [ImageDigest.of(layer) for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diffs}
    raw_config = json.dumps({"architecture": architecture, "os": "linux", "rootfs": rootfs}).encode()
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor("application/vnd.oci.image.config.v1+json", raw_config),
        "layers": [_descriptor(LAYER_TYPE, layer) for layer in layers],
    }
    raw_manifest = json.dumps(document).encode()
    manifest = decode_document(raw_manifest, MANIFEST_TYPE, "test")
    assert isinstance(manifest, Manifest)
    digest = ImageDigest.of(raw_manifest)
    return ResolvedImage(
        reference=OciRef.parse(reference),
        digest=index or digest,
        manifest=manifest,
        config=decode_config(raw_config, manifest, "test"),
        layers=layers_of(manifest),
        manifest_digest=digest,
        raw_manifest=raw_manifest,
        raw_config=raw_config,
    )


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": ImageDigest.of(data), "size": len(data)}
