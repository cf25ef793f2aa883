"""Write an OCI image layout to push from."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from aioruntime.oci import media_types
from tests.support.served_image import digest_of

if TYPE_CHECKING:
    from pathlib import Path


def write_layout(path: Path, contents: dict[str, bytes]) -> None:
    """Write an OCI image layout that names the image `tool`."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data in contents.values():
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
    manifest = next(data for name, data in contents.items() if "/manifests/" in name)
    entry = {
        "mediaType": media_types.OCI_MANIFEST,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": "tool"},
    }
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
