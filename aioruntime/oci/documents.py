"""Manifests, indexes and configs: decoded from raw bytes into typed values, or refused (L1).

Follows ``manifest.md``, ``image-index.md``, ``config.md`` and ``descriptor.md`` of the OCI image
specification, and "Image Manifest V 2, Schema 2" of the distribution project. What is addressed by
hash is never serialised again: keep the raw bytes beside what these functions return.
"""

from __future__ import annotations

__all__ = (
    "Config",
    "Descriptor",
    "DescriptorPlatform",
    "Index",
    "Manifest",
    "RunConfig",
    "choose_manifest",
    "decode_config",
    "decode_document",
    "digest_hook",
)

from typing import Annotated, Any, TypeVar

import msgspec

from aioruntime.errors import InvalidManifest, InvalidReference, InvalidSpec, one_line
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.platform import Platform, matching_platforms, with_default_variant

Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_LAYER_LIMIT = 10_000
_ENTRY_LIMIT = 1_000
_ATTESTATION = "vnd.docker.reference.type"


class DescriptorPlatform(msgspec.Struct, frozen=True):
    """The ``platform`` object of a descriptor in an index."""

    architecture: str
    os: str
    variant: str | None = None


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """Media type, digest and size of a blob (``descriptor.md``).

    Raises:
        ValueError: *data*, a copy of the blob, is not what digest and size name.
    """

    media_type: str
    digest: ImageDigest
    size: Size
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: DescriptorPlatform | None = None
    data: bytes | None = None

    def __post_init__(self) -> None:
        if self.data is not None and not (len(self.data) == self.size and self.digest.matches(self.data)):
            raise ValueError("Expected `data` to be the blob that digest and size name")


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image manifest: its config and its layers, base first (``manifest.md``)."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str | None = None
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """An image index: manifests for several platforms (``image-index.md``)."""

    schema_version: int
    manifests: tuple[Descriptor, ...]
    media_type: str | None = None
    annotations: dict[str, str] | None = None


class RootFs(msgspec.Struct, frozen=True):
    """The ``rootfs`` object of a config: diff IDs, base first."""

    type: str
    diff_ids: tuple[ImageDigest, ...]


class RunConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """The ``config`` object of a config: what a container gets unless told otherwise."""

    user: str | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None


