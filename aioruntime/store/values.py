"""What the store tells of itself (L2): images, blobs, and what was collected."""

from __future__ import annotations

__all__ = ("PruneReport", "StoreUsage", "StoredBlob", "StoredImage")

from dataclasses import dataclass
from datetime import datetime

import msgspec

from aioruntime.errors import StoreError
from aioruntime.oci.digest import ImageDigest


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that the store has a name for.

    Args:
        name: the name; the digest, if another tool listed it without one.
        digest: of its manifest, or of its index.
        blobs: digests of all that it consists of, its manifest first, each once.
        missing: those of them that are not in the store, or not with their size.
        own_bytes: bytes of the blobs that no other image has: what its removal makes room for. Names of
            one digest are one image.
        shared_bytes: bytes of the blobs that other images have too.
        last_used: when it was last pulled, assembled, pushed, imported or exported.
        pinned: whether it is kept when others are collected.
        in_use: whether some task or process works with it now.
    """

    name: str
    digest: ImageDigest
    blobs: tuple[ImageDigest, ...]
    missing: tuple[ImageDigest, ...]
    own_bytes: int
    shared_bytes: int
    last_used: datetime
    pinned: bool
    in_use: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of all its blobs that are in the store."""
        return self.own_bytes + self.shared_bytes


# There may be 100,000, never in cycles: nothing for the garbage collector, which would hold up all threads.
class StoredBlob(msgspec.Struct, frozen=True, gc=False):
    """A blob in the store.

    Args:
        digest: its digest.
        size_bytes: its size.
        images: names of the images that have it; empty if none does.
    """

    digest: ImageDigest
    size_bytes: int
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """The room that a store takes, in bytes.

    Args:
        images: of each image: what it has alone, and what it shares.
        blobs: all blobs, each counted once.
        unnamed: those of them that no image has.
        partial: downloads that were begun.
        damaged: what was put aside, to be removed by `ImageStore.prune`.
        free: what can still be written on that disk.
    """

    images: tuple[StoredImage, ...]
    blobs: int
    unnamed: int
    partial: int
    damaged: int
    free: int

    @property
    def total(self) -> int:
        """All that the store takes."""
        return self.blobs + self.partial + self.damaged


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What `ImageStore.prune` removed, or would.

    Args:
        images: names, those not used for the longest time first.
        blobs: digests of the blobs, as plain texts: of 100,000 objects of a class the garbage collector would
            hold up all threads.
        freed_bytes: bytes of blobs, of downloads that were begun, and of what had been put aside.
        kept_bytes: what the store takes now.
        unclear: names of images whose manifest, or that of a platform, is damaged or gone. Any blob may be
            theirs, so none was removed, and no image to make room: pull or import them again, or remove them.
        failed: for each file that could not be removed, why.
    """

    images: tuple[str, ...]
    blobs: tuple[str, ...]
    freed_bytes: int
    kept_bytes: int
    unclear: tuple[str, ...] = ()
    failed: tuple[StoreError, ...] = ()
