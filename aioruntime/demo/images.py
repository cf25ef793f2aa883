"""Write OCI image layouts: images of given layers, indexes over them, and a Debian tool's factored image."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioruntime.demo.blobs import Layer
from aioruntime.demo.documents import MEDIA_TYPES, Descriptor, Family, ImageConfig, config_document, encode
from aioruntime.demo.layers import files_layer, package_layers
from aioruntime.demo.packages import USERLAND, download, resolve
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    import tarfile
    from pathlib import Path

    from aioruntime.demo.blobs import Compression

__all__ = (
    "BuiltImage",
    "BuiltIndex",
    "Descriptor",
    "Family",
    "ImageConfig",
    "build_tool_image",
    "write_image",
    "write_index",
)
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image in a layout.

    Attributes:
        name: The name that the layout's index has for it; None if only an index of its own leads to it.
        manifest: Its manifest; the digest is what a user pins.
        config: Its config.
        layers: Its layers, the lowest first.
        diff_ids: The hashes of the layers' tars, likewise.
        raw_manifest: The manifest's bytes.
        raw_config: The config's bytes.
        platform: What it is for: architecture, os, and variant if there is one.
    """

    name: str | None
    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    raw_manifest: bytes
    raw_config: bytes
    platform: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """An image index in a layout: its name there, its descriptor, its bytes, and the images below it."""

    name: str
    index: Descriptor
    raw_index: bytes
    images: tuple[BuiltImage, ...]


def write_image(
    layout: Path,
    name: str | None,
    layers: Sequence[Layer | Mapping[str, bytes | tarfile.TarInfo]],
    config: ImageConfig | None = None,
    *,
    family: Family = "oci",
    compression: Compression = "gzip",
) -> BuiltImage:
    """Write one image into an OCI image layout, which is made if it is not there. Blocks.

    The same input gives the same digests. An image of the same name is replaced in the layout's index.

    Args:
        layout: The layout's directory.
        name: The image's name there, such as "samtools:1"; None to leave it out of the layout's index.
        layers: The lowest first: layers that were built before, or the files of a tiny one, by path.
        config: How its containers start, and its platform.
        family: Whose media types to use.
        compression: How to compress those layers that are given as files.

    Returns:
        The image.
    """
    config = config or ImageConfig()
    built = tuple(item if isinstance(item, Layer) else files_layer(item, compression) for item in layers)
    raw_config = encode(config_document(config, [layer.diff_id for layer in built]))
    config_blob = _write_blob(layout, raw_config, MEDIA_TYPES[family, "config"])
    layer_blobs = tuple(
        Descriptor(MEDIA_TYPES[family, layer.compression], layer.digest, layer.size) for layer in built
    )
    for layer in built:
        _copy_layer(layout, layer)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPES[family, "manifest"],
        "config": config_blob.to_json(),
        "layers": [blob.to_json() for blob in layer_blobs],
    }
    raw_manifest = encode(manifest)
    manifest_blob = _write_blob(layout, raw_manifest, MEDIA_TYPES[family, "manifest"])
    _enter(layout, name, manifest_blob)
    return BuiltImage(
        name=name,
        manifest=manifest_blob,
        config=config_blob,
        layers=layer_blobs,
        diff_ids=tuple(layer.diff_id for layer in built),
        raw_manifest=raw_manifest,
        raw_config=raw_config,
        platform=config.platform(),
    )


def write_index(
    layout: Path,
    name: str,
    images: Sequence[BuiltImage],
    *,
    attestation: bool = False,
    family: Family = "oci",
) -> BuiltIndex:
    """Write an image index over images of the same layout. Blocks.

    Args:
        layout: The layout's directory.
        name: The index's name there.
        images: One for each platform, in the order of the index.
        attestation: Whether to add what builders add: a provenance manifest about the first image, of the
            platform unknown/unknown, which nobody can run.
        family: Whose media types to use.

    Returns:
        The index.
    """
    entries = [image.manifest.to_json() | {"platform": dict(image.platform)} for image in images]
    if attestation:
        entries.append(_attestation(layout, images[0]))
    document = {"schemaVersion": 2, "mediaType": MEDIA_TYPES[family, "index"], "manifests": entries}
    raw_index = encode(document)
    index = _write_blob(layout, raw_index, MEDIA_TYPES[family, "index"])
    _enter(layout, name, index)
    return BuiltIndex(name, index, raw_index, tuple(images))