class Config(msgspec.Struct, frozen=True):
    """An image config (``config.md``)."""

    architecture: str
    os: str
    rootfs: RootFs
    variant: str | None = None
    config: RunConfig | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels; empty if it has none."""
        return dict((self.config.labels if self.config else None) or {})


_T = TypeVar("_T")


def _decode(raw: bytes, kind: type[_T], source: str) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind, strict=True, dec_hook=digest_hook)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        name = "manifest or index" if kind is _Shape else kind.__name__.lower()
        raise InvalidManifest(f"{source}: not a valid {name}: {one_line(str(exc))}") from exc


def digest_hook(kind: type, value: Any) -> Any:
    """Decode an `ImageDigest` within a document (a ``dec_hook`` of msgspec)."""
    if kind is not ImageDigest:
        raise NotImplementedError(kind)
    if not isinstance(value, str):
        raise ValueError("Expected a digest")
    try:
        return ImageDigest(value)
    except InvalidReference as exc:
        raise ValueError(str(exc)) from None


class _Shape(msgspec.Struct, rename="camel"):
    """What tells one kind of document from another."""

    schema_version: int
    media_type: str | None = None
    manifests: list[msgspec.Raw] | None = None
    layers: list[msgspec.Raw] | None = None
    fs_layers: list[msgspec.Raw] | None = None


def decode_document(raw: bytes, media_type: str | None, source: str) -> Manifest | Index:
    """Decode a manifest or an index.

    Args:
        raw: the document's bytes, as the digest names them.
        media_type: what the registry (``Content-Type``) or a descriptor says that it is; None if nothing.
        source: the name to use in messages.

    Raises:
        InvalidManifest: the document is broken, ambiguous (``GHSA-5j5w-g665-5m35``) or of a kind that
            can't be run; the message says which.
    """
    shape = _decode(raw, _Shape, source)
    if shape.schema_version == 1 or shape.fs_layers is not None or media_type in media_types.DOCKER_SCHEMA_1:
        raise InvalidManifest(
            f"{source}: schema 1 manifests are not supported; push the image again with a newer tool"
        )
    if shape.media_type and media_type and shape.media_type != media_type:
        raise InvalidManifest(
            f"{source}: served as {one_line(media_type)} but it says that it is {one_line(shape.media_type)}"
        )
    if shape.manifests is not None and shape.layers is not None:
        raise InvalidManifest(f"{source}: has both manifests and layers, which is ambiguous")
    kind = shape.media_type or media_type or ""
    if shape.manifests is not None and (kind in media_types.INDEXES or not kind):
        if len(shape.manifests) > _ENTRY_LIMIT:
            raise InvalidManifest(
                f"{source}: an index of {len(shape.manifests)} images; at most {_ENTRY_LIMIT} are accepted"
            )
        return _decode(raw, Index, source)
    if shape.layers is not None and (kind in media_types.MANIFESTS or not kind):
        manifest = _decode(raw, Manifest, source)
        _check_runnable(manifest, source)
        return manifest
    raise InvalidManifest(
        f"{source}: neither an image manifest nor an index: media type {one_line(kind) or 'unknown'}"
    )


def _check_runnable(manifest: Manifest, source: str) -> None:
    if manifest.config.media_type not in media_types.CONFIGS:
        kind = one_line(manifest.artifact_type or manifest.config.media_type)
        raise InvalidManifest(f"{source}: an artifact of type {kind}, not a container image")
    if not manifest.layers:
        raise InvalidManifest(f"{source}: an image without layers can't be run")
    if len(manifest.layers) > _LAYER_LIMIT:
        raise InvalidManifest(f"{source}: {len(manifest.layers)} layers; at most {_LAYER_LIMIT} are accepted")
    for position, layer in enumerate(manifest.layers):
        if media_types.layer_compression(layer.media_type) is None:
            raise InvalidManifest(
                f"{source}: layer {position} is {one_line(layer.media_type)}, not a file-system layer; "
                "this looks like an artifact, not a container image"
            )


def decode_config(raw: bytes, manifest: Manifest, source: str) -> Config:
    """Decode the config of *manifest*.

    Raises:
        InvalidManifest: it is broken, or has another number of diff IDs than the manifest has layers.
    """
    config = _decode(raw, Config, f"{source} (config)")
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise InvalidManifest(
            f"{source}: the config names {len(config.rootfs.diff_ids)} diff IDs "
            f"but the manifest has {len(manifest.layers)} layers"
        )
    return config


def choose_manifest(index: Index, wanted: Platform, source: str) -> Descriptor:
    """Choose the entry of *index* to run on a *wanted* machine; attestations are passed over.

    Raises:
        InvalidManifest: there is none; the message lists the platforms that there are.
    """
    images = [d for d in index.manifests if _ATTESTATION not in (d.annotations or {})]
    offered = [(platform, d) for d in images if (platform := _platform_of(d)) is not None]
    for candidate in matching_platforms(wanted):
        for platform, descriptor in offered:
            if platform == candidate:
                return descriptor
    if len(images) == 1 and images[0].platform is None:
        return images[0]
    listed = one_line(", ".join(sorted({str(platform) for platform, _ in offered}))) or "none"
    raise InvalidManifest(f"{source}: has no image for {wanted}; it offers: {listed}")


def _platform_of(descriptor: Descriptor) -> Platform | None:
    named = descriptor.platform
    if named is None or named.os == "unknown":
        return None
    try:
        return with_default_variant(Platform(named.os, named.architecture, named.variant or None))
    except InvalidSpec:
        return None  # an entry for a platform that we can't even name is not one to run
