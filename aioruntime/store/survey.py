"""What lies in a store, seen in one go (L2, blocking): the ground for telling and for collecting."""

from __future__ import annotations

__all__ = ("Found", "Seen", "Survey", "last_used", "survey")

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aioruntime.errors import InvalidReference
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import directories
from aioruntime.store.blobs import ALGORITHMS
from aioruntime.store.lease import leased
from aioruntime.store.names import read_names
from aioruntime.store.tree import Tree, read_tree

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.layout import Layout


class Found(NamedTuple):
    """A file.

    Args:
        size: its bytes.
        used: when it was last written or used, in nanoseconds since 1970.
    """

    size: int
    used: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A named image.

    Args:
        name: its name.
        digest: of its manifest or index.
        tree: the blobs that it consists of.
        used: when it was last used, in nanoseconds since 1970.
        pinned: whether it is kept when others are collected.
    """

    name: str
    digest: ImageDigest
    tree: Tree
    used: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a store.

    Of blobs there may be 100,000. Their digests are plain texts, checked: texts and numbers do not concern
    the garbage collector, which would hold up all threads to look at as many of `ImageDigest`, or anything.

    Args:
        images: the named images.
        blobs: bytes of each blob, by its digest.
        used: when each blob was last written or used, in nanoseconds since 1970.
        partial: downloads that were begun, by the names of their files.
        damaged: what was put aside, by the names of the files.
        leased: digests in use.
        others: trees of what is named otherwise, by their roots.
    """

    images: list[Seen]
    blobs: dict[str, int]
    used: dict[str, int]
    partial: dict[str, Found]
    damaged: dict[str, Found]
    leased: set[str]
    others: dict[ImageDigest, Tree]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        others = (*self.partial.values(), *self.damaged.values())
        return sum(self.blobs.values()) + sum(found.size for found in others)


def survey(layout: Layout, *, whole: bool = False) -> Survey:
    """Look at all that lies in the store.

    Args:
        layout: the store's paths.
        whole: whether it is an error that not all names can be known.

    Raises:
        StoreError: some of it can't be looked at.
    """
    # Names first: what is named later is seen as blobs of no image that were just used.
    named = read_names(layout, whole=whole)
    stamps = _regular(layout.used_files)
    blobs, used = _blobs(layout)
    trees: dict[ImageDigest, Tree] = {}
    images = []
    for name, descriptor in named.images.items():
        digest = descriptor.digest
        if digest not in trees:
            trees[digest] = read_tree(layout, digest, blobs.get)
        stamp = stamps.get(layout.used(digest).name)
        when = stamp.used if stamp else used.get(digest, 0)
        images.append(Seen(name, digest, trees[digest], when, name in named.pinned))
    others = {digest: read_tree(layout, digest, blobs.get) for digest in named.others}
    partial, damaged = _regular(layout.ingest), _regular(layout.damaged)
    return Survey(images, blobs, used, partial, damaged, leased(layout), others)


def last_used(layout: Layout, image: ImageDigest) -> int | None:
    """Return when an image was last used, in nanoseconds since 1970; None if it is gone."""
    found = directories.lookup(layout.used(image)) or directories.lookup(layout.blob(image))
    return found.modified_ns if found else None


def _blobs(layout: Layout) -> tuple[dict[str, int], dict[str, int]]:
    """Return size and time of each blob."""
    sizes: dict[str, int] = {}
    used: dict[str, int] = {}
    for algorithm in ALGORITHMS:
        for name, status in directories.scan(layout.blobs(algorithm)):
            if not status.regular:
                continue
            try:
                digest = str(ImageDigest(f"{algorithm}:{name}"))
            except InvalidReference:
                continue  # such as a temporary file of another tool
            sizes[digest], used[digest] = status.size, status.modified_ns
    return sizes, used


def _regular(directory: Path) -> dict[str, Found]:
    return {
        name: Found(status.size, status.modified_ns)
        for name, status in directories.scan(directory)
        if status.regular
    }
