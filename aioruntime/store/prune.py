"""Decide what is collected (L2): from what lies in the store, without I/O."""

from __future__ import annotations

__all__ = ("Plan", "plan_prune", "plan_removal")

from collections import Counter
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aioruntime.store.survey import Found, Seen, Survey

# What no image has may belong to one that is about to be made: an hour after its last use it is waste.
_UNNAMED_NS = 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be collected.

    Args:
        images: digests by name, those not used for the longest time first.
        blobs: sizes by digest.
        partial: names of downloads that were begun.
        damaged: names of what was put aside.
        freed: bytes of all that.
        kept: bytes of what stays.
        forced: whether the images go also if they are in use; what is used of them stays.
    """

    images: dict[str, ImageDigest]
    blobs: dict[ImageDigest, int]
    partial: tuple[str, ...]
    damaged: tuple[str, ...]
    freed: int
    kept: int
    forced: bool = False


class _Keeping:
    """What would stay, while more and more goes."""

    def __init__(self, survey: Survey) -> None:
        self.images: dict[str, ImageDigest] = {}
        self.blobs: dict[ImageDigest, int] = {}
        self.partial: dict[str, None] = {}
        self.damaged: list[str] = []
        self.total = survey.total
        self._survey = survey
        self._users = Counter(digest for image in survey.images for digest in image.tree.blobs)

    def drop_image(self, image: Seen) -> None:
        self.images[image.name] = image.digest
        self._users.subtract(image.tree.blobs)
        for digest in image.tree.blobs:
            self.drop_blob(digest)

    def drop_blob(self, digest: ImageDigest) -> None:
        """Drop a blob unless an image has it that stays, or it is in use."""
        found = self._survey.blobs.get(digest)
        used = self._users[digest] or digest in self._survey.leased
        if found is not None and not used and digest not in self.blobs:
            self.blobs[digest] = found.size
            self.total -= found.size

    def drop_partial(self, name: str) -> None:
        if name.replace("-", ":", 1) not in self._survey.leased and name not in self.partial:
            self.partial[name] = None
            self.total -= self._survey.partial[name].size

    def drop_damaged(self, name: str) -> None:
        self.damaged.append(name)
        self.total -= self._survey.damaged[name].size

    def unnamed(self) -> list[tuple[ImageDigest, Found]]:
        users, gone = self._users, self.blobs
        return [item for item in self._survey.blobs.items() if not users[item[0]] and item[0] not in gone]

    def plan(self, *, forced: bool = False) -> Plan:
        return Plan(
            self.images,
            self.blobs,
            tuple(self.partial),
            tuple(self.damaged),
            self._survey.total - self.total,
            self.total,
            forced,
        )


def plan_prune(survey: Survey, now: int, *, max_bytes: int | None, older_than: int | None) -> Plan:
    """Decide what goes: what nothing needs, then images not used for long, until the rest is small enough.

    A time of use that lies ahead, after a clock was set back, counts as now.

    Args:
        survey: what lies in the store.
        now: nanoseconds since 1970.
        max_bytes: bytes that may stay; None if any number may.
        older_than: nanoseconds without use after which an image goes; None if no time is too long.
    """
    keeping = _Keeping(survey)
    for name in survey.damaged:
        keeping.drop_damaged(name)
    images = [image for image in survey.images if not image.pinned and image.digest not in survey.leased]
    images.sort(key=lambda image: min(image.used, now))
    if older_than is not None:
        while images and now - min(images[0].used, now) >= older_than:
            keeping.drop_image(images.pop(0))
    for digest, found in keeping.unnamed():
        if now - min(found.used, now) >= _UNNAMED_NS:
            keeping.drop_blob(digest)
    for name, found in survey.partial.items():
        if now - min(found.used, now) >= _UNNAMED_NS:
            keeping.drop_partial(name)
    if max_bytes is not None and keeping.total > max_bytes:
        _shrink(keeping, survey, images, max_bytes, now)
    return keeping.plan()


def _shrink(keeping: _Keeping, survey: Survey, images: list[Seen], max_bytes: int, now: int) -> None:
    """Drop what was not used for the longest time, until the rest is small enough."""
    queue: list[tuple[int, Callable[[], None]]] = [
        (min(image.used, now), partial(keeping.drop_image, image)) for image in images
    ]
    queue += [
        (min(found.used, now), partial(keeping.drop_blob, digest)) for digest, found in keeping.unnamed()
    ]
    queue += [
        (min(found.used, now), partial(keeping.drop_partial, name)) for name, found in survey.partial.items()
    ]
    queue.sort(key=itemgetter(0))
    for _, drop in queue:
        if keeping.total <= max_bytes:
            break
        drop()


def plan_removal(survey: Survey, names: Collection[str]) -> Plan:
    """Decide what goes with some images: what no other has, and nobody uses."""
    keeping = _Keeping(survey)
    for image in survey.images:
        if image.name in names:
            keeping.drop_image(image)
    return keeping.plan(forced=True)
