"""Assemble an image in an engine from the store: send what it lacks, prove that it is there (L3)."""

from __future__ import annotations

__all__ = ("LoadReport", "assemble", "engine_name")

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import anyio

from aioruntime.assembly.archive import Blob, archive_entries, archive_size, stream_archive
from aioruntime.assembly.inflate import (
    CHUNK,
    Inflated,
    compression_of,
    measure,
    open_inflated,
    telling_damage,
)
from aioruntime.assembly.plan import HeldImage, choose_donors, held_image, layers_to_omit
from aioruntime.engine.images import EngineImage, inspect_image, load_image, tag_image
from aioruntime.errors import DigestMismatch, ImageLoadFailed, ImageNotFound, LayersMissing
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aioruntime.assembly.memory import EngineMemory
    from aioruntime.engine.capabilities import EngineCapabilities
    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.store import ImageStore

_TAG_LIMIT = 128
# Inflating is bound by the processor; two at a time leave room for the loop.
_INFLATERS = 2


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What assembling an image took.

    Args:
        image_id: the engine's ID of the image.
        name: the name that the engine knows it by.
        sent_bytes: bytes of the archives that were sent; 0 if the engine had the image.
        omitted: layers that were left out since the engine held them.
    """

    image_id: ImageDigest
    name: str
    sent_bytes: int
    omitted: frozenset[ImageDigest]


def engine_name(reference: OciRef) -> str:
    """Return the name with tag that an image gets in an engine.

    An image asked for by digest alone gets a tag made of it, so that it is not pruned as dangling.
    """
    if reference.tag is None and reference.pinned is not None:
        tag = reference.pinned.replace(":", "-")[:_TAG_LIMIT]
    else:
        tag = reference.tag or "latest"
    return f"{reference.full_name}:{tag}"


def expected_id(image: ResolvedImage, capabilities: EngineCapabilities) -> ImageDigest:
    """Return the ID that an engine gives to *image* (containerd's store: the manifest's digest)."""
    if capabilities.image_store == "containerd":
        return image.manifest_digest
    return image.manifest.config.digest


async def assemble(
    image: ResolvedImage,
    *,
    store: ImageStore,
    client: EngineClient,
    memory: EngineMemory,
    progress: ProgressReporter,
) -> LoadReport:
    """Make *image* runnable in the engine from blobs that are all in the store.

    Args:
        image: what is to be run.
        store: holds the layers.
        client: the engine.
        memory: what it is believed to hold; updated.
        progress: told the bytes sent.

    Returns:
        What was sent, and the engine's ID of the image.

    Raises:
        LayersMissing: layers are not in the store; nothing was sent.
        DigestMismatch: a blob in the store is not what its digest names; the load was broken off, and the
            blob is gone, so that the next pull fetches it again.
        InvalidManifest: a layer that the engine can't read compressed can't be inflated either.
        ImageLoadFailed: the engine did not take the image.
        EngineError: the engine failed otherwise.
    """
    if missing := await store.missing(image.layers):
        raise LayersMissing(
            f"{image.reference}: {len(missing)} of {len(image.layers)} layers are not in the store "
            f"{store.path}, the first is {missing[0].digest}; call ensure_layers first",
            digests=[layer.digest for layer in missing],
        )
    limit = client.capabilities.max_layers
    if limit is not None and len(image.layers) > limit:
        raise ImageLoadFailed(
            f"{image.reference} has {len(image.layers)} layers, but {client.capabilities.kind} "
            f"{client.capabilities.version} runs no image of more than {limit}"
        )
    assembly = _Assembly(image, store, client, progress)
    try:
        report = await assembly.already_there() or await assembly.load(await memory.recall(), memory)
    except DigestMismatch:
        # A blob rotted on disk: without it, the next pull fetches it again.
        for layer in image.layers:
            await store.discard_damaged(layer.digest)
        raise
    await memory.remember(held_image(image, report.image_id))
    return report


class _Assembly:
    """One image on its way into one engine."""

    def __init__(
        self,
        image: ResolvedImage,
        store: ImageStore,
        client: EngineClient,
        progress: ProgressReporter,
    ) -> None:
        self._image = image
        self._store = store
        self._client = client
        self._capabilities = client.capabilities
        self._progress = progress
        self._id = expected_id(image, client.capabilities)
        self._name = engine_name(image.reference)
        self._sent = 0

    async def already_there(self) -> LoadReport | None:
        """Give the image its name if the engine holds it already."""
        try:
            held = await inspect_image(self._client, self._id)
        except ImageNotFound:
            return None
        if not self._proves(held):
            return None
        if self._name not in {OciRef.parse(name).canonical for name in held.references}:
            await tag_image(self._client, self._id, self._name)
        everything = frozenset(layer.digest for layer in self._image.layers)
        return LoadReport(held.id, self._name, 0, everything)

    async def load(self, held: Sequence[HeldImage], memory: EngineMemory) -> LoadReport:
        """Send the image, without the layers that the engine holds; all of it if that fails."""
        omit = await self._omittable(held, memory)
        if omit:
            try:
                return await self._send(omit)
            except ImageLoadFailed:
                pass  # what we believed of the engine was stale: send everything
        return await self._send(frozenset())

    async def _omittable(self, held: Sequence[HeldImage], memory: EngineMemory) -> frozenset[ImageDigest]:
        kind = self._capabilities.image_store
        wanted = held_image(self._image, self._id)
        confirmed: list[HeldImage] = []
        for donor in choose_donors(wanted, held, kind):
            try:
                seen = await inspect_image(self._client, donor.image_id)
            except ImageNotFound:
                await memory.forget(donor.image_id)
                continue
            if seen.diff_ids == donor.diff_ids:
                confirmed.append(donor)
                if kind == "graph":
                    break  # the longest prefix; shorter ones add nothing
        return layers_to_omit(wanted, confirmed, kind)

    async def _send(self, omit: frozenset[ImageDigest]) -> LoadReport:
        inflated = await self._inflated(omit)
        entries = archive_entries(self._image, self._name, omit, inflated)
        archive = stream_archive(entries, self._read_blob)
        async with aclosing(self._counted(archive, archive_size(entries))) as body:
            await load_image(self._client, body)
        await self._prove()
        return LoadReport(self._id, self._name, self._sent, omit)

    async def _counted(self, archive: AsyncGenerator[bytes], total: int) -> AsyncGenerator[bytes]:
        message = f"loading {self._image.reference} into {self._capabilities.kind}"
        sent = 0
        async with aclosing(archive):
            async for piece in archive:
                yield piece
                sent += len(piece)
                self._sent += len(piece)
                self._progress.update(message, sent, total)

    async def _prove(self) -> None:
        try:
            seen = await inspect_image(self._client, self._name)
        except ImageNotFound:
            raise ImageLoadFailed(
                f"{self._image.reference}: {self._capabilities.kind} reported success but has no image "
                f"{self._name}; its log may say why"
            ) from None
        if not self._proves(seen):
            raise ImageLoadFailed(
                f"{self._image.reference}: {self._capabilities.kind} has image {seen.id} under the name "
                f"{self._name}, not {self._id}; another client may have loaded it at the same moment"
            )

    def _proves(self, seen: EngineImage) -> bool:
        return seen.id == self._id and seen.diff_ids == self._image.config.rootfs.diff_ids

    async def _inflated(self, omit: frozenset[ImageDigest]) -> dict[ImageDigest, Inflated]:
        """Measure the layers that the engine can't read compressed; their tar header needs the size."""
        if self._capabilities.reads_zstd:
            return {}
        found: dict[ImageDigest, Inflated] = {}
        limiter = anyio.CapacityLimiter(_INFLATERS)

        async def inflate(layer: LayerSpec, diff_id: ImageDigest, position: int) -> None:
            inflated = await in_thread(_measure_zstd, self._store, layer, limiter=limiter)
            if inflated is None:
                return
            if inflated.diff_id != diff_id:
                raise DigestMismatch(
                    f"{self._image.reference}: layer {position} ({layer.digest}) holds {inflated.diff_id}, "
                    f"but the config names {diff_id}; the image is broken at its source",
                    expected=diff_id,
                    actual=inflated.diff_id,
                    position=position,
                )
            found[layer.digest] = inflated

        pairs = zip(self._image.layers, self._image.config.rootfs.diff_ids, strict=True)
        async with task_group() as group:
            for position, (layer, diff_id) in enumerate(pairs):
                if layer.digest not in omit:
                    group.start_soon(inflate, layer, diff_id, position)
        return found

    def _read_blob(self, blob: Blob) -> AsyncGenerator[bytes]:
        if blob.inflated is None:
            return self._store.stream(blob.layer.digest, blob.layer.size)
        return _stream_inflated(self._store, blob.layer, blob.inflated)


