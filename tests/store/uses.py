"""Uses of a store: what each does, and what has to come of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aioruntime.errors import (
    DigestMismatch,
    InvalidSpec,
    LayersMissing,
    NotStored,
    SizeMismatch,
    StoreError,
    StoreFull,
)
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor
from aioruntime.store import files
from tests.store.helpers import MANIFEST_TYPE
from tests.store.model import CONTENT, State

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.store import ImageStore

_HOUR = 3600 * 10**9


class Blocked(Exception):
    """Another process holds what is wanted."""


def _file(digest: ImageDigest) -> str:
    return f"{digest.algorithm}-{digest.hex}"


Outcome = tuple[Any, State]


class Use:
    """A use of the store: what it does, and what has to come of it."""

    process = ""

    def prepare(self, root: Path) -> None:
        """Arrange what is not the store's doing."""

    async def run(self, store: ImageStore) -> Any:
        raise NotImplementedError

    def expect(self, state: State) -> Outcome:
        """Return the result, or the type of the exception, and the state afterwards."""
        raise NotImplementedError


@dataclass
class Ingest(Use):
    """A blob is written, in pieces.

    Args:
        digest: the blob.
        sized: whether its size is known.
        wrong: the byte that is wrong, or as many too many if there is no such byte and no size; None if all
            are right.
        until: bytes to write; all if there are no more.
        commit: whether it is committed then, or left.
        piece: bytes of a piece.
        restart: whether what was kept is thrown away.
    """

    digest: ImageDigest
    sized: bool = True
    wrong: int | None = None
    until: int = 10**6
    commit: bool = True
    piece: int = 100
    restart: bool = False

    def _data(self) -> bytes:
        data = bytearray(CONTENT[self.digest])
        if self.wrong is not None and self.wrong < len(data):
            data[self.wrong] ^= 1
        elif self.wrong is not None and not self.sized:
            data += bytes(self.wrong)
        return bytes(data)

    async def run(self, store: ImageStore) -> Any:
        data = self._data()
        size = len(CONTENT[self.digest])
        async with store.ingest(self.digest, size if self.sized else None) as ingest:
            if ingest is None:
                return "present"
            if self.restart:
                await ingest.restart()
            kept = ingest.kept
            while ingest.offset < min(self.until, len(data)):
                end = min(ingest.offset + self.piece, self.until, len(data))
                try:
                    await ingest.write(data[ingest.offset : end])
                except StoreFull:
                    # There is room again: go on, as a new download would, with what is right and no more.
                    vars(files)["os"].trouble = None
                    kept = -1
                    await ingest.write(CONTENT[self.digest][ingest.offset :])
                    break
            if not self.commit:
                return "left", kept
            await ingest.commit("registry.test")
        return "committed", kept

    def expect(self, state: State) -> Outcome:
        digest, size = self.digest, len(CONTENT[self.digest])
        blob = state.blobs.get(digest)
        if blob is not None and (not self.sized or len(blob) == size):
            return "present", state
        if digest in state.held:
            return Blocked, state
        kept = state.partial.get(digest, b"")
        kept = b"" if self.restart or (self.sized and len(kept) > size) else kept
        written = kept + self._data()[len(kept) : max(self.until, len(kept))]
        partial = {name: data for name, data in state.partial.items() if name != digest}
        if not self.commit:
            left = {digest: written} if written else {}
            return ("left", len(kept)), replace(state, partial={**partial, **left})
        if self.sized and len(written) != size:
            return SizeMismatch, replace(state, partial={**partial, **({digest: written} if written else {})})
        if written != CONTENT[digest]:
            return DigestMismatch, replace(state, partial=partial)
        blobs = {**state.blobs, digest: written}
        return ("committed", len(kept)), replace(state, partial=partial, blobs=blobs)


@dataclass
class Put(Use):
    """A small blob is stored as a whole."""

    digest: ImageDigest
    wrong: bool = False

    async def run(self, store: ImageStore) -> Any:
        await store.put(CONTENT[self.digest] + b"!" * self.wrong, self.digest)

    def expect(self, state: State) -> Outcome:
        if self.wrong:
            return DigestMismatch, state
        if state.blobs.get(self.digest) == CONTENT[self.digest]:
            return None, state
        if self.digest in state.held:
            return Blocked, state
        partial = {name: data for name, data in state.partial.items() if name != self.digest}
        return None, replace(state, blobs={**state.blobs, self.digest: CONTENT[self.digest]}, partial=partial)