def _attestation(layout: Path, subject: BuiltImage) -> dict[str, Any]:
    statement = encode({"_type": "https://in-toto.io/Statement/v0.1", "subject": [], "predicate": {}})
    statement_blob = _write_blob(layout, statement, "application/vnd.in-toto+json")
    config = {
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [statement_blob.digest]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPES["oci", "manifest"],
        "config": _write_blob(layout, encode(config), MEDIA_TYPES["oci", "config"]).to_json(),
        "layers": [statement_blob.to_json()],
    }
    blob = _write_blob(layout, encode(manifest), MEDIA_TYPES["oci", "manifest"])
    return blob.to_json() | {
        "annotations": {
            "vnd.docker.reference.digest": subject.manifest.digest,
            "vnd.docker.reference.type": "attestation-manifest",
        },
        "platform": {"architecture": "unknown", "os": "unknown"},
    }


def _blob_path(layout: Path, digest: str) -> Path:
    directory = layout / "blobs" / "sha256"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / digest.removeprefix("sha256:")


def _write_blob(layout: Path, content: bytes, media_type: str) -> Descriptor:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    _blob_path(layout, digest).write_bytes(content)
    return Descriptor(media_type, digest, len(content))


def _copy_layer(layout: Path, layer: Layer) -> None:
    """Have a layer's blob in the layout; a copy, so that whoever damages the layout spares the cache."""
    path = _blob_path(layout, layer.digest)
    if not path.exists() or path.stat().st_size != layer.size:
        layer.copy_to(path)


def _enter(layout: Path, name: str | None, blob: Descriptor) -> None:
    """Write the layout's own two files, with *blob* under *name*."""
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    path, fresh = layout / "index.json", layout / f".index-{os.getpid()}.json"
    index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
    if path.exists():
        index = json.loads(path.read_bytes())
    if name is not None:
        entry = blob.to_json() | {"annotations": {_REF_NAME: name}}
        others = [
            known for known in index["manifests"] if known.get("annotations", {}).get(_REF_NAME) != name
        ]
        index["manifests"] = [*others, entry]
    fresh.write_bytes(encode(index))
    fresh.replace(path)


async def build_tool_image(
    package: str,
    layout: Path,
    cache: Path,
    *,
    compression: Compression = "gzip",
    family: Family = "oci",
    userland: Sequence[str] = USERLAND,
    name: str | None = None,
) -> BuiltImage:
    """Build the factored image of a Debian package: a first layer, then one for each package of its closure.

    Images of tools that share packages share these layers, and begin with them.

    Args:
        package: The Debian package; its program of the same name is what a container starts.
        layout: The OCI image layout to write it into.
        cache: A directory that keeps downloads and layers for the next image.
        compression: How to compress the layers.
        family: Whose media types to use.
        userland: Further packages to put in, before those of the tool; () for the bare closure.
        name: The image's name in the layout; "PACKAGE:COMPRESSION" if not given.

    Returns:
        The image.

    Raises:
        DemoError: apt or dpkg is not there, apt has no lists yet, does not know the package, or could not
            download it.
    """
    packages = await resolve(package, cache, userland=userland)
    layers = await package_layers(await download(packages, cache), cache, compression)
    config = ImageConfig(
        cmd=(package,),
        labels={
            "org.opencontainers.image.title": package,
            "org.opencontainers.image.version": packages[-1].version,
        },
    )

    def write() -> BuiltImage:
        return write_image(layout, name or f"{package}:{compression}", layers, config, family=family)

    return await in_thread(write)
