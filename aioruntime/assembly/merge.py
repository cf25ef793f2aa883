"""Merge layers of an image, each group of neighbours into one, from scratch files (L3)."""

from __future__ import annotations

__all__ = ("merged_image",)

import hashlib
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.changeset import Changeset
from aioruntime.assembly.content import WithInflated
from aioruntime.assembly.derive import merge_documents
from aioruntime.assembly.inflate import CHUNK, Inflated
from aioruntime.assembly.merge_plan import plan_merge
from aioruntime.assembly.tar import END, BadTar, TarReader, renamed
from aioruntime.assembly.unpack import UnpackedLayer, unpack_layer
from aioruntime.errors import InvalidManifest
from aioruntime.oci.digest import ImageDigest
from aioruntime.tasks import in_thread, task_group, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence

    from aioruntime.assembly.arrivals import Arrivals
    from aioruntime.assembly.content import LayerContent
    from aioruntime.assembly.merge_plan import Rewrite
    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.store.scratch import Scratch
    from aioruntime.store.store import ImageStore

# Unpacking and merging are bound by the processor; two at a time leave room for the loop.
_WORKERS = 2


@asynccontextmanager
async def merged_image(
    image: ResolvedImage, groups: Sequence[range], store: ImageStore, arrivals: Arrivals
) -> AsyncIterator[tuple[ResolvedImage, LayerContent]]:
    """Make the image in which each of *groups* is one layer, for as long as the context lasts.

    The same image and groups give the same digests. For that time it takes what the merged layers have
    inflated on the store's disk.

    Args:
        image: what is to be run.
        groups: positions of the layers that become one, group by group, up to the last layer.
        store: has the layers, or will.
        arrivals: tells when each layer is in the store; when the context begins, all are.

    Returns:
        A context manager giving the new image, and what has its layers.

    Raises:
        InvalidManifest: a layer can't be unpacked, or engines would differ in how.
        DigestMismatch: a blob in the store was altered, or the image is broken at its source.
        StoreFull: the disk is full.
    """
    files = ExitStack()
    try:
        merging = _Merging(image, store, files)
        async with task_group() as tasks:
            for group in groups:
                tasks.start_soon(merging.merge, group, arrivals)
            await arrivals.all_of(image.layers)
        merged = [merging.merged[group] for group in groups]
        content = WithInflated({layer.content.diff_id: layer for layer in merged}, store)
        yield merge_documents(image, groups, [layer.content for layer in merged]), content
    finally:
        # To let go of large files takes the system a while.
        await to_completion(in_thread(files.close))


@dataclass(frozen=True, slots=True)
class _Part:
    """A layer that is merged with others: its archive, and what it changes."""

    unpacked: UnpackedLayer
    changeset: Changeset


class _Merging:
    """The groups of one image on their way into scratch files."""

    def __init__(self, image: ResolvedImage, store: ImageStore, files: ExitStack) -> None:
        self.merged: dict[range, _MergedLayer] = {}
        self._image = image
        self._store = store
        self._files = files
        self._workers = anyio.CapacityLimiter(_WORKERS)
        self._spools: list[Scratch] = []

    async def merge(self, group: range, arrivals: Arrivals) -> None:
        """Unpack each layer of *group* when it has arrived, then make them one."""
        parts: dict[int, _Part] = {}

        async def unpack(layer: LayerSpec) -> None:
            parts.update(await in_thread(self._unpack, group, layer, limiter=self._workers))

        async with task_group() as tasks, aclosing(self._arriving(group, arrivals)) as arriving:
            async for layer in arriving:
                tasks.start_soon(unpack, layer)
        ordered = [parts[position] for position in group]
        self.merged[group] = await in_thread(self._write, group, ordered, limiter=self._workers)

    def _arriving(self, group: range, arrivals: Arrivals) -> AsyncGenerator[LayerSpec]:
        return arrivals.ordered(self._image.layers[group.start : group.stop])

    def _unpack(self, group: range, layer: LayerSpec) -> dict[int, _Part]:
        """Unpack a layer, and see what it changes at each position of the group where it is."""
        # No more threads are here than there may be spools, each at work on one of its own.
        if not self._spools:
            self._spools.append(self._files.enter_context(self._store.open_scratch()))
        spool = self._spools.pop()
        try:
            unpacked = unpack_layer(self._image, layer, self._store, spool)
        finally:
            self._spools.append(spool)
        positions = [place for place in group if self._image.layers[place].digest == layer.digest]
        return {place: _Part(unpacked, self._changes(place, group, unpacked)) for place in positions}

    def _changes(self, position: int, group: range, unpacked: UnpackedLayer) -> Changeset:
        changeset = Changeset(position - group.start)
        try:
            for header in TarReader(_Reading(unpacked)):
                changeset.add(header)
        except BadTar as exc:
            raise InvalidManifest(
                f"{self._image.reference}: layer {position} ({self._image.layers[position].digest}) "
                f"can't be merged with others: {exc}"
            ) from exc
        return changeset

    def _write(self, group: range, parts: Sequence[_Part]) -> _MergedLayer:
        plan = plan_merge([part.changeset for part in parts], on_base=group.start > 0)
        segments: list[_Segment] = [_Segment(data=header) for header in plan.first]
        for part, keep, rewrites in zip(parts, plan.keep, plan.rewrites, strict=True):
            segments += _kept(part, keep, rewrites)
        return _MergedLayer([*segments, _Segment(data=END)])


