"""Decide how an image gets into an engine: pure functions over what is wanted and what it holds (L3)."""

from __future__ import annotations

__all__ = (
    "HeldImage",
    "Layering",
    "LoadPlan",
    "choose_donors",
    "held_image",
    "inflated_for",
    "merge_groups",
    "plan_load",
    "pulls_from_here",
)

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.platform import with_default_variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioruntime.engine.capabilities import EngineCapabilities, SparseKind
    from aioruntime.oci.image import ResolvedImage
    from aioruntime.oci.media_types import Compression


Layering: TypeAlias = Literal["keep", "merge"]
"""How an image's layers reach an engine: as they are, unless it can't have so many; or the tail merged."""


_GROUPS = 4
_WORTH_INFLATING = 32 * 2**20


class HeldImage(msgspec.Struct, frozen=True):
    """An image that an engine took from us.

    Args:
        image_id: the engine's ID of it.
        digests: the registry's digests that it answers to: the manifest's, and the index's if there was one.
        layers: digests of the layer blobs, base first.
        diff_ids: the diff IDs of the same layers, as the engine checked them when it took the image.
        platform: what it is made for, as text.
        config: digest of its config as the registry has it, which many engines have as its ID.
    """

    image_id: ImageDigest
    digests: tuple[ImageDigest, ...]
    layers: tuple[ImageDigest, ...]
    diff_ids: tuple[ImageDigest, ...]
    platform: str = ""
    config: ImageDigest | None = None


def held_image(image: ResolvedImage, image_id: ImageDigest) -> HeldImage:
    """Describe *image*, which an engine holds under *image_id*."""
    return HeldImage(
        image_id,
        tuple(dict.fromkeys((image.digest, image.manifest_digest))),
        tuple(layer.digest for layer in image.layers),
        image.config.rootfs.diff_ids,
        str(with_default_variant(image.platform)),
        image.manifest.config.digest,
    )


def _common_prefix(image: HeldImage, donor: HeldImage) -> int:
    # Blob and diff ID must both agree: the engine proved that this blob has this diff ID when it took the
    # donor. A config that merely claims the diff ID of somebody's private layer is not believed.
    pairs = zip(image.layers, image.diff_ids, donor.layers, donor.diff_ids, strict=False)
    for position, (layer, diff_id, donor_layer, donor_diff_id) in enumerate(pairs):
        if (layer, diff_id) != (donor_layer, donor_diff_id):
            return position
    return min(len(image.layers), len(donor.layers))