@dataclass
class SetName(Use):
    """An image is named."""

    name: str
    digest: ImageDigest

    async def run(self, store: ImageStore) -> Any:
        await store.set_reference(
            self.name, Descriptor(MANIFEST_TYPE, self.digest, len(CONTENT[self.digest]))
        )

    def expect(self, state: State) -> Outcome:
        if len(state.blobs.get(self.digest, b"")) != len(CONTENT[self.digest]):
            return LayersMissing, state
        after = state.renamed({**state.named, self.name: self.digest}, state.pins)
        # Also what another tool gave that name is ours from now on.
        record = {**after.record, self.name: self.digest}
        return None, replace(after, record=record, index={**after.index, self.name: self.digest})


@dataclass
class Pin(Use):
    """An image is pinned, or is not any more."""

    name: str
    pinned: bool = True

    async def run(self, store: ImageStore) -> Any:
        await (store.pin if self.pinned else store.unpin)(self.name)

    def expect(self, state: State) -> Outcome:
        if self.name not in state.named:
            return NotStored, state
        pins = state.pins | {self.name} if self.pinned else state.pins - {self.name}
        return None, state.renamed(state.named, pins)


@dataclass
class Remove(Use):
    """An image is removed, given a name or a digest of it."""

    image: str

    async def run(self, store: ImageStore) -> Any:
        return await store.remove(self.image)

    def expect(self, state: State) -> Outcome:
        if state.garbled:
            return StoreError, state
        gone = {name for name, digest in state.named.items() if self.image in (name, digest)}
        if not gone:
            return NotStored, state
        if gone & state.pins:
            return InvalidSpec, state
        return _without(state, gone)


def _without(state: State, names: set[str]) -> Outcome:
    left = {name: digest for name, digest in state.named.items() if name not in names}
    after = state.renamed(left, state.pins - names)
    trees = set().union(*(state.tree(state.named[name]) for name in names))
    gone = trees & state.blobs.keys() - after.named_blobs() - state.leased
    if after.all_unread:
        gone.clear()
    blobs = {digest: data for digest, data in state.blobs.items() if digest not in gone}
    return sum(len(state.blobs[digest]) for digest in gone), replace(after, blobs=blobs)


