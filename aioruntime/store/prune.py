"""Decide what is collected (L2): from what lies in the store, without I/O."""

from __future__ import annotations

__all__ = ("UNNAMED_NS", "Plan", "plan_prune", "plan_removal")

import heapq
from collections import Counter
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest
from aioruntime.store.layout import digest_of_partial, hash_put_aside
from aioruntime.store.order import by_parts
from aioruntime.store.survey import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from aioruntime.store.survey import Survey
    from aioruntime.store.tree import Tree

# What no image has may belong to one that is about to be made: an hour after its last use it is waste.
UNNAMED_NS = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be collected.

    Args:
        images: digests by name, those not used for the longest time first.
        blobs: sizes by digest, which are plain texts, as in `Survey`.
        partial: names of downloads that were begun.
        damaged: names of what was put aside.
        freed: bytes of all that.
        kept: bytes of what stays.
        forced: whether the images go also if they are in use; what is used of them stays.
        unclear: named images that stay, though it is not known what they need: so no blob goes.
    """

    images: dict[str, ImageDigest]
    blobs: dict[str, int]
    partial: tuple[str, ...]
    damaged: tuple[str, ...]
    freed: int
    kept: int
    forced: bool = False
    unclear: tuple[str, ...] = ()


class _Keeping:
    """What would stay, while more and more goes."""

    def __init__(self, survey: Survey) -> None:
        self.images: dict[str, ImageDigest] = {}
        self.blobs: dict[str, int] = {}
        self.partial: dict[str, None] = {}
        self.damaged: list[str] = []
        unread = {image.name: image.tree.unread for image in survey.images}
        unread |= {str(root): tree.unread for root, tree in survey.others.items()}
        # What stays though not all of its documents can be read: any blob may be of it.
        self.unread = {name: documents for name, documents in unread.items() if documents}
        self._left: list[Tree] = []
        self.total = survey.total
        self._survey = survey
        trees = [*(image.tree for image in survey.images), *survey.others.values()]
        self._users = Counter(digest for tree in trees for digest in tree.blobs)

    def drop_image(self, image: Seen) -> None:
        self.images[image.name] = image.digest
        self._users.subtract(image.tree.blobs)
        self.unread.pop(image.name, None)
        self._left.append(image.tree)
        if not self.unread:
            for tree in self._left:
                for digest in tree.blobs:
                    self.drop_blob(digest)
            self._left.clear()

    def drop_blob(self, digest: str) -> None:
        """Drop a blob unless an image has it that stays, or it is in use."""
        size = self._survey.blobs.get(digest)
        used = self._users[digest] or digest in self._survey.leased
        if size is not None and not used and digest not in self.blobs:
            self.blobs[digest] = size
            self.total -= size

    def drop_partial(self, name: str) -> None:
        if digest_of_partial(name) not in self._survey.leased and name not in self.partial:
            self.partial[name] = None
            self.total -= self._survey.partial[name].size

    def drop_damaged(self) -> None:
        """Drop what was put aside, but for what tells that a document is not just one of other platforms."""
        kept = {document.hex for documents in self.unread.values() for document in documents}
        self.damaged = [name for name in self._survey.damaged if hash_put_aside(name) not in kept]
        self.total -= sum(self._survey.damaged[name].size for name in self.damaged)

    def unnamed(self) -> list[str]:
        """List what no image has; nothing if that is not known."""
        if self.unread:
            return []
        users, gone = self._users, self.blobs
        return [digest for digest in self._survey.blobs if not users[digest] and digest not in gone]

    def plan(self, *, forced: bool = False) -> Plan:
        return Plan(
            self.images,
            self.blobs,
            tuple(self.partial),
            tuple(self.damaged),
            self._survey.total - self.total,
            self.total,
            forced,
            tuple(self.unread),
        )


def plan_prune(survey: Survey, now: int, *, max_bytes: int | None, older_than: int | None) -> Plan:
    """Decide what goes: what nothing needs, then images not used for long, until the rest is small enough.

    A time of use that lies ahead, after a clock was set back, counts as now. While an image stays of which a
    document can't be read, no blob goes, since it may be of that image.

    Args:
        survey: what lies in the store.
        now: nanoseconds since 1970.
        max_bytes: bytes that may stay; None if any number may.
        older_than: nanoseconds without use after which an image goes; None if no time is too long.
    """
    keeping = _Keeping(survey)
    images = [image for image in survey.images if not image.pinned and image.digest not in survey.leased]
    images.sort(key=lambda image: min(image.used, now))
    if older_than is not None:
        while images and now - min(images[0].used, now) >= older_than:
            keeping.drop_image(images.pop(0))
    keeping.drop_damaged()
    for digest in keeping.unnamed():
        if now - survey.used[digest] >= UNNAMED_NS:
            keeping.drop_blob(digest)
    for name, found in survey.partial.items():
        if now - found.used >= UNNAMED_NS:
            keeping.drop_partial(name)
    if keeping.unread:
        images = []  # without them no more is freed
    if max_bytes is not None and keeping.total > max_bytes:
        for drop in _least_recent_first(keeping, survey, images, now):
            drop()
            if keeping.total <= max_bytes:
                break
    return keeping.plan()


def _least_recent_first(
    keeping: _Keeping, survey: Survey, images: list[Seen], now: int
) -> Iterator[Callable[[], None]]:
    """Give what drops images, blobs of no image and partial downloads, in the order of their last use."""
    used, begun = survey.used, survey.partial
    blobs = by_parts(keeping.unnamed(), lambda digest: used[digest])
    partials = sorted(begun, key=lambda name: begun[name].used)
    queues: tuple[Iterator[tuple[int, Callable[[], None]]], ...] = (
        ((min(image.used, now), partial(keeping.drop_image, image)) for image in images),
        ((min(used[digest], now), partial(keeping.drop_blob, digest)) for digest in blobs),
        ((min(begun[name].used, now), partial(keeping.drop_partial, name)) for name in partials),
    )
    return (drop for _, drop in heapq.merge(*queues, key=itemgetter(0)))


def plan_removal(survey: Survey, names: Collection[str]) -> Plan:
    """Decide what goes with some images: what no other has, and nobody uses."""
    keeping = _Keeping(survey)
    others = [Seen(str(root), root, tree, 0, pinned=False) for root, tree in survey.others.items()]
    for image in (*survey.images, *others):
        if image.name in names:
            keeping.drop_image(image)
    return keeping.plan(forced=True)
