"""Put images together: the order of their layers, and the config that they make; pure decisions (L3)."""

from __future__ import annotations

__all__ = ("Source", "Stack", "compose_config", "one_platform", "stack_layers")

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from aioruntime.errors import InvalidManifest, InvalidSpec
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.platform import Platform, with_default_variant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioruntime.oci.image import ResolvedImage
    from aioruntime.oci.image_config import ImageConfig

# What else a config has at its top tells of how, when and by whom its own image was made.
_PLATFORM = ("architecture", "os", "variant", "os.version", "os.features")
_MERGED = ("Labels", "ExposedPorts", "Volumes")


@dataclass(frozen=True)
class Source:
    """Layers that belong together: those of an image, or one that is added.

    Args:
        name: what its user calls it.
        layers: each layer and its diff ID, base first.
    """

    name: str
    layers: tuple[tuple[LayerSpec, ImageDigest], ...]

    @classmethod
    def image(cls, name: str, image: ResolvedImage) -> Source:
        """Return the layers of *image* as they stand in an OCI manifest."""
        layers = (_plain(layer) for layer in image.layers)
        return cls(name, tuple(zip(layers, image.config.rootfs.diff_ids, strict=True)))

    @classmethod
    def layer(cls, layer: LayerSpec, diff_id: ImageDigest) -> Source:
        """Return one layer by itself.

        Raises:
            InvalidSpec: its media type is not that of a layer.
        """
        if media_types.layer_compression(layer.media_type) is None:
            raise InvalidSpec(f"layer {layer.digest} is {layer.media_type!r}, not a file-system layer")
        return cls(layer.digest, ((_plain(layer), diff_id),))

    @cached_property
    def places(self) -> dict[ImageDigest, int]:
        """Where each layer does what it does last: of one that comes twice, the second place."""
        return {layer.digest: place for place, (layer, _) in enumerate(self.layers)}


def _plain(layer: LayerSpec) -> LayerSpec:
    return replace(layer, media_type=media_types.oci_layer(layer.media_type), blob_url=None, urls=())


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a composed image.

    Attributes:
        sources: what they come from.
        layers: each distinct one and its diff ID, base first.
        agreed: how many of the first layers all sources begin with, so that these can't conflict.
    """

    sources: tuple[Source, ...]
    layers: tuple[tuple[LayerSpec, ImageDigest], ...]
    agreed: int

    @property
    def shared(self) -> int:
        """How many layers more than one source has."""
        return sum(
            sum(layer.digest in source.places for source in self.sources) > 1 for layer, _ in self.layers
        )


def stack_layers(sources: Sequence[Source]) -> Stack:
    """Put the layers of *sources* upon each other, each distinct one once, where it came first.

    So the first source stays whole below the others: an engine that has it needs only what is above.

    Raises:
        InvalidManifest: two sources tell different diff IDs of one layer, so one of them is broken.
    """
    stacked: dict[ImageDigest, tuple[LayerSpec, ImageDigest]] = {}
    told: dict[ImageDigest, str] = {}
    for source in sources:
        for layer, diff_id in source.layers:
            known = stacked.setdefault(layer.digest, (layer, diff_id))[1]
            if known != diff_id:
                raise InvalidManifest(
                    f"{source.name} says that layer {layer.digest} holds {diff_id}, {told[layer.digest]} "
                    f"says {known}; one of them is broken at its source"
                )
            told.setdefault(layer.digest, source.name)
    orders = [list(stacked), *(sorted(source.places, key=source.places.__getitem__) for source in sources)]
    agreed = 0
    for layers in zip(*orders, strict=False):
        if len(set(layers)) > 1:
            break
        agreed += 1
    return Stack(tuple(sources), tuple(stacked.values()), agreed)


def one_platform(images: Sequence[tuple[str, ResolvedImage]], default: Platform) -> Platform:
    """Return the platform that all *images* are made for; *default* if there are none.

    Raises:
        InvalidSpec: they are made for different ones.
    """
    found = [(name, with_default_variant(image.platform)) for name, image in images]
    for name, platform in found:
        if platform != found[0][1]:
            raise InvalidSpec(
                f"{found[0][0]} is made for {found[0][1]}, {name} for {platform}; "
                "compose images for one platform"
            )
    return found[0][1] if found else default


def compose_config(
    images: Sequence[ResolvedImage], platform: Platform, given: ImageConfig | None
) -> dict[str, Any]:
    """Make the config, without ``rootfs``, of an image that is put together from *images*.

    Of each member the last image that has it gives it, of variables, labels, ports and volumes each one;
    entry point and command go together. What is *given* wins. There is nothing in it that tells the time.

    Args:
        images: the images in order.
        platform: what they are made for.
        given: what the caller wants otherwise.
    """
    top: dict[str, Any] = {
        "os": platform.os,
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
    }
    start: dict[str, Any] = {}
    for image in images:
        document = msgspec.json.decode(image.raw_config)
        top |= {name: document[name] for name in _PLATFORM if document.get(name)}
        start = _over(start, document.get("config") or {})
    if given is not None:
        start = _over(start, _members(given))
        if given.entrypoint == ():
            start.pop("Entrypoint", None)
            start.pop("Cmd", None)
        if given.command is not None:
            start["Cmd"] = list(given.command)
    return {**top, "config": {name: value for name, value in start.items() if value}}


def _members(given: ImageConfig) -> dict[str, Any]:
    return {
        "Entrypoint": list(given.entrypoint or ()),
        "Env": [f"{name}={value}" for name, value in given.env.items()],
        "WorkingDir": str(given.working_dir or ""),
        "User": given.user,
        "Labels": dict(given.labels),
    }


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the ``config`` object *upper* over *lower*; empty members say nothing."""
    upper = {name: value for name, value in upper.items() if value}
    merged = {**lower, **upper}
    if "Entrypoint" in upper or "Cmd" in upper:
        # A command is made for its entry point: those of two images are not mixed.
        for name in ("Entrypoint", "Cmd"):
            if name not in upper:
                merged.pop(name, None)
    if "Env" in lower and "Env" in upper:
        variables = {entry.partition("=")[0]: entry for entry in (*lower["Env"], *upper["Env"])}
        merged["Env"] = list(variables.values())
    for name in _MERGED:
        if isinstance(lower.get(name), dict) and isinstance(upper.get(name), dict):
            merged[name] = {**lower[name], **upper[name]}
    return merged
