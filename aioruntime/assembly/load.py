"""Assemble an image in an engine from the store: send what it lacks, prove that it is there (L3)."""

from __future__ import annotations

__all__ = ("LoadReport", "assemble", "engine_name")

import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.image_archive import ImageArchive, expected_id
from aioruntime.assembly.plan import HeldImage, Layering, LoadPlan, choose_donors, held_image, plan_load
from aioruntime.engine.images import EngineImage, inspect_image, load_image, tag_image
from aioruntime.errors import DigestMismatch, ImageLoadFailed, ImageNotFound, LayersMissing
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioruntime.assembly.memory import EngineMemory
    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.image import ResolvedImage
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
        sent_bytes: bytes of the archives that were sent; 0 if the engine had the image.
        omitted: layers that were left out since the engine held them.
        merged: how many of the layers, the last ones, were merged into one; 0 if none.
    """

    image_id: ImageDigest
    name: str
    sent_bytes: int
    omitted: frozenset[ImageDigest]
    merged: int = 0


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

    Returns:
        What was sent, and the engine's ID of the image.

    Raises:
        LayersMissing: layers are not in the store; nothing was sent.
        DigestMismatch: a blob in the store is not what its digest names; the load was broken off, and the
            blob is gone, so that the next pull fetches it again.
        InvalidManifest: a layer that the engine can't read compressed, or that has to be merged, can't be
            unpacked either.
        ImageLoadFailed: the engine did not take the image.
        EngineError: the engine failed otherwise.
    """
    if arrivals is None:
        arrivals = await _all_there(image, store)
    assembly = _Assembly(image, store, client, memory, progress)
    try:
        return await assembly.already_there() or await assembly.load(layering, arrivals)
    except DigestMismatch:
        # A blob rotted on disk: without it, the next pull fetches it again.
        for layer in image.layers:
            await store.discard_damaged(layer.digest)
        raise


async def _all_there(image: ResolvedImage, store: ImageStore) -> Arrivals:
    if missing := await store.missing(image.layers):
        raise LayersMissing(
            f"{image.reference}: {len(missing)} of {len(image.layers)} layers are not in the store "
            f"{store.path}, the first is {missing[0].digest}; call ensure_layers first",
            digests=[layer.digest for layer in missing],
        )
    arrivals = Arrivals()
    for layer in image.layers:
        arrivals.arrived(layer.digest)
    return arrivals


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
        self._progress = progress
        self._capabilities = client.capabilities
        self._name = engine_name(image.reference)
        self._sent = 0

    async def already_there(self) -> LoadReport | None:
        """Give the image its name if the engine holds it already, as it is or with layers merged."""
        wanted = held_image(self._image, expected_id(self._image, self._capabilities))
        remembered = await self._memory.find(self._image.manifest_digest, self._image.platform)
        for candidate in (wanted, remembered):
            if candidate is None:
                continue
            try:
                seen = await inspect_image(self._client, candidate.image_id)
            except ImageNotFound:
                continue
            if seen.id == candidate.image_id and seen.diff_ids == candidate.diff_ids:
                if self._name not in {OciRef.parse(name).canonical for name in seen.references}:
                    await tag_image(self._client, seen.id, self._name)
                return await self._loaded(candidate, LoadPlan(frozenset(candidate.layers)))
        return None

    async def load(self, layering: Layering, arrivals: Arrivals) -> LoadReport:
        """Send the image, without the layers that the engine holds; all of it if that fails."""
        wanted = held_image(self._image, expected_id(self._image, self._capabilities))
        plan = plan_load(wanted, await self._confirmed(wanted), self._capabilities, layering)
        if plan.omit:
            try:
                return await self._send(plan, arrivals)
            except ImageLoadFailed as exc:
                # What we believed of the engine was stale: send everything.
                _log.info("%s: sent in full, since without what was held it failed: %s", self._name, exc)
        return await self._send(LoadPlan(merge_from=plan.merge_from), arrivals)

    async def _confirmed(self, wanted: HeldImage) -> list[HeldImage]:
        kind = self._capabilities.image_store
        confirmed: list[HeldImage] = []
        for donor in choose_donors(wanted, await self._memory.recall(), kind):
            try:
                seen = await inspect_image(self._client, donor.image_id)
            except ImageNotFound:
                await self._memory.forget(donor.image_id)
                continue
            if seen.diff_ids == donor.diff_ids:
                confirmed.append(donor)
                if kind == "graph":
                    break  # the longest prefix; shorter ones add nothing
        return confirmed

    async def _send(self, plan: LoadPlan, arrivals: Arrivals) -> LoadReport:
        archive = ImageArchive(self._image, self._name, plan, self._store, self._capabilities)
        async with aclosing(self._counted(archive.stream(arrivals), archive.size)) as body:
            await load_image(self._client, body)
        seen = await self._prove(archive.sent)
        # The engine has other layers where some were merged, but it is the original that users ask for.
        asked = held_image(self._image, seen.id)
        held = msgspec.structs.replace(
            held_image(archive.sent, seen.id), digests=asked.digests, config=asked.config
        )
        return await self._loaded(held, plan)

    async def _loaded(self, held: HeldImage, plan: LoadPlan) -> LoadReport:
        await self._memory.remember(held)
        merged = 0 if plan.merge_from is None else len(self._image.layers) - plan.merge_from
        return LoadReport(held.image_id, self._name, self._sent, plan.omit, merged)

    async def _counted(self, archive: AsyncGenerator[bytes], total: int | None) -> AsyncGenerator[bytes]:
        message = f"loading {self._image.reference} into {self._capabilities.kind}"
        sent = 0
        async with aclosing(archive):
            async for piece in archive:
                yield piece
                sent += len(piece)
                self._sent += len(piece)
                self._progress.update(message, sent, total)

    async def _prove(self, image: ResolvedImage) -> EngineImage:
        """Return what the engine has under the image's name, if that is the image."""
        kind = self._capabilities.kind
        try:
            seen = await inspect_image(self._client, self._name)
        except ImageNotFound:
            raise ImageLoadFailed(
                f"{image.reference}: {kind} reported success but has no image {self._name}; "
                "its log may say why"
            ) from None
        wanted = expected_id(image, self._capabilities)
        if (seen.id, seen.diff_ids) != (wanted, image.config.rootfs.diff_ids):
            raise ImageLoadFailed(
                f"{image.reference}: {kind} has image {seen.id} under the name {self._name}, not {wanted}; "
                "another client may have loaded it at the same moment"
            )
        return seen
