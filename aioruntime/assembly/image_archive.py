"""The archive of one image for one engine, as its plan wants it: what goes in, and when (L3)."""

from __future__ import annotations

__all__ = ("ImageArchive", "expected_id")

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioruntime.assembly.archive import Entry, archive_size, blob_name, document_entries, stream_archive
from aioruntime.assembly.derive import merge_documents
from aioruntime.assembly.layer_stream import measure_zstd, stream_inflated
from aioruntime.assembly.merge import MergedLayer, merge_layers
from aioruntime.errors import DigestMismatch
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioruntime.assembly.arrivals import Arrivals
    from aioruntime.assembly.plan import LoadPlan
    from aioruntime.engine.capabilities import EngineCapabilities
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.store.store import ImageStore

_log = logging.getLogger("aioruntime")


def expected_id(image: ResolvedImage, capabilities: EngineCapabilities) -> ImageDigest:
    """Return the ID that an engine gives to *image* (containerd's store: the manifest's digest)."""
    if capabilities.image_store == "containerd":
        return image.manifest_digest
    return image.manifest.config.digest


class ImageArchive:
    """The archive that brings an image to an engine.

    Args:
        image: what is to be run.
        name: the full name, with tag, that the engine shall give it.
        plan: what is left out, and what is merged.
        store: has the layers, or will.
        engine: what the engine can read.

    Attributes:
        sent: the image as the engine gets it: *image*, or, when the archive has been streamed, that with
            layers merged.
    """

    def __init__(
        self,
        image: ResolvedImage,
        name: str,
        plan: LoadPlan,
        store: ImageStore,
        engine: EngineCapabilities,
    ) -> None:
        self.sent = image
        self._image = image
        self._name = name
        self._plan = plan
        self._store = store
        self._engine = engine

    @property
    def size(self) -> int | None:
        """Bytes of the archive; None if only inflating or merging tells."""
        if self._plan.merge_from is not None or not self._engine.reads_zstd:
            return None
        return archive_size([*self._documents(), *map(self._entry, self._layers())])

    async def stream(self, arrivals: Arrivals) -> AsyncGenerator[bytes]:
        """Give the archive's bytes, each layer when it has arrived in the store.

        Raises:
            DigestMismatch: a blob in the store was altered, or the image is broken at its source.
            InvalidManifest: a layer that has to be unpacked for the engine can't be.
        """
        first = self._plan.merge_from
        entries = self._entries(arrivals) if first is None else self._merged_entries(first, arrivals)
        async with aclosing(entries), aclosing(stream_archive(entries)) as pieces:
            async for piece in pieces:
                yield piece

    def _layers(self) -> list[LayerSpec]:
        """List the layers that are sent as layers of their own, each once."""
        layers = self._image.layers[: self._plan.merge_from]
        return [layer for layer in dict.fromkeys(layers) if layer.digest not in self._plan.omit]

    def _documents(self) -> list[Entry]:
        names = [blob_name(layer.digest) for layer in self._image.layers]
        return document_entries(self._image, self._name, names, layout=self._engine.reads_zstd)

    async def _entries(self, arrivals: Arrivals) -> AsyncGenerator[Entry]:
        for entry in self._documents():
            yield entry
        async with aclosing(arrivals.ordered(self._layers())) as arriving:
            async for layer in arriving:
                yield await self._readable(layer)

    def _entry(self, layer: LayerSpec) -> Entry:
        name, size = blob_name(layer.digest), layer.size
        return Entry(name, size, lambda: self._store.stream(layer.digest, size))

    async def _readable(self, layer: LayerSpec) -> Entry:
        """Return the layer's entry; inflated, if the engine can't read it as it is."""
        inflated = None
        if not self._engine.reads_zstd:
            inflated = await in_thread(measure_zstd, self._store, layer)
        if inflated is None:
            return self._entry(layer)
        self._check_diff_id(layer, inflated.diff_id)
        content = inflated
        name = blob_name(layer.digest)
        return Entry(name, content.size, lambda: stream_inflated(self._store, layer, content))

    def _check_diff_id(self, layer: LayerSpec, found: ImageDigest) -> None:
        for position, diff_id in enumerate(self._image.config.rootfs.diff_ids):
            if self._image.layers[position].digest == layer.digest and diff_id != found:
                raise DigestMismatch(
                    f"{self._image.reference}: layer {position} ({layer.digest}) holds {found}, but the "
                    f"config names {diff_id}; the image is broken at its source",
                    expected=diff_id,
                    actual=found,
                    position=position,
                )

    async def _merged_entries(self, first: int, arrivals: Arrivals) -> AsyncGenerator[Entry]:
        merged = await self._merged(first, arrivals)
        for layer in self._layers():
            yield await self._readable(layer)
        # An image layout names its blobs by their digests; a `docker save` archive as it likes.
        layout = merged.content is not None
        name = "merged.tar" if merged.content is None else blob_name(merged.content.diff_id)
        yield Entry(name, merged.size, merged.stream)
        assert merged.content is not None
        self.sent = merge_documents(self._image, first, merged.content)
        names = [*(blob_name(layer.digest) for layer in self._image.layers[:first]), name]
        for entry in document_entries(self.sent, self._name, names, layout=layout):
            yield entry

    async def _merged(self, first: int, arrivals: Arrivals) -> MergedLayer:
        # What goes in is known only when all layers have been looked through.
        async with aclosing(arrivals.ordered(self._image.layers)) as arriving:
            async for _ in arriving:
                pass
        last = len(self._image.layers) - 1
        _log.info("%s: layers %d to %d are merged into one", self._name, first, last)
        merged = await merge_layers(self._image, first, self._store)
        if self._engine.image_store == "containerd":
            await merged.measure()  # it wants every blob under its digest
        return merged
