"""What a store tells of itself, from what was found in it (L2): decided without I/O."""

from __future__ import annotations

__all__ = ("stored_blobs", "stored_images", "usage_of")

from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest
from aioruntime.store.order import by_parts
from aioruntime.store.values import StoredBlob, StoredImage, StoreUsage

if TYPE_CHECKING:
    from aioruntime.store.survey import Survey


def stored_images(survey: Survey) -> list[StoredImage]:
    """Describe the named images, by name."""
    trees = {image.digest: image.tree for image in survey.images}
    users = Counter(blob for tree in trees.values() for blob in tree.blobs)
    digests = {blob: ImageDigest(blob) for blob in users}
    sizes = {}
    for digest, tree in trees.items():
        here = [(blob, survey.blobs[blob]) for blob in tree.blobs if blob in survey.blobs]
        own = sum(size for blob, size in here if users[blob] == 1)
        sizes[digest] = own, sum(size for _, size in here) - own
    images = [
        StoredImage(
            image.name,
            image.digest,
            tuple(map(digests.__getitem__, image.tree.blobs)),
            image.tree.missing,
            *sizes[image.digest],
            _time(image.used),
            image.pinned,
            image.digest in survey.leased,
        )
        for image in survey.images
    ]
    return sorted(images, key=lambda image: image.name)


def _time(nanoseconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    except (ValueError, OverflowError):  # some file systems know years beyond 9999
        return datetime(9999, 1, 1, tzinfo=UTC)


def stored_blobs(survey: Survey) -> list[StoredBlob]:
    """Describe the blobs, the largest first."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for image in survey.images:
        for digest in image.tree.blobs:
            names[digest].append(image.name)
    sizes = survey.blobs
    return [
        StoredBlob(ImageDigest(digest), sizes[digest], tuple(sorted(names.pop(digest, ()))))
        for digest in by_parts(sizes, lambda digest: (-sizes[digest], digest))
    ]


def usage_of(survey: Survey, free: int) -> StoreUsage:
    """Add up what the store takes."""
    trees = [*(image.tree for image in survey.images), *survey.others.values()]
    named = {digest for tree in trees for digest in tree.blobs}
    return StoreUsage(
        images=tuple(stored_images(survey)),
        blobs=sum(survey.blobs.values()),
        unnamed=sum(size for digest, size in survey.blobs.items() if digest not in named),
        partial=sum(found.size for found in survey.partial.values()),
        damaged=sum(found.size for found in survey.damaged.values()),
        free=free,
    )