@dataclass
class Prune(Use):
    """What is not needed is collected.

    Args:
        ranks: digests, the one used last first: 20 minutes lie between two, and that of the first ahead.
        max_bytes: as `ImageStore.prune` takes it.
        hours: as *older_than*.
        dry: as *dry_run*.
        fresh: what was used since all got their times.
    """

    ranks: list[ImageDigest]
    max_bytes: int | None = None
    hours: int | None = None
    dry: bool = False
    fresh: frozenset[ImageDigest] = frozenset()

    def _age(self, digest: ImageDigest) -> int:
        return 0 if digest in self.fresh else self.ranks.index(digest) * _HOUR // 3

    def prepare(self, root: Path) -> None:
        now = time.time_ns() - 10**9
        for digest in self.ranks:
            at = now - self._age(digest) if self._age(digest) else now + 10**6 * _HOUR
            for path in (root / "blobs/sha256" / digest.hex, root / "aioruntime/used" / _file(digest)):
                if path.exists():
                    os.utime(path, ns=(at, at))
            path = root / "ingest" / _file(digest)
            if path.exists():
                os.utime(path, ns=(at - 10**9, at - 10**9))

    async def run(self, store: ImageStore) -> Any:
        age = None if self.hours is None else timedelta(hours=self.hours)
        report = await store.prune(max_bytes=self.max_bytes, older_than=age, dry_run=self.dry, wait=0)
        return set(report.images), set(report.blobs), report.freed_bytes, report.kept_bytes

    def expect(self, state: State) -> Outcome:
        if state.garbled:
            return StoreError, state
        used = {
            name: self._age(digest)
            for name, digest in state.named.items()
            if name not in state.pins and digest not in state.leased
            # Of what is neither here nor was ever used, nobody knows when it was.
        }
        for name in used:
            if state.named[name] not in state.blobs and state.named[name] not in state.stamps:
                used[name] = 10**19
        images = {n for n, age in used.items() if self.hours is not None and age >= self.hours * _HOUR}
        _, after = _without(state, images)
        partial = {d: self._age(d) and self._age(d) + 10**9 for d in state.partial if d not in state.leased}
        waste = {d for d, age in partial.items() if age >= _HOUR}
        loose = state.blobs.keys() - after.named_blobs() - state.leased
        if after.all_unread:
            loose.clear()
            used.clear()
        old = {d for d in loose & after.blobs.keys() if self._age(d) >= _HOUR}
        gone = (state.blobs.keys() - after.blobs.keys()) | old
        if self.max_bytes is not None:
            queue: list[tuple[int, int, str]] = [(self._age(d), 0, d) for d in loose - gone]
            queue += [(age, 1, d) for d, age in partial.items() if d not in waste]
            queue += [(age, 2, n) for n, age in used.items() if n not in images]
            for _, kind, item in sorted(queue, key=lambda entry: (-entry[0], entry[1])):
                bytes_left = sum(len(data) for d, data in state.blobs.items() if d not in gone)
                bytes_left += sum(len(data) for d, data in state.partial.items() if d not in waste)
                if bytes_left <= self.max_bytes:
                    break
                if kind == 0:
                    gone.add(ImageDigest(item))
                elif kind == 1:
                    waste.add(ImageDigest(item))
                else:
                    images.add(item)
                    lesser = _without(state, images)[1]
                    gone |= state.blobs.keys() - lesser.blobs.keys()
        return self._outcome(state, images, gone, waste)

    def _outcome(
        self, state: State, images: set[str], gone: set[ImageDigest], waste: set[ImageDigest]
    ) -> Outcome:
        waste = waste if self.dry else waste - state.held
        freed = sum(len(state.blobs[d]) for d in gone) + sum(len(state.partial[d]) for d in waste)
        after = _without(state, images)[1]
        unread = {digest.hex for digest in after.all_unread}
        damaged = tuple(aside for aside in state.damaged if aside[0] in unread)
        freed += sum(size for _, size in state.damaged) - sum(size for _, size in damaged)
        result = images, gone, freed, state.total - freed
        if self.dry:
            return result, state
        return result, replace(
            after,
            blobs={d: data for d, data in state.blobs.items() if d not in gone},
            partial={d: data for d, data in state.partial.items() if d not in waste},
            damaged=damaged,
        )


@dataclass
class Note(Use):
    """A note of ours gets longer."""

    async def run(self, store: ImageStore) -> Any:
        return await store.update_note("note", lambda old: (old or b"") + b"1")

    def expect(self, state: State) -> Outcome:
        note = (state.note or b"") + b"1"
        return note, replace(state, note=note)


@dataclass
class Discard(Use):
    """A blob is removed if it is damaged."""

    digest: ImageDigest

    async def run(self, store: ImageStore) -> Any:
        return await store.discard_damaged(self.digest)

    def expect(self, state: State) -> Outcome:
        if state.blobs.get(self.digest) in (None, CONTENT[self.digest]):
            return False, state
        if self.digest in state.held:
            return Blocked, state
        blobs = {digest: data for digest, data in state.blobs.items() if digest != self.digest}
        # The lock is a partial one, and goes with it if it is empty.
        partial = {digest: data for digest, data in state.partial.items() if digest != self.digest or data}
        return True, replace(state, blobs=blobs, partial=partial)


@dataclass
class Lease(Use):
    """Blobs are in use from now on."""

    digests: list[ImageDigest]
    image: ImageDigest | None = None

    async def run(self, store: ImageStore) -> Any:
        context = store.lease(self.digests, image=self.image)
        await context.__aenter__()
        return context

    def expect(self, state: State) -> Outcome:
        return None, replace(state, leases=(*state.leases, (self.process, tuple(self.digests))))


def touched(use: Use) -> frozenset[ImageDigest]:
    """Return what has been used just now after a use."""
    if isinstance(use, Ingest | Put | SetName):
        return frozenset({use.digest})
    return frozenset({use.image} if isinstance(use, Lease) and use.image is not None else ())
