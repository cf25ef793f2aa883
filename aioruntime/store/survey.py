"""What lies in a store, seen in one go (L2, blocking): the ground for telling and for collecting."""

from __future__ import annotations

__all__ = ("Found", "Seen", "Survey", "survey")

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aioruntime.errors import InvalidReference
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import files
from aioruntime.store.blobs import ALGORITHMS
from aioruntime.store.lease import leased
from aioruntime.store.names import read_names
from aioruntime.store.tree import Tree, read_tree

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.layout import Layout


class Found(NamedTuple):
    """A file; there may be 100,000 of them.

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

    Args:
        images: the named images.
        blobs: the blobs.
        partial: downloads that were begun, by the names of their files.
        damaged: what was put aside, by the names of the files.
        leased: digests in use.
    """

    images: list[Seen]
    blobs: dict[ImageDigest, Found]
    partial: dict[str, Found]
    damaged: dict[str, Found]
    leased: set[str]

    @property
    def total(self) -> int:
        """Bytes of all files."""
        found = (self.blobs, self.partial, self.damaged)
        return sum(file.size for files_of in found for file in files_of.values())


def survey(layout: Layout) -> Survey:
    """Look at all that lies in the store.

    Raises:
        StoreError: some of it can't be looked at.
    """
    used = _regular(layout.used_files)
    blobs = _blobs(layout)
    trees: dict[ImageDigest, Tree] = {}
    images = []
    named = read_names(layout)

    def size_of(digest: ImageDigest) -> int | None:
        found = blobs.get(digest)
        return found.size if found else None

    for name, descriptor in named.images.items():
        digest = descriptor.digest
        if digest not in trees:
            trees[digest] = read_tree(layout, digest, size_of)
        when = used.get(layout.used(digest).name) or blobs.get(digest)
        images.append(Seen(name, digest, trees[digest], when.used if when else 0, name in named.pinned))
    return Survey(images, blobs, _regular(layout.ingest), _regular(layout.damaged), leased(layout))


def _blobs(layout: Layout) -> dict[ImageDigest, Found]:
    found = {}
    for algorithm in ALGORITHMS:
        for name, file in _regular(layout.blobs(algorithm)).items():
            try:
                found[ImageDigest(f"{algorithm}:{name}")] = file
            except InvalidReference:
                continue  # such as a temporary file of another tool
    return found


def _regular(directory: Path) -> dict[str, Found]:
    return {
        name: Found(status.size, status.modified_ns)
        for name, status in files.scan(directory)
        if status.regular
    }
