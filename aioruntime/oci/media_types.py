"""Media types of manifests, indexes, configs and layers, OCI's and Docker's (L1).

Follows ``media-types.md`` of the OCI image specification and "Image Manifest V 2, Schema 2" of the
distribution project.
"""

from __future__ import annotations

__all__ = (
    "ACCEPTED",
    "CONFIGS",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "DOCKER_SCHEMA_1",
    "INDEXES",
    "MANIFESTS",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_MANIFEST",
    "Compression",
    "layer_compression",
    "oci_layer",
)

from typing import Literal

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

# Registries and tools of old gave configs as these; Docker takes them still.
_OLD_CONFIGS = ("application/octet-stream", "application/json", "text/html", "")
CONFIGS = frozenset({OCI_CONFIG, "application/vnd.docker.container.image.v1+json", *_OLD_CONFIGS})
"""What the config of an image is; that of an artifact is something else."""

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
ACCEPTED = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
"""What manifest requests ask for."""

Compression = Literal["none", "gzip", "zstd"]

_LAYERS: dict[str, Compression] = {
    OCI_LAYER: "none",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "none",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "gzip",
}


def layer_compression(media_type: str) -> Compression | None:
    """Tell how a layer of *media_type* is compressed; None if that is not a layer's media type."""
    return _LAYERS.get(media_type)


def oci_layer(media_type: str) -> str:
    """Return OCI's name for a layer's *media_type*, which may be Docker's."""
    compression = _LAYERS.get(media_type)
    if compression is None or media_type.startswith("application/vnd.oci."):
        return media_type
    return OCI_LAYER if compression == "none" else f"{OCI_LAYER}+{compression}"
