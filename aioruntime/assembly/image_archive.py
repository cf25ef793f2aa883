"""The archive of one image for one engine: which files go in, and when (L3)."""

from __future__ import annotations

__all__ = ("ImageArchive", "expected_id")

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.archive import Entry, archive_size, blob_name, document_entries, stream_archive
from aioruntime.assembly.content import stream_inflated
from aioruntime.assembly.inflate import compression_of
from aioruntime.assembly.unpack import unpack_layer
from aioruntime.oci.digest import ImageDigest
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from anyio.streams.memory import MemoryObjectSendStream

    from aioruntime.assembly.arrivals import Arrivals
    from aioruntime.assembly.content import LayerContent
    from aioruntime.assembly.unpack import UnpackedLayer
    from aioruntime.engine.capabilities import EngineCapabilities
    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.oci.media_types import Compression
    from aioruntime.store.store import ImageStore

# Layers that are inflated while another one is sent.
_AHEAD = 3


def expected_id(image: ResolvedImage, capabilities: EngineCapabilities) -> ImageDigest:
    """Return the ID that an engine gives to *image* (containerd's store: the manifest's digest).

    Every other takes the sha256 of the config, whatever the manifest names it by.
    """
    if capabilities.image_store == "containerd":
        return image.manifest_digest
    named = image.manifest.config.digest
    return named if named.algorithm == "sha256" else ImageDigest.of(image.raw_config)


class ImageArchive:
    """The archive that brings an image to an engine.

    `prepare` and `stream` run side by side: the one makes layers ready as they arrive, the other gives the
    bytes.

    Args:
        image: what is sent.
        name: the full name, with tag, that the engine shall give it.
        content: has the layers, or will.
        store: has those that are compressed.
        omit: layers that are left out.
        inflated: layers that are not compressed, as is known.
        inflate: the compressions that are undone for the engine.
    """

    def __init__(
        self,
        image: ResolvedImage,
        name: str,
        content: LayerContent,
        store: ImageStore,
        *,
        omit: frozenset[ImageDigest],
        inflated: frozenset[ImageDigest],
        inflate: frozenset[Compression],
    ) -> None:
        self._image = image
        self._name = name
        self._content = content
        self._store = store
        self._inflate = inflate
        self._inflated = inflated
        self._layers = [layer for layer in dict.fromkeys(image.layers) if layer.digest not in omit]

    @property
    def size(self) -> int | None:
        """Bytes of the archive; None if only inflating tells."""
        if not all(map(self._is_ready, self._layers)):
            return None
        return archive_size([*self._documents(), *map(self._entry, self._layers)])

    def _is_ready(self, layer: LayerSpec) -> bool:
        return not self._inflate or layer.digest in self._inflated

    def _documents(self) -> list[Entry]:
        names = [blob_name(layer.digest) for layer in self._image.layers]
        # An image layout names its blobs by their digests, which inflated ones don't have.
        return document_entries(self._image, self._name, names, layout=not self._inflate)

    def _entry(self, layer: LayerSpec) -> Entry:
        return Entry(
            blob_name(layer.digest), layer.size, partial(self._content.stream, layer.digest, layer.size)
        )

    async def stream(self, layers: AsyncIterator[Entry]) -> AsyncGenerator[bytes]:
        """Give the archive's bytes.

        Args:
            layers: what `prepare` sends.

        Raises:
            DigestMismatch: a blob in the store was altered.
        """
        entries = self._entries(layers)
        async with aclosing(entries), aclosing(stream_archive(entries)) as pieces:
            async for piece in pieces:
                yield piece

    async def _entries(self, layers: AsyncIterator[Entry]) -> AsyncGenerator[Entry]:
        for entry in self._documents():
            yield entry
        async for entry in layers:
            yield entry

    async def prepare(self, arrivals: Arrivals, out: MemoryObjectSendStream[Entry]) -> None:
        """Send out the layers as they arrive, each when the engine can read it.

        Raises:
            DigestMismatch: a blob in the store was altered, or the image is broken at its source.
            InvalidManifest: a layer that has to be inflated can't be.
            StoreFull: there is no room to inflate it.
        """
        slots = anyio.Semaphore(_AHEAD)
        async with out, task_group() as tasks, aclosing(arrivals.ordered(self._layers)) as arriving:
            async for layer in arriving:
                if self._is_ready(layer):
                    await out.send(self._entry(layer))
                else:
                    await slots.acquire()
                    tasks.start_soon(self._send_inflated, layer, out, slots)
            # What is left out counts too: only a layer in the store is one that the repository serves.
            await arrivals.all_of(self._image.layers)

    async def _send_inflated(
        self, layer: LayerSpec, out: MemoryObjectSendStream[Entry], slots: anyio.Semaphore
    ) -> None:
        try:
            if await in_thread(self._compression, layer) not in self._inflate:
                await out.send(self._entry(layer))
                return
            with await in_thread(self._store.open_scratch) as scratch:
                unpacked = await in_thread(unpack_layer, self._image, layer, self._store, scratch)
                taken = anyio.Event()
                source = partial(_until_taken, unpacked, taken)
                await out.send(Entry(blob_name(layer.digest), unpacked.content.size, source))
                await taken.wait()
        finally:
            slots.release()

    def _compression(self, layer: LayerSpec) -> Compression:
        with self._store.open_blob(layer.digest) as blob:
            return compression_of(blob.read(4))


async def _until_taken(unpacked: UnpackedLayer, taken: anyio.Event) -> AsyncGenerator[bytes]:
    async with aclosing(stream_inflated(unpacked)) as pieces:
        async for piece in pieces:
            yield piece
    taken.set()