class _Reading:
    """Reads an unpacked layer from *offset* on."""

    def __init__(self, unpacked: UnpackedLayer, offset: int = 0) -> None:
        self._unpacked = unpacked
        self._offset = offset

    def read(self, count: int) -> bytes:
        data = self._unpacked.read(self._offset, count)
        self._offset += len(data)
        return data

    def skip(self, count: int) -> int:
        skipped = min(count, self._unpacked.content.size - self._offset)
        self._offset += skipped
        return skipped


@dataclass(frozen=True, slots=True)
class _Segment:
    """Bytes of a merged layer: these, or a part of an unpacked one."""

    data: bytes = b""
    unpacked: UnpackedLayer | None = None
    start: int = 0
    stop: int = 0

    def pieces(self) -> Iterator[bytes]:
        if self.unpacked is None:
            yield self.data
        else:
            yield from self.unpacked.pieces(self.start, self.stop)


class _MergedLayer:
    """The layer that stands for several: what is to be taken from where. Making one reads all of it."""

    def __init__(self, segments: Sequence[_Segment]) -> None:
        self._segments = segments
        hasher, size = hashlib.sha256(), 0
        for piece in self.pieces():
            hasher.update(piece)
            size += len(piece)
        self.content = Inflated(ImageDigest.of_hash(hasher), size)

    def pieces(self) -> Iterator[bytes]:
        """Give its archive in pieces of about 1 MiB."""
        gathered = bytearray()
        for segment in self._segments:
            for piece in segment.pieces():
                gathered += piece
                if len(gathered) >= CHUNK:
                    yield bytes(gathered)
                    gathered.clear()
        yield bytes(gathered)


def _kept(part: _Part, keep: bytearray, rewrites: Mapping[int, Rewrite]) -> Iterator[_Segment]:
    """Tell what is kept of a layer's archive, neighbours in one segment."""
    for start, stop, rewrite in _runs(part.changeset, keep, rewrites):
        place = start
        if rewrite is not None:
            header = next(iter(TarReader(_Reading(part.unpacked, start))))
            yield _Segment(data=renamed(header, rewrite.name, rewrite.link))
            place += len(header.blocks)
        yield _Segment(unpacked=part.unpacked, start=place, stop=stop)


def _runs(
    changeset: Changeset, keep: bytearray, rewrites: Mapping[int, Rewrite]
) -> Iterator[tuple[int, int, Rewrite | None]]:
    """Give where what is kept begins and ends: entries that are rewritten alone, others with neighbours."""
    begin = end = 0
    entries = enumerate(zip(changeset.starts, changeset.lengths, strict=True))
    for position, (start, length) in compress(entries, keep):
        rewrite = rewrites.get(position)
        if rewrite is not None or start != end:
            if begin < end:
                yield begin, end, None
            begin = end = start
        if rewrite is not None:
            yield start, start + length, rewrite
            begin = start + length
        end = start + length
    if begin < end:
        yield begin, end, None
