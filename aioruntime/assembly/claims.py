"""See to it that an image gets no layer of others because its config claims it (L3)."""

from __future__ import annotations

__all__ = ("check_claims",)

import logging
from typing import TYPE_CHECKING

from aioruntime.assembly.diff_ids import DiffIds
from aioruntime.assembly.holdings import known_chains
from aioruntime.engine.image_list import list_images
from aioruntime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aioruntime.assembly.arrivals import Arrivals
    from aioruntime.assembly.memory import EngineMemory
    from aioruntime.assembly.plan import HeldImage
    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import ResolvedImage
    from aioruntime.store.store import ImageStore

_log = logging.getLogger("aioruntime")


async def check_claims(
    image: ResolvedImage,
    client: EngineClient,
    memory: EngineMemory,
    arrivals: Arrivals,
    store: ImageStore,
) -> None:
    """Prove of the layers of *image* that they hold what its config claims, where an engine would believe it.

    containerd and newer Podmans take a layer that they have unpacked for the one that a config claims,
    without a look at the blob. Whoever knows a diff ID would get the content.

    Args:
        image: whose config is not believed.
        client: an engine that knows layers by their blobs (``sparse`` is ``any``).
        memory: what it took from us, and what was learnt of others; updated.
        arrivals: tells when each layer is in the store.
        store: holds the layers, or will.

    Raises:
        DigestMismatch: a layer is not what the config claims, or its blob is damaged.
        InvalidManifest: a layer can't be inflated.
    """
    ours = await memory.recall()
    others = await _others(client, memory, {held.image_id for held in ours})
    doubtful = range(len(image.layers)) if others is None else _doubtful(image, ours, others)
    if doubtful:
        await DiffIds(store).check(image, doubtful, arrivals)


async def _others(
    client: EngineClient, memory: EngineMemory, ours: Collection[ImageDigest]
) -> set[ImageDigest] | None:
    """Return the diff IDs of all images that the engine got from others; None if they are too many to see."""
    try:
        others = [item.id for item in await list_images(client) if item.id not in ours]
    except EngineError as exc:
        _log.info("what the engine holds is not known: %s", exc)
        return None
    chains = await known_chains(client, memory, others)
    if len(chains) < len(others):
        return None
    return {diff_id for chain in chains.values() for diff_id in chain}


def _doubtful(image: ResolvedImage, ours: Sequence[HeldImage], others: Collection[ImageDigest]) -> list[int]:
    """Tell the positions of layers that the engine has by what may be another blob.

    If all that it has for a diff ID came from the same blob, it can't give anything else for it.
    """
    pairs = {pair for held in ours if held.layers for pair in zip(held.diff_ids, held.layers, strict=True)}
    taken = {diff_id for held in ours if not held.layers for diff_id in held.diff_ids}
    blobs: dict[ImageDigest, set[ImageDigest]] = {}
    for diff_id, blob in pairs:
        blobs.setdefault(diff_id, set()).add(blob)
    claims = zip(image.layers, image.config.rootfs.diff_ids, strict=True)
    return [
        position
        for position, (layer, claimed) in enumerate(claims)
        if claimed in others or claimed in taken or blobs.get(claimed, set()) - {layer.digest}
    ]
