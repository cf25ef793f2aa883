"""Assemble an image in an engine from the store: send what it lacks, prove that it is there (L3)."""

from __future__ import annotations

__all__ = ("LoadReport", "assemble", "engine_name")

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.claims import check_claims
from aioruntime.assembly.damage import discard_damaged
from aioruntime.assembly.delivery import Delivery, Sender
from aioruntime.assembly.derive import without_urls
from aioruntime.assembly.diff_ids import DiffIds
from aioruntime.assembly.holdings import foreign_donors
from aioruntime.assembly.image_archive import expected_id
from aioruntime.assembly.merge import merged_image
from aioruntime.assembly.plan import (
    HeldImage,
    Layering,
    choose_donors,
    held_image,
    merge_groups,
    plan_load,
    pulls_from_here,
)
from aioruntime.engine.images import inspect_image, tag_image
from aioruntime.errors import AioRuntimeError, ImageNotFound, LayersMissing, StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef
from aioruntime.store.remedies import tells_damage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aioruntime.assembly.memory import EngineMemory
    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.store import ImageStore

_log = logging.getLogger("aioruntime")

_TAG_LIMIT = 128


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What assembling an image took.

    Args:
        image_id: the engine's ID of the image.
        name: the name that the engine knows it by.
        sent_bytes: bytes of the image that were sent; 0 if the engine had it.
        merged: positions of the layers that were merged, for each layer that they became.
    """

    image_id: ImageDigest
    name: str
    sent_bytes: int
    merged: tuple[range, ...] = ()


def engine_name(reference: OciRef) -> str:
    """Return the name with tag that an image gets in an engine.

    An image asked for by digest alone gets a tag made of it, so that it is not pruned as dangling.
    """
    if reference.tag is None and reference.pinned is not None:
        tag = reference.pinned.replace(":", "-")[:_TAG_LIMIT]
    else:
        tag = reference.tag or "latest"
    return f"{reference.full_name}:{tag}"


async def assemble(
    image: ResolvedImage,
    *,
    store: ImageStore,
    client: EngineClient,
    memory: EngineMemory,
    progress: ProgressReporter,
    layering: Layering = "keep",
    arrivals: Arrivals | None = None,
    refetch: Callable[[Sequence[LayerSpec]], Awaitable[None]] | None = None,
) -> LoadReport:
    """Make *image* runnable in the engine from blobs in the store.

    Args:
        image: what is to be run.
        store: holds the layers, or will.
        client: the engine.
        memory: what it is believed to hold; updated.
        progress: told the bytes sent.
        layering: ``keep`` to send the layers as they are, the last ones merged only if there are more than
            the engine can have; ``merge`` to merge all but the first, or those the engine holds.
        arrivals: tells when each layer is in the store; None if all have to be there now.
        refetch: fetches layers again that were damaged in the store; the image is assembled once more then.

    Returns:
        What was sent, and the engine's ID of the image.

    Raises:
        LayersMissing: layers are not in the store; nothing was sent.
        DigestMismatch: a blob in the store is not what its digest names; the load was broken off, and the
            blob was put aside, so that the next pull fetches it again.
        InvalidManifest: a layer that the engine can't read compressed, or that has to be merged, can't be
            unpacked either.
        ImageLoadFailed: the engine did not take the image.
        EngineError: the engine failed otherwise.
    """
    if arrivals is None:
        arrivals = await _all_there(image, store)
    assembly = _Assembly(image, store, client, memory, progress)
    try:
        return await assembly.already_there(arrivals) or await assembly.load(layering, arrivals)
    except StoreError as exc:
        if not tells_damage(exc):
            raise
        damaged = await discard_damaged(store, image.layers)
        if not damaged or refetch is None:
            raise
        why = f"{len(damaged)} layers have to be fetched again, since one was damaged: {exc}"
    _log.warning("%s: %s", image.reference, why)
    try:
        await refetch(damaged)
    except AioRuntimeError as exc:
        exc.add_note(why)
        raise
    return await assemble(
        image,
        store=store,
        client=client,
        memory=memory,
        progress=progress,
        layering=layering,
        arrivals=arrivals,
    )


def _as_asked_for(held: HeldImage, wanted: HeldImage) -> HeldImage:
    """Give what the engine has, with some layers merged or without URLs, the digests that users ask for."""
    return msgspec.structs.replace(held, digests=wanted.digests, config=wanted.config)


async def _all_there(image: ResolvedImage, store: ImageStore) -> Arrivals:
    if missing := await store.missing(image.layers):
        raise LayersMissing(
            f"{image.reference}: {len(missing)} of {len(image.layers)} layers are not in the store "
            f"{store.path}, the first is {missing[0].digest}; call ensure_layers first",
            digests=[layer.digest for layer in missing],
        )
    return Arrivals.of(image.layers)


class _Assembly:
    """One image on its way into one engine."""

    def __init__(
        self,
        image: ResolvedImage,
        store: ImageStore,
        client: EngineClient,
        memory: EngineMemory,
        progress: ProgressReporter,
    ) -> None:
        self._image = image
        self._store = store
        self._client = client
        self._memory = memory
        self._capabilities = client.capabilities
        self._name = engine_name(image.reference)
        self._sender = Sender(client, store, self._name, progress)

    async def already_there(self, arrivals: Arrivals) -> LoadReport | None:
        """Give the image its name if the engine holds it already, as it is or with layers merged."""
        wanted = held_image(self._image, expected_id(self._image, self._capabilities))
        remembered = await self._memory.find(self._image.manifest_digest, self._image.platform)
        merged = remembered is not None and remembered.diff_ids != wanted.diff_ids
        taken = remembered is not None and remembered.layers == wanted.layers
        if not taken:
            # Another manifest may have brought it, and the engine has the blobs of that one.
            wanted = msgspec.structs.replace(wanted, layers=())
        candidates = {image.image_id: image for image in (remembered, wanted) if image is not None}
        for candidate in candidates.values():
            try:
                seen = await inspect_image(self._client, candidate.image_id)
            except ImageNotFound:
                continue
            if seen.id == candidate.image_id and seen.diff_ids == candidate.diff_ids:
                await arrivals.all_of(self._image.layers)  # until then, it may not be the repository's
                if not taken and not (merged and candidate is remembered):
                    # Who knows a config only would get what it stands for: the blobs have to hold the same.
                    await DiffIds(self._store).check(self._image, range(len(self._image.layers)), arrivals)
                if self._name not in {OciRef.parse(name).canonical for name in seen.references}:
                    await tag_image(self._client, seen.id, self._name)
                return await self._loaded(candidate)
        return None

    async def load(self, layering: Layering, arrivals: Arrivals) -> LoadReport:
        """Bring the image to the engine, if no other task or process has done so meanwhile."""
        async with self._store.turn(
            f"load-{self._memory.key}-{self._image.manifest_digest.hex[:32]}"
        ) as waited:
            there = await self.already_there(arrivals) if waited else None
            return there or await self._load(layering, arrivals)

    async def _load(self, layering: Layering, arrivals: Arrivals) -> LoadReport:
        wanted = held_image(self._image, expected_id(self._image, self._capabilities))
        # An engine that pulls tells by itself what it lacks.
        told = pulls_from_here(self._capabilities, wanted.layers) and layering == "keep"
        confirmed = [] if told else await self._confirmed(wanted, arrivals)
        plan = plan_load(wanted, confirmed, self._capabilities, layering)
        check = partial(check_claims, self._image, self._client, self._memory, arrivals, self._store)
        beside = told and plan.merge_from is None
        if self._capabilities.sparse == "any" and not beside:
            await check()
        if plan.merge_from is None:
            sent = without_urls(self._image)
            proof = check if beside else None
            held = await self._sender.deliver(Delivery(sent, self._store, arrivals, plan.omit, proof=proof))
            return await self._loaded(_as_asked_for(held, wanted))
        sizes = [layer.size for layer in self._image.layers]
        groups = merge_groups(sizes, plan.merge_from, self._capabilities)
        async with merged_image(self._image, groups, self._store, arrivals) as (image, content):
            for group in groups:
                _log.info("%s: layers %d to %d merged into one", self._name, group.start, group.stop - 1)
            merged = frozenset(layer.digest for layer in image.layers[plan.merge_from :])
            there = Arrivals.of(image.layers)
            held = await self._sender.deliver(Delivery(image, content, there, plan.omit, merged))
        return await self._loaded(_as_asked_for(held, wanted), groups)

    async def _confirmed(self, wanted: HeldImage, arrivals: Arrivals) -> list[HeldImage]:
        sparse = self._capabilities.sparse
        confirmed: list[HeldImage] = []
        for donor in choose_donors(wanted, await self._memory.recall(), sparse):
            try:
                seen = await inspect_image(self._client, donor.image_id)
            except ImageNotFound:
                await self._memory.forget(donor.image_id)
                continue
            if seen.diff_ids == donor.diff_ids:
                confirmed.append(donor)
                if sparse == "prefix":
                    break  # the longest prefix; shorter ones add nothing
        foreign = await foreign_donors(self._client, self._memory, self._image, arrivals, self._store)
        return confirmed + foreign

    async def _loaded(self, held: HeldImage, groups: Sequence[range] = ()) -> LoadReport:
        await self._memory.remember(held)
        return LoadReport(held.image_id, self._name, self._sender.sent, tuple(groups))