def _measure_zstd(store: ImageStore, layer: LayerSpec) -> Inflated | None:
    with store.open_blob(layer.digest) as blob:
        head = blob.read(4)
        blob.seek(0)
        return measure(blob, layer.digest) if compression_of(head) == "zstd" else None


async def _stream_inflated(store: ImageStore, layer: LayerSpec, inflated: Inflated) -> AsyncGenerator[bytes]:
    reader = _InflatedReader(store, layer, inflated)
    try:
        while piece := await in_thread(reader.next):
            yield piece
    finally:
        reader.close()


class _InflatedReader:
    """Reads the content of a compressed blob, piece by piece; blocking, for worker threads."""

    def __init__(self, store: ImageStore, layer: LayerSpec, inflated: Inflated) -> None:
        self._store = store
        self._layer = layer
        self._inflated = inflated
        self._left = inflated.size
        self._hasher = inflated.diff_id.hasher()
        self._blob: BinaryIO | None = None
        self._content: BinaryIO | None = None

    def next(self) -> bytes:
        """Return the next piece, empty at the end; the last one only if the whole has the right hash."""
        if self._blob is None:
            self._blob = self._store.open_blob(self._layer.digest)
        if not self._left:
            return b""
        with telling_damage(self._blob, self._layer.digest):
            if self._content is None:
                self._content = open_inflated(self._blob)
            piece = self._content.read(min(CHUNK, self._left))
        self._hasher.update(piece)
        self._left -= len(piece)
        if not piece or (not self._left and self._hasher.hexdigest() != self._inflated.diff_id.hex):
            raise DigestMismatch(
                f"layer {self._layer.digest} in the store {self._store.path} changed while it was read",
                expected=self._inflated.diff_id,
                actual=f"sha256:{self._hasher.hexdigest()}",
            )
        return piece

    def close(self) -> None:
        """Close the blob."""
        if self._blob is not None:
            self._blob.close()
