"""Assemble an image in an engine from the store: send what it lacks, prove that it is there (L3)."""

from __future__ import annotations

__all__ = ("LoadReport", "assemble", "engine_name")

import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import msgspec

from aioruntime.assembly.archive import Entry
from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.content import LayerContent
from aioruntime.assembly.holdings import foreign_donors
from aioruntime.assembly.image_archive import ImageArchive, expected_id
from aioruntime.assembly.loopback import serve_image
from aioruntime.assembly.merge import merged_image
from aioruntime.assembly.plan import (
    HeldImage,
    Layering,
    choose_donors,
    held_image,
    inflated_for,
    merge_groups,
    plan_load,
    pulls_from_here,
)
from aioruntime.engine.images import (
    inspect_image,
    load_image,
    pull_from_here,
    remove_image,
    tag_image,
)
from aioruntime.errors import (
    DigestMismatch,
    EngineDiskFull,
    EngineError,
    ImageLoadFailed,
    ImageNotFound,
    LayersMissing,
)
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import ResolvedImage
from aioruntime.oci.reference import OciRef
from aioruntime.tasks import task_group, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aioruntime.assembly.memory import EngineMemory
    from aioruntime.engine.client import EngineClient
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.store import ImageStore

_log = logging.getLogger("aioruntime")

_TAG_LIMIT = 128
_TIDY_SECONDS = 10.0


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


@dataclass(frozen=True, slots=True)
class Delivery:
    """An image that is brought to an engine.

    Args:
        image: as the engine shall have it.
        content: has its layers, or will.
        arrivals: tells when a layer is there.
        omit: layers that the engine holds.
    """

    image: ResolvedImage
    content: LayerContent
    arrivals: Arrivals
    omit: frozenset[ImageDigest]


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
        return await assembly.already_there(arrivals) or await assembly.load(layering, arrivals)
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
        self._progress = progress
        self._capabilities = client.capabilities
        self._name = engine_name(image.reference)
        self._sent = 0
        self._total: int | None = None

    async def already_there(self, arrivals: Arrivals) -> LoadReport | None:
        """Give the image its name if the engine holds it already, as it is or with layers merged."""
        wanted = held_image(self._image, expected_id(self._image, self._capabilities))
        remembered = await self._memory.find(self._image.manifest_digest, self._image.platform)
        if remembered is None or remembered.layers != wanted.layers:
            # Another manifest may have brought it: that the blobs of this one hold the same was never proven.
            wanted = msgspec.structs.replace(wanted, layers=())
        candidates = {image.image_id: image for image in (remembered, wanted) if image is not None}
        for candidate in candidates.values():
            try:
                seen = await inspect_image(self._client, candidate.image_id)
            except ImageNotFound:
                continue
            if seen.id == candidate.image_id and seen.diff_ids == candidate.diff_ids:
                await arrivals.all_of(self._image.layers)  # until then, it may not be the repository's
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
        told = pulls_from_here(self._capabilities) and layering == "keep"
        confirmed = [] if told else await self._confirmed(wanted, arrivals)
        plan = plan_load(wanted, confirmed, self._capabilities, layering)
        if plan.merge_from is None:
            delivery = Delivery(self._image, self._store, arrivals, plan.omit)
            return await self._loaded(await self._deliver(delivery))
        sizes = [layer.size for layer in self._image.layers]
        groups = merge_groups(sizes, plan.merge_from, self._capabilities)
        async with merged_image(self._image, groups, self._store, arrivals) as (image, content):
            for group in groups:
                _log.info("%s: layers %d to %d merged into one", self._name, group.start, group.stop - 1)
            held = await self._deliver(Delivery(image, content, Arrivals.of(image.layers), plan.omit))
        # The engine has other layers where some were merged, but it is the original that users ask for.
        original = msgspec.structs.replace(held, digests=wanted.digests, config=wanted.config)
        return await self._loaded(original, groups)

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

    async def _deliver(self, delivery: Delivery) -> HeldImage:
        """Bring the engine an image by the best way that works."""
        if pulls_from_here(self._capabilities):
            try:
                await self._offer(delivery)
                return await self._prove(delivery.image)
            except EngineDiskFull:
                raise
            except ImageLoadFailed as exc:
                _log.info("%s: sent as an archive, since the engine could not pull it: %s", self._name, exc)
        elif delivery.omit:
            try:
                await self._send(delivery)
                return await self._prove(delivery.image)
            except EngineDiskFull:
                raise
            except ImageLoadFailed as exc:
                # What we believed of the engine was stale: send everything.
                _log.info("%s: sent in full, since without what was held it failed: %s", self._name, exc)
        await self._send(replace(delivery, omit=frozenset()))
        return await self._prove(delivery.image)

    async def _offer(self, delivery: Delivery) -> None:
        """Serve the image, and have the engine pull from us what it lacks."""
        serving = serve_image(delivery.image, delivery.content, delivery.arrivals, self._progressed)
        async with serving as served:
            try:
                await served.until_failure(pull_from_here(self._client, served.reference))
                # Also of what it held: only a layer in the store is one that the repository serves.
                await delivery.arrivals.all_of(delivery.image.layers)
                await tag_image(self._client, served.reference, self._name)
            finally:
                await to_completion(self._drop_name(served.reference))

    async def _drop_name(self, name: str) -> None:
        with anyio.move_on_after(_TIDY_SECONDS), suppress(EngineError):
            await remove_image(self._client, name)

    async def _send(self, delivery: Delivery) -> None:
        """Send the image as an archive."""
        inflate = inflated_for(self._capabilities)
        archive = ImageArchive(
            delivery.image, self._name, delivery.content, self._store, omit=delivery.omit, inflate=inflate
        )
        self._total = archive.size
        out, layers = anyio.create_memory_object_stream[Entry]()
        async with task_group() as tasks, layers:
            tasks.start_soon(archive.prepare, delivery.arrivals, out)
            async with aclosing(self._counted(archive.stream(layers))) as body:
                await load_image(self._client, body)
            tasks.cancel_scope.cancel()

    async def _loaded(self, held: HeldImage, groups: Sequence[range] = ()) -> LoadReport:
        await self._memory.remember(held)
        return LoadReport(held.image_id, self._name, self._sent, tuple(groups))

    async def _counted(self, archive: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async with aclosing(archive):
            async for piece in archive:
                yield piece
                self._progressed(len(piece))

    def _progressed(self, sent: int) -> None:
        self._sent += sent
        message = f"loading {self._image.reference} into {self._capabilities.kind}"
        self._progress.update(message, self._sent, self._total)

    async def _prove(self, image: ResolvedImage) -> HeldImage:
        """Describe what the engine has under the image's name, if that is the image."""
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
        return held_image(image, seen.id)
