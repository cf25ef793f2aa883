"""Fetch layers from a registry into the store: each digest once, largest first, bounded (L3)."""

from __future__ import annotations

__all__ = ("FetchReport", "combined", "fetch_layers", "prove_served")

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.download import Download, Lanes
from aioruntime.assembly.served import Served
from aioruntime.errors import AioRuntimeError, DigestMismatch, SizeMismatch, StoreError, StoreFull, one_line
from aioruntime.oci.digest import ImageDigest
from aioruntime.progress import LayerProgress, NoopProgress
from aioruntime.registry.mirrors import Place
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from aioruntime.assembly.source import BlobSource, BlobStream
    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.reference import OciRef
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.ingest import Ingest
    from aioruntime.store.store import ImageStore

# Layers whose digest lock is held or awaited at once; bounds open files, not connections.
_PENDING_LIMIT = 128


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a fetch did.

    Args:
        wanted: distinct layers that were asked for.
        fetched: layers that this call downloaded.
        downloaded_bytes: bytes received for them; less than their sizes where a download was resumed.
    """

    wanted: int
    fetched: tuple[ImageDigest, ...]
    downloaded_bytes: int


def combined(reports: Sequence[FetchReport]) -> FetchReport:
    """Add up the fetches of layers of one image, all of which one of them was asked for."""
    return FetchReport(
        max(report.wanted for report in reports),
        tuple(digest for report in reports for digest in report.fetched),
        sum(report.downloaded_bytes for report in reports),
    )


def download_order(layers: Sequence[LayerSpec]) -> list[LayerSpec]:
    """Put the largest first, so that none of them is left running alone at the end."""
    return sorted(layers, key=lambda layer: layer.size, reverse=True)


async def fetch_layers(
    layers: Sequence[LayerSpec],
    *,
    image: OciRef | None,
    source: BlobSource,
    store: ImageStore,
    progress: ProgressReporter,
    connections: anyio.CapacityLimiter,
    arrivals: Arrivals | None = None,
) -> FetchReport:
    """Bring every layer into the store.

    A layer that was there before counts only if the registry of *image* gave it to anybody, or its repository
    serves it too, which is asked once.

    Args:
        layers: what has to be in the store afterwards; repeated digests count once.
        image: the repository that layers without a ``blob_url`` come from; None if all have one.
        source: the registry client.
        store: where they go.
        progress: told the exact bytes of what is missing, and of each layer in flight.
        connections: how many bodies may be in flight at once.
        arrivals: told of each layer that is in the store, those that were there before first.

    Returns:
        What had to be downloaded.

    Raises:
        RegistryError: a layer could not be downloaded, or the repository does not serve one that is in the
            store; what had arrived is kept for the next attempt.
        DigestMismatch: the bytes are not those of the digest; they were thrown away.
        SizeMismatch: there are more or fewer than declared.
        StoreError: the store can't be read or written.
        StoreFull: there is not enough room for what is missing: nothing was requested; or somebody else took
            it meanwhile: what had arrived is kept, and the rest is what the error says is needed.
    """
    missing = download_order(await store.missing(layers))
    served = await Served.recall(image, source, store)
    fetch = _Fetch(image, source, store, progress, connections, arrivals or Arrivals(), served)
    try:
        await fetch.all(layers, missing)
    except AioRuntimeError as exc:
        with suppress(StoreError):  # the first error tells more
            await served.keep()
        if isinstance(exc, StoreFull):
            await fetch.tell_all_that_is_missing(exc, missing)
        raise
    await served.keep()
    return FetchReport(len({layer.digest for layer in layers}), tuple(fetch.fetched), fetch.downloaded)


async def prove_served(
    layers: Sequence[LayerSpec],
    *,
    image: OciRef,
    source: BlobSource,
    store: ImageStore,
    connections: anyio.CapacityLimiter,
) -> None:
    """Make sure that the repository of *image* serves those of its *layers* that are in the store.

    Raises:
        RegistryError: it does not serve one, or can't be asked.
        StoreError: the store can't be read or written.
    """
    missing = await store.missing(layers)
    served = await Served.recall(image, source, store)
    fetch = _Fetch(image, source, store, NoopProgress(), connections, Arrivals(), served)
    await fetch.all([layer for layer in layers if layer not in missing], ())
    await served.keep()


@dataclass(slots=True)
class _Way:
    """How a layer is fetched; changed when what came was wrong.

    Args:
        spread: whether several ranges may be asked for.
        failed: places that are avoided, and what was wrong with what they gave.
    """

    spread: bool = True
    failed: dict[Place, str] = field(default_factory=dict)

    def changed(self, download: Download, fault: DigestMismatch | SizeMismatch, kept: int) -> bool:
        """Choose another way after *fault*; False if there is none.

        What was put together from several answers, or from *kept* bytes, may be right when it comes from one.
        """
        if isinstance(fault, DigestMismatch) and self.spread and download.answers + (kept > 0) > 1:
            self.spread = False
        elif download.place is not None:
            self.failed[download.place] = str(fault)
        else:
            return False
        return True


class _Fetch:
    """The counters that the downloads of one call share."""

    def __init__(
        self,
        image: OciRef | None,
        source: BlobSource,
        store: ImageStore,
        progress: ProgressReporter,
        connections: anyio.CapacityLimiter,
        arrivals: Arrivals,
        served: Served,
    ) -> None:
        self.fetched: list[ImageDigest] = []
        self.downloaded = 0
        self._image = image
        self._what = str(image) if image is not None else "layers"
        self._source = source
        self._store = store
        self._progress = progress
        self._layer_progress = progress if isinstance(progress, LayerProgress) else None
        self._connections = connections
        self._arrivals = arrivals
        self._served = served
        # Questions are many and short; downloads shall not stand in line behind them.
        self._proofs = anyio.Semaphore(max(1, int(connections.total_tokens) // 2))
        self._lanes = Lanes(connections)
        self._total = 0
        self._current = 0

    async def all(self, layers: Sequence[LayerSpec], missing: Sequence[LayerSpec]) -> None:
        self._total = sum(layer.size for layer in missing)
        if missing:
            await self.check_room(missing)
        absent = {layer.digest for layer in missing}
        present = {layer.digest: layer for layer in layers if layer.digest not in absent}
        pending = anyio.Semaphore(_PENDING_LIMIT)
        async with task_group() as group:
            for layer in present.values():
                if self._served.covers(layer):
                    self._arrivals.arrived(layer.digest)
                else:
                    group.start_soon(self._prove, layer)
            for layer in missing:
                await pending.acquire()
                group.start_soon(self.run, layer, pending)

    async def _prove(self, layer: LayerSpec) -> None:
        if not self._served.covers(layer):
            async with self._proofs, self._connections:
                await self._served.prove(layer)
        self._arrivals.arrived(layer.digest)

    async def check_room(self, missing: Sequence[LayerSpec]) -> None:
        need, free = await self._store.unwritten(missing), await self._store.free_bytes()
        if free < need:
            raise StoreFull(
                f"{self._what}: {need} bytes are missing but the disk of {self._store.path} "
                f"has {free} free; make room there or set AIORUNTIME_STORE to another disk",
                need=need,
                have=free,
            )

    async def tell_all_that_is_missing(self, full: StoreFull, missing: Sequence[LayerSpec]) -> None:
        """Have *full*, which is of one file, say how many bytes all of the *missing* layers still need."""
        with suppress(StoreError):
            need = await self._store.unwritten(await self._store.missing(missing))
            if need > full.need:
                full.add_note(f"{need} bytes of the layers of {self._what} are still to be written")
                full.need = need

    async def run(self, layer: LayerSpec, pending: anyio.Semaphore) -> None:
        way = _Way()
        try:
            while not await self._bring(layer, way):
                pass
        except AioRuntimeError as exc:
            if way.failed:
                exc.add_note("before that: " + "; ".join(one_line(why, 200) for why in way.failed.values()))
            raise
        finally:
            pending.release()

    async def _bring(self, layer: LayerSpec, way: _Way) -> bool:
        """Bring a layer into the store; False if it is worth another try, another *way*."""
        # The digest's lock comes before the connection: who waits for another process holds no slot.
        async with self._store.ingest(layer.digest, layer.size) as ingest:
            if ingest is not None:
                return await self._download(layer, ingest, way)
            self._advance(layer, layer.size, layer.size)
            await self._prove(layer)
            return True

    async def _download(self, layer: LayerSpec, ingest: Ingest, way: _Way) -> bool:
        self._advance(layer, ingest.offset, ingest.offset)
        kept = ingest.offset
        open_range = partial(_open_range, self._source, self._image, layer, way.failed)
        download = Download(layer, ingest, open_range, self._lanes, partial(self._advance, layer))
        try:
            if kept < layer.size:
                try:
                    await download.run(spread=way.spread)
                finally:
                    self.downloaded += download.received
            else:
                await self._served.prove(layer)
            await ingest.commit(download.source)
        except (DigestMismatch, SizeMismatch) as exc:
            if not way.changed(download, exc, kept):
                raise
            self._advance(layer, 0, -download.here)
            return False
        if kept < layer.size:
            self._served.add(layer, public=download.public)
        if kept < layer.size or not layer.size:
            self.fetched.append(layer.digest)
        self._arrivals.arrived(layer.digest)
        return True

    def _advance(self, layer: LayerSpec, current: int, by: int) -> None:
        self._current += by
        if self._layer_progress is not None:
            self._layer_progress.layer(layer.digest, current, layer.size)
        self._progress.update(f"fetching {self._what}", self._current, self._total)


def _open_range(
    source: BlobSource,
    image: OciRef | None,
    layer: LayerSpec,
    avoiding: Collection[Place],
    offset: int,
    length: int | None,
) -> AbstractAsyncContextManager[BlobStream]:
    return source.blob(image, layer, offset=offset, length=length, avoiding=avoiding)
