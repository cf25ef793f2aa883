"""Learn which layers an engine holds of images that it did not get from us, without scanning it (L3)."""

from __future__ import annotations

__all__ = ("foreign_donors", "known_chains")

import logging
from typing import TYPE_CHECKING

from aioruntime.assembly.catalog import find_image
from aioruntime.assembly.diff_ids import DiffIds
from aioruntime.assembly.plan import HeldImage, held_image
from aioruntime.engine.image_list import list_images
from aioruntime.engine.images import inspect_image
from aioruntime.errors import EngineError
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioruntime.assembly.arrivals import Arrivals
    from aioruntime.assembly.memory import EngineMemory
    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import ResolvedImage
    from aioruntime.store.store import ImageStore

_log = logging.getLogger("aioruntime")

# Images that are looked at in one pull; the next pull goes on from there.
_INSPECTED = 32
# Images whose layers are remembered; the newest.
_REMEMBERED = 256


async def foreign_donors(
    client: EngineClient,
    memory: EngineMemory,
    image: ResolvedImage,
    arrivals: Arrivals,
    store: ImageStore,
) -> list[HeldImage]:
    """Find images in the engine, loaded by whomever, whose layers can serve *image*.

    An engine that is spared a prefix knows layers by diff ID. The config of *image* only claims what its
    blobs hold, so a donor is given only if that is proven, and only if it spares more than the images that
    we loaded. An engine that is spared any blob has those of an image whose manifest it knows.

    Args:
        client: the engine.
        memory: what it took from us, and what was learnt of others; updated.
        image: what is wanted.
        arrivals: tells when each layer of it is in the store.
        store: holds the layers, or will.

    Returns:
        What the engine holds and we did not load, as far as it is of use; empty if the engine can't tell.

    Raises:
        DigestMismatch: a layer of *image* is not what its config claims, or its blob is damaged.
        InvalidManifest: a layer can't be inflated.
    """
    try:
        listed = [item for item in await list_images(client) if item.references or item.digests]
    except EngineError as exc:
        _log.info("%s: what the engine holds is not known: %s", image.reference, exc)
        return []
    ours = {held.image_id: held for held in await memory.recall() if held.layers}
    if client.capabilities.sparse == "any":
        named = {item.id: item.digests for item in listed[:_INSPECTED] if item.id not in ours}
        return await _by_manifest(named, image, store)
    present = [item.id for item in listed]
    chains = await known_chains(client, memory, [image_id for image_id in present if image_id not in ours])
    chains |= {image_id: held.diff_ids for image_id, held in ours.items() if image_id in present}
    return await _by_chain(chains, ours, image, arrivals, store)


async def _by_manifest(
    named: dict[ImageDigest, tuple[ImageDigest, ...]], image: ResolvedImage, store: ImageStore
) -> list[HeldImage]:
    """Return the images whose manifest the store has too."""
    kept = {descriptor.digest for descriptor in (await store.references()).values()}
    donors: list[HeldImage] = []
    for image_id, digests in named.items():
        for digest in kept.intersection(digests):
            found = await find_image(store, OciRef("localhost", "any", digest=digest), image.platform)
            if found is not None:
                donors.append(held_image(found, image_id))
    return donors


async def known_chains(
    client: EngineClient, memory: EngineMemory, present: Sequence[ImageDigest]
) -> dict[ImageDigest, tuple[ImageDigest, ...]]:
    """Return the diff IDs of the images *present*, as far as they are known; look at some that are not."""
    remembered = await memory.others()
    known = {image_id: remembered[image_id] for image_id in present if image_id in remembered}
    unknown = [image_id for image_id in present[:_REMEMBERED] if image_id not in known][:_INSPECTED]
    for image_id in unknown:
        try:
            known[image_id] = (await inspect_image(client, image_id)).diff_ids
        except EngineError as exc:
            _log.info("image %s in the engine can't be looked at: %s", image_id, exc)
    if known.keys() != remembered.keys():
        await memory.keep_others({image_id: known[image_id] for image_id in present if image_id in known})
    return known


async def _by_chain(
    chains: dict[ImageDigest, tuple[ImageDigest, ...]],
    ours: dict[ImageDigest, HeldImage],
    image: ResolvedImage,
    arrivals: Arrivals,
    store: ImageStore,
) -> list[HeldImage]:
    """Return the image that has the most of the first layers, if they are proven to be the same."""
    diff_ids = image.config.rootfs.diff_ids
    layers = [layer.digest for layer in image.layers]
    pairs = [*zip(layers, diff_ids, strict=True)]
    proven = {pair for held in ours.values() for pair in zip(held.layers, held.diff_ids, strict=True)}
    known = max(
        (
            _shared(pairs, [*zip(ours[image_id].layers, ours[image_id].diff_ids, strict=True)])
            for image_id in chains
            if image_id in ours
        ),
        default=0,
    )
    best = max(chains, key=lambda image_id: _shared(diff_ids, chains[image_id]), default=None)
    length = 0 if best is None else _shared(diff_ids, chains[best])
    if best is None or length <= known:
        return []
    unproven = [position for position in range(length) if pairs[position] not in proven]
    await DiffIds(store).check(image, unproven, arrivals)
    return [HeldImage(best, (), tuple(layers[:length]), diff_ids[:length])]


def _shared(first: Sequence[object], second: Sequence[object]) -> int:
    """Count how many items two sequences have in common from their beginning."""
    for position, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return position
    return min(len(first), len(second))
