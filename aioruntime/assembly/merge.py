"""Merge layers of an image into one, as a stream: read once for what there is, once for its bytes (L3)."""

from __future__ import annotations

__all__ = ("MergedLayer", "merge_layers")

import hashlib
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.changeset import Changeset
from aioruntime.assembly.inflate import CHUNK, Inflated, InflatedReader, telling_damage
from aioruntime.assembly.merge_plan import plan_merge
from aioruntime.assembly.tar import END, BadTar, TarReader, renamed
from aioruntime.errors import DigestMismatch, InvalidManifest
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator, Sequence

    from aioruntime.assembly.merge_plan import MergePlan, Rewrite
    from aioruntime.assembly.tar import Header
    from aioruntime.oci.image import ResolvedImage
    from aioruntime.store.store import ImageStore

# Reading archives is bound by the processor; two at a time leave room for the loop.
_READERS = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A layer that is merged with others.

    Args:
        what: the image and the layer's position in it, for messages.
        position: that position.
        layer: its blob in the store.
        diff_id: what its inflated content has to be.
    """

    what: str
    position: int
    layer: LayerSpec
    diff_id: ImageDigest

    @contextmanager
    def opened(self, store: ImageStore, *, checked: bool = False) -> Iterator[TarReader]:
        """Read the layer's archive; what is taken from it counts only when the context has ended well.

        Args:
            store: has the blob.
            checked: whether the content is held against the diff ID.

        Raises:
            InvalidManifest: it is not one that could be unpacked.
            DigestMismatch: its blob in the store was altered, or the image is broken at its source.
        """
        digest = self.layer.digest
        with store.open_blob(digest) as blob, telling_damage(blob, digest):
            content = InflatedReader(blob, self.layer, hashed=checked)
            try:
                yield TarReader(content)
            except BadTar as exc:
                raise InvalidManifest(f"{self.what} ({digest}) can't be merged with others: {exc}") from exc
            if checked:
                self._check(content.read_all())

    def _check(self, found: Inflated) -> None:
        if found.diff_id != self.diff_id:
            raise DigestMismatch(
                f"{self.what} ({self.layer.digest}) holds {found.diff_id}, but the config names "
                f"{self.diff_id}; the image is broken at its source",
                expected=self.diff_id,
                actual=found.diff_id,
                position=self.position,
            )


class MergedLayer:
    """The layer that stands for several; made by `merge_layers`.

    Attributes:
        size: bytes of its archive.
        content: its digest and size, once it was streamed to its end.
    """

    def __init__(self, store: ImageStore, parts: Sequence[Part], plan: MergePlan, size: int) -> None:
        self.size = size
        self.content: Inflated | None = None
        self._store = store
        self._parts = parts
        self._plan = plan

    async def measure(self) -> None:
        """Stream it to its end for `content` alone.

        Raises:
            InvalidManifest: as `stream`.
            DigestMismatch: as `stream`.
        """
        async with aclosing(self.stream()) as pieces:
            async for _ in pieces:
                pass

    async def stream(self) -> AsyncGenerator[bytes]:
        """Give the archive in pieces of about 1 MiB: the same bytes every time.

        Raises:
            InvalidManifest: a layer can't be unpacked.
            DigestMismatch: a blob in the store was altered, or the image is broken at its source.
        """
        pieces = self._gathered()
        try:
            while piece := await in_thread(next, pieces, b""):
                yield piece
        finally:
            pieces.close()

    def _gathered(self) -> Generator[bytes]:
        """Join small pieces, and hash them all."""
        hasher = hashlib.sha256()
        gathered, size = bytearray(), 0
        for piece in self._pieces():
            gathered += piece
            if len(gathered) >= CHUNK:
                hasher.update(gathered)
                size += len(gathered)
                yield bytes(gathered)
                gathered.clear()
        hasher.update(gathered)
        self.content = Inflated(ImageDigest(f"sha256:{hasher.hexdigest()}"), size + len(gathered))
        yield bytes(gathered)

    def _pieces(self) -> Iterator[bytes]:
        yield from self._plan.first
        for part, keep, rewrites in zip(self._parts, self._plan.keep, self._plan.rewrites, strict=True):
            with part.opened(self._store, checked=True) as reader:
                for position, header in enumerate(reader):
                    if keep[position]:
                        yield _blocks(header, rewrites.get(position))
                        yield from reader.content()
        yield END


async def merge_layers(image: ResolvedImage, first: int, store: ImageStore) -> MergedLayer:
    """Prepare one layer that stands for those of *image* from position *first* on.

    Args:
        image: its layers from *first* on are in the store.
        first: position of the first layer that is merged; those below stay layers of their own.
        store: has the blobs.

    Raises:
        InvalidManifest: a layer can't be unpacked, or engines would differ in how.
        DigestMismatch: a blob in the store was altered.
        LayersMissing: a layer is not in the store.
    """
    pairs = list(enumerate(zip(image.layers, image.config.rootfs.diff_ids, strict=True)))
    parts = [
        Part(f"{image.reference}: layer {position}", position, layer, diff_id)
        for position, (layer, diff_id) in pairs[first:]
    ]
    changesets = [Changeset(index) for index in range(len(parts))]
    limiter = anyio.CapacityLimiter(_READERS)

    async def scan(part: Part, changeset: Changeset) -> None:
        await in_thread(_scan, store, part, changeset, limiter=limiter)

    async with task_group() as group:
        for part, changeset in zip(parts, changesets, strict=True):
            group.start_soon(scan, part, changeset)
    return await in_thread(_merged, store, parts, changesets, first > 0)


def _scan(store: ImageStore, part: Part, changeset: Changeset) -> None:
    with part.opened(store) as reader:
        for header in reader:
            changeset.add(header)


def _merged(
    store: ImageStore, parts: Sequence[Part], changesets: Sequence[Changeset], on_base: bool
) -> MergedLayer:
    plan = plan_merge(changesets, on_base=on_base)
    size = sum(map(len, plan.first)) + len(END)
    for part, changeset, keep, rewrites in zip(parts, changesets, plan.keep, plan.rewrites, strict=True):
        size += sum(compress(changeset.lengths, keep))
        if rewrites:
            with part.opened(store) as reader:
                for position, header in enumerate(reader):
                    if (rewrite := rewrites.get(position)) is not None:
                        size += len(_blocks(header, rewrite)) - len(header.blocks)
    return MergedLayer(store, parts, plan, size)


def _blocks(header: Header, rewrite: Rewrite | None) -> bytes:
    return header.blocks if rewrite is None else renamed(header, rewrite.name, rewrite.link)