def choose_donors(image: HeldImage, held: Iterable[HeldImage], sparse: SparseKind) -> list[HeldImage]:
    """Choose the held images whose layers can serve *image*, the most useful first.

    Args:
        image: what is wanted.
        held: what the engine is believed to hold.
        sparse: what a load may leave out.

    Returns:
        Where only a prefix of the chain can be left out, the images that share one, longest first; else
        a small set that together has every layer that can be had.
    """
    if sparse == "prefix":
        sharing = [(_common_prefix(image, donor), donor) for donor in held]
        return [donor for length, donor in sorted(sharing, key=lambda pair: -pair[0]) if length]
    uncovered = set(image.layers)
    chosen: list[HeldImage] = []
    candidates = list(held)
    while uncovered and candidates:
        best = max(candidates, key=lambda donor: len(uncovered.intersection(donor.layers)))
        if uncovered.isdisjoint(best.layers):
            break
        chosen.append(best)
        candidates.remove(best)
        uncovered.difference_update(best.layers)
    return chosen


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How an image gets into an engine.

    Attributes:
        omit: layer blobs that are left out, since the engine holds them.
        merge_from: position of the first layer that is merged with those above it; None for none.
    """

    omit: frozenset[ImageDigest] = frozenset()
    merge_from: int | None = None


def plan_load(
    image: HeldImage, confirmed: Sequence[HeldImage], engine: EngineCapabilities, layering: Layering = "keep"
) -> LoadPlan:
    """Decide what is sent of *image*.

    Args:
        image: what is wanted.
        confirmed: images that the engine was seen to hold.
        engine: what it can do.
        layering: what the caller asks for.
    """
    first = _merge_position(image, confirmed, engine, layering)
    if first is None:
        return LoadPlan(_layers_to_omit(image, confirmed, engine.sparse))
    base = msgspec.structs.replace(image, layers=image.layers[:first], diff_ids=image.diff_ids[:first])
    return LoadPlan(_layers_to_omit(base, confirmed, engine.sparse), first)


def _merge_position(
    image: HeldImage, confirmed: Sequence[HeldImage], engine: EngineCapabilities, layering: Layering
) -> int | None:
    count = len(image.layers)
    first = count
    if engine.max_layers is not None and count > engine.max_layers:
        first = engine.max_layers - 1
    if layering == "merge":
        # What images share stays a layer of its own: at least the first, which tools are made upon.
        shared = max((_common_prefix(image, donor) for donor in confirmed), default=0)
        first = min(first, max(1, shared))
    return first if first < count - 1 else None


def _layers_to_omit(
    image: HeldImage, confirmed: Sequence[HeldImage], sparse: SparseKind
) -> frozenset[ImageDigest]:
    """Tell which layer blobs need not be sent, given the donors that the engine was seen to hold."""
    if sparse == "prefix":
        length = max((_common_prefix(image, donor) for donor in confirmed), default=0)
        # A digest that comes again above the prefix has to be sent for its second place.
        return frozenset(image.layers[:length]) - frozenset(image.layers[length:])
    held = {layer for donor in confirmed for layer in donor.layers}
    return frozenset(image.layers) & held


def merge_groups(sizes: Sequence[int], first: int, engine: EngineCapabilities) -> tuple[range, ...]:
    """Part the layers that are merged into groups, each of which becomes one layer.

    A few, of about the same size, so that one can be worked on while another still arrives; none where the
    engine has no room for more than one.

    Args:
        sizes: bytes of each of the image's layers, base first.
        first: position of the first layer that is merged.
        engine: how many layers it can have.
    """
    most = len(sizes) - first
    if engine.max_layers is not None:
        most = min(most, engine.max_layers - first)
    share = sum(sizes[first:]) / max(1, min(_GROUPS, most))
    groups: list[range] = []
    begin, gathered = first, 0
    for position in range(first, len(sizes)):
        gathered += sizes[position]
        if gathered >= share * (len(groups) + 1) and len(groups) + 1 < min(_GROUPS, most):
            groups.append(range(begin, position + 1))
            begin = position + 1
    if begin < len(sizes):
        groups.append(range(begin, len(sizes)))
    return tuple(groups)


def inflated_for(engine: EngineCapabilities, size: int) -> frozenset[Compression]:
    """Tell which compressions have to be undone, or better are, before *engine* gets layers.

    Args:
        engine: what it can read, and how it keeps layers.
        size: bytes of the layers that are sent to it.
    """
    if engine.image_store != "graph":
        return frozenset()
    if engine.local and size >= _WORTH_INFLATING:
        # It keeps layers unpacked, and inflates them more slowly than we do.
        return frozenset({"gzip", "zstd"})
    return frozenset() if engine.reads_zstd else frozenset({"zstd"})


def pulls_from_here(engine: EngineCapabilities, layers: Sequence[ImageDigest]) -> bool:
    """Tell whether *engine* is best served by letting it pull an image from this process.

    Where it takes any layer that it lacks alone, it unpacks what it pulls while it still fetches, but an
    archive only when it has all of it.

    Args:
        engine: what it can do.
        layers: digests of the image's layers.
    """
    # Where an image names a layer again, containerd's pull waits for itself: minutes for 300 times.
    waits = engine.image_store == "containerd" and len(set(layers)) < len(layers)
    return engine.local and engine.sparse == "any" and not waits
