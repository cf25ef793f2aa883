"""Download one layer into the store, as one stream or as several ranges at once, written in order (L3)."""

from __future__ import annotations

__all__ = ("Download", "Lanes")

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.ranges import SEGMENTS_KEPT, in_segments, segments_of
from aioruntime.errors import RegistryError, StoreError
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from aioruntime.assembly.source import BlobStream
    from aioruntime.oci.image import LayerSpec
    from aioruntime.registry.mirrors import Place
    from aioruntime.store.ingest import Ingest


@dataclass(frozen=True, slots=True)
class Lanes:
    """What the downloads of one fetch share.

    Args:
        connections: each body under way takes one of these.
        room: each segment takes one of these until it was written, so that memory is bounded.
    """

    connections: anyio.CapacityLimiter
    room: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(SEGMENTS_KEPT))


class _Segment:
    """A part of a layer, which waits in memory for its turn."""

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.length = length
        self.data = bytearray()
        self.failure: Exception | None = None
        self.refused = False
        self.in_room = False
        self.ended = anyio.Event()


class Download:
    """The download of one layer, which some bytes may be kept of.

    Args:
        layer: the layer.
        ingest: where its bytes go.
        open_range: opens the layer's body by offset and length; by offset alone, to its end.
        lanes: shared with other downloads.
        moved: told how many of its bytes are here, and how many that is more than the last time.

    Attributes:
        here: bytes that are here, those that wait to be written among them.
        received: bytes that came from the registry.
        source: who sent the last of them.
        public: whether anybody would be sent all of them.
        answers: how many answers they were put together from.
        place: who sent them, if that was one, and they may be had from elsewhere.
    """

    def __init__(
        self,
        layer: LayerSpec,
        ingest: Ingest,
        open_range: Callable[[int, int | None], AbstractAsyncContextManager[BlobStream]],
        lanes: Lanes,
        moved: Callable[[int, int], None],
    ) -> None:
        self.received = 0
        self.source = "an earlier download"
        self.public = True
        self.answers = 0
        self.place: Place | None = None
        self._places: set[Place | None] = set()
        self._size = layer.size
        self._ingest = ingest
        self._open_range = open_range
        self._lanes = lanes
        self._moved = moved
        self.here = ingest.offset
        self._failed = False

    async def run(self, *, spread: bool) -> None:
        """Bring all that is missing.

        Args:
            spread: whether several ranges may be asked for.

        Raises:
            RegistryError: some of it can't be had; what came before is kept.
            StoreError: it can't be written, or there is more of it than declared.
        """
        segments: list[_Segment] = []
        try:
            complete = await self._run(segments, spread=spread)
        finally:
            for segment in segments:
                if segment.in_room:
                    self._lanes.room.release()
        if not complete:
            # Some server behind that name knows no ranges. The bytes of later segments are lost.
            self._count(self._ingest.offset - self.here, received=0)
            await self.run(spread=False)

    async def _run(self, segments: list[_Segment], *, spread: bool) -> bool:
        """Do what `run` promises, unless a range is refused: return False then."""
        async with task_group() as group:
            async with self._lanes.connections:
                start = self._ingest.offset
                parts: list[tuple[int, int]] = []
                if spread and in_segments(self._size - start):
                    parts = segments_of(start, self._size)
                async with self._open_range(start, parts[0][1] if parts else None) as body:
                    if body.offset != start:
                        await self._restart()
                    self._blame(body)
                    if body.end < self._size:
                        segments += [_Segment(*part) for part in parts[1:]]
                        group.start_soon(self._fetch_all, segments)
                    async for chunk in body:
                        await self._ingest.write(chunk)
                        self._count(len(chunk))
                    self._note(body)
            complete = await self._write_all(segments)
            if not complete:
                group.cancel_scope.cancel()  # what is under way, or waits for room
        return complete

    async def _write_all(self, segments: list[_Segment]) -> bool:
        """Write the segments in their order; return whether there was one at each place."""
        for segment in segments:
            await segment.ended.wait()
            if segment.failure is not None:
                if isinstance(segment.failure, RegistryError):
                    await self._ingest.write(segment.data)
                raise segment.failure
            if segment.refused:
                return False
            await self._ingest.write(segment.data)
            segment.data = bytearray()
            segment.in_room = False
            self._lanes.room.release()
        return True

    async def _fetch_all(self, segments: list[_Segment]) -> None:
        async with task_group() as group:
            for segment in segments:
                await self._lanes.room.acquire()
                segment.in_room = True
                if self._failed:
                    return
                group.start_soon(self._fetch, segment)

    async def _fetch(self, segment: _Segment) -> None:
        try:
            async with self._lanes.connections, self._open_range(segment.offset, segment.length) as body:
                if (body.offset, body.end) == (segment.offset, segment.offset + segment.length):
                    self._blame(body)
                    async for chunk in body:
                        segment.data += chunk
                        self._count(len(chunk))
                    self._note(body)
                else:
                    segment.refused = self._failed = True
        except (RegistryError, StoreError) as exc:
            # Told in its turn, when all before it was written.
            segment.failure = exc
            self._failed = True
        segment.ended.set()

    def _count(self, by: int, *, received: int | None = None) -> None:
        self.here += by
        self.received += by if received is None else received
        self._moved(self.here, by)

    def _blame(self, body: BlobStream) -> None:
        self._places.add(body.place)
        self.place = body.place if len(self._places) == 1 else None

    def _note(self, body: BlobStream) -> None:
        self._blame(body)  # another may have taken over
        self.source = body.host
        self.public = self.public and body.public
        self.answers += body.answers
        self.received += body.repeated

    async def _restart(self) -> None:
        await self._ingest.restart()
        self._count(-self.here, received=0)
