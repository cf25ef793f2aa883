"""The JSON documents of an image, and their media types: values only, no I/O."""

from __future__ import annotations

import json
import platform as machine
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ("MEDIA_TYPES", "Descriptor", "Family", "ImageConfig", "config_document", "encode")

Family = Literal["oci", "docker"]
"""Whose media types a manifest uses."""

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CREATED = "2023-01-01T00:00:00Z"
_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "i686": ("386", ""),
}
_ARCHITECTURE, _VARIANT = _MACHINES.get(machine.machine(), (machine.machine(), ""))

MEDIA_TYPES = {
    ("oci", "index"): "application/vnd.oci.image.index.v1+json",
    ("oci", "manifest"): "application/vnd.oci.image.manifest.v1+json",
    ("oci", "config"): "application/vnd.oci.image.config.v1+json",
    ("oci", "none"): "application/vnd.oci.image.layer.v1.tar",
    ("oci", "gzip"): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("oci", "zstd"): "application/vnd.oci.image.layer.v1.tar+zstd",
    ("docker", "index"): "application/vnd.docker.distribution.manifest.list.v2+json",
    ("docker", "manifest"): "application/vnd.docker.distribution.manifest.v2+json",
    ("docker", "config"): "application/vnd.docker.container.image.v1+json",
    ("docker", "none"): "application/vnd.docker.image.rootfs.diff.tar",
    ("docker", "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ("docker", "zstd"): "application/vnd.docker.image.rootfs.diff.tar.zstd",
}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of a blob: its media type, digest and size."""

    media_type: str
    digest: str
    size: int

    def to_json(self) -> dict[str, Any]:
        """Give the descriptor as manifests write it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How an image's containers start, and what platform it is for: this machine's unless told otherwise."""

    env: Sequence[str] = (_PATH,)
    cmd: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = ""
    user: str = ""
    architecture: str = _ARCHITECTURE
    os: str = "linux"
    variant: str = _VARIANT

    def platform(self) -> dict[str, str]:
        """Give the platform as an index and a config write it."""
        named = {"architecture": self.architecture, "os": self.os, "variant": self.variant}
        return {key: value for key, value in named.items() if value}


def config_document(config: ImageConfig, diff_ids: Sequence[str]) -> dict[str, Any]:
    """Give the config of an image with these layers as its JSON document."""
    start = {
        "User": config.user,
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "WorkingDir": config.working_dir,
        "Labels": dict(sorted(config.labels.items())),
    }
    return {
        **config.platform(),
        "created": _CREATED,
        "config": {key: value for key, value in start.items() if value},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created": _CREATED, "created_by": "aioruntime demo"} for _ in diff_ids],
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """Write a document as the bytes that its digest is of; keys keep their order."""
    return json.dumps(document, separators=(",", ":")).encode()
