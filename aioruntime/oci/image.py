"""Images and layers as values that pass between the parts of the library (L1)."""

from __future__ import annotations

__all__ = ("ComposedImage", "ImageMetadata", "ImageRef", "LayerSpec", "PathConflict", "ResolvedImage")

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Config, Manifest
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer that has to be in the store.

    Args:
        digest: digest of the blob as it is served (compressed, if it is).
        size: bytes of that blob.
        media_type: the layer's media type, OCI's or Docker's.
        blob_url: where to fetch it; None for the repository of the image that it belongs to.
        urls: where else it may be, as its image's manifest says; asked if the repository has it not.

    Raises:
        InvalidReference: *digest* is not a digest.
        InvalidSpec: *size* is negative.
    """

    digest: ImageDigest
    size: int
    media_type: str
    blob_url: str | None = None
    urls: tuple[str, ...] = ()

    if TYPE_CHECKING:  # what the constructor takes; the attribute is what __post_init__ makes of it

        def __init__(
            self,
            digest: str,
            size: int,
            media_type: str,
            blob_url: str | None = None,
            urls: tuple[str, ...] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", ImageDigest(self.digest))
        if self.size < 0:
            raise InvalidSpec(f"layer {self.digest}: size {self.size} is negative")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that an engine can run now.

    Args:
        reference: the name that the engine knows it by.
        digest: the registry's digest of it, the one to pin.
    """

    reference: str
    digest: ImageDigest

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", ImageDigest(self.digest))


@dataclass(frozen=True, slots=True)
class PathConflict:
    """A path that images put together have in different ways; one of them has it as it wants.

    Args:
        path: absolute path in the image, as `os.fsdecode` gives it. Of a directory that something else
            takes the place of, this is the directory; what lies in it is not listed.
        winner: the image, or the digest of the added layer, whose way it is in the composed image.
        losers: those that have it otherwise.
    """

    path: str
    winner: str
    losers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComposedImage:
    """An image that was put together from the layers of others.

    Args:
        reference: the image, which the engine can run now.
        conflicts: paths that not all of its images and layers find as they have them, sorted.
    """

    reference: ImageRef
    conflicts: tuple[PathConflict, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """What an engine tells about an image that it has.

    Args:
        digest: the registry's digest if it is known, else the engine's own ID.
        size_bytes: bytes that the image takes in the engine.
        labels: the image's labels.
        id: the engine's ID of the image.
        references: names that the engine knows it by.
        platform: what it is made for.
    """

    digest: ImageDigest
    size_bytes: int | None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    id: ImageDigest | None = None
    references: tuple[str, ...] = ()
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """What a reference names at this moment, for one platform.

    Args:
        reference: the reference that was resolved.
        digest: what the reference names at the registry: the digest of the manifest, or of the index
            if the image is made for several platforms. This is the digest to pin.
        manifest: the platform's manifest.
        config: the platform's config.
        layers: the layers, base first.
        manifest_digest: digest of *manifest*; the same as *digest* unless that names an index.
        raw_manifest: the manifest's bytes, which *manifest_digest* is the hash of.
        raw_config: the config's bytes, which ``manifest.config.digest`` is the hash of.
    """

    reference: OciRef
    digest: ImageDigest
    manifest: Manifest
    config: Config
    layers: tuple[LayerSpec, ...]
    manifest_digest: ImageDigest
    raw_manifest: bytes = field(repr=False)
    raw_config: bytes = field(repr=False)

    @property
    def platform(self) -> Platform:
        """The platform that the image is made for."""
        return Platform(self.config.os, self.config.architecture, self.config.variant)

    @property
    def size(self) -> int:
        """Bytes of all distinct layers, as they are served."""
        return sum({layer.digest: layer.size for layer in self.layers}.values())


def layers_of(manifest: Manifest) -> tuple[LayerSpec, ...]:
    """List the layers of *manifest*, base first."""
    return tuple(LayerSpec(d.digest, d.size, d.media_type, urls=d.urls or ()) for d in manifest.layers)
