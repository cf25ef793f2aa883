"""What an image consists of (L2, blocking): its blobs, from the documents that name them.

Follows ``image-index.md`` and ``manifest.md`` of the OCI image specification, leniently: what other tools
put into the store is listed too, also if it is no image that could be run.
"""

from __future__ import annotations

__all__ = ("DOCUMENT_LIMIT", "Tree", "put_aside_blobs", "read_tree")

import enum
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from aioruntime.errors import DigestMismatch, LayersMissing
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import digest_hook
from aioruntime.store import blobs, directories
from aioruntime.store.layout import hash_put_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aioruntime.store.layout import Layout

DOCUMENT_LIMIT = 16 * 2**20
_COUNT_LIMIT = 1_000_000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Tree:
    """The blobs of an image.

    Args:
        blobs: their digests, plain texts as in `Survey`, each once, that of the manifest or index first. What
            an index lists but the store has not, such as the images of other platforms, is left out, unless
            the store has none.
        sizes: the bytes that each has, as the document that names it says.
        missing: those of *blobs* that are not in the store, not with that size, or damaged documents.
        settled: whether no document was left out or missing, so that *blobs* are all there will ever be.
        unread: documents that are missing, damaged or were put aside, so that what they name is not known.
    """

    blobs: tuple[str, ...]
    sizes: dict[str, int]
    missing: tuple[ImageDigest, ...]
    settled: bool = True
    unread: tuple[ImageDigest, ...] = ()


class _Role(enum.Enum):
    DOCUMENT = enum.auto()
    CHILD = enum.auto()  # of an index: a document, which need not be there
    LEAF = enum.auto()


class _Entry(msgspec.Struct, frozen=True):
    digest: ImageDigest
    size: int | None = None


def read_tree(
    layout: Layout, digest: ImageDigest, size_of: Callable[[ImageDigest], int | None] | None = None
) -> Tree:
    """List the blobs of an image in the store; a blob that is no document is all there is to it.

    Documents of up to 16 MiB are read, their hash checked; of other blobs only the size is looked at. At most
    1,000,000 blobs are listed.

    Args:
        layout: the store's paths.
        digest: of a manifest or an index, in the store or not.
        size_of: tells the bytes of a blob, None if it is not there; left out, each is looked at.

    Raises:
        StoreError: a document can't be read, which does not tell that it is missing.
    """
    size_of = size_of or partial(_size, layout)
    sizes: dict[str, int] = {}
    missing: dict[ImageDigest, None] = {}
    read: set[ImageDigest] = set()
    settled = True
    unread: dict[ImageDigest, None] = {}
    aside: set[str] | None = None
    todo = [(_Role.DOCUMENT, _Entry(digest))]
    while todo and len(sizes) < _COUNT_LIMIT:
        role, entry = todo.pop()
        if entry.digest in (sizes if role is _Role.LEAF else read):
            continue
        size = size_of(entry.digest)
        if size is None and role is _Role.CHILD:
            settled = False
            # One that was never here is of a platform that nobody asked for.
            aside = put_aside_blobs(layout) if aside is None else aside
            if entry.digest.hex in aside:
                unread[entry.digest] = None
            continue
        sizes.setdefault(str(entry.digest), (size or 0) if entry.size is None else entry.size)
        sound = size is not None
        if size is not None and role is not _Role.LEAF:
            read.add(entry.digest)
            children = _children(layout, entry.digest) if size <= DOCUMENT_LIMIT else []
            sound = children is not None
            todo += reversed(_wanted(children or [], size_of))
        if not sound or size != sizes[entry.digest]:
            missing[entry.digest] = None
            settled = settled and role is _Role.LEAF
        if not sound and role is not _Role.LEAF:
            unread[entry.digest] = None
    return Tree(tuple(sizes), sizes, tuple(missing), settled, tuple(unread))


def put_aside_blobs(layout: Layout) -> set[str]:
    """Return the hashes that what was put aside had as its names."""
    return {hash_put_aside(name) for name in directories.names_in(layout.damaged)}


def _size(layout: Layout, digest: ImageDigest) -> int | None:
    found = directories.lookup(layout.blob(digest))
    return found.size if found is not None and found.regular else None


def _wanted(
    children: list[tuple[_Role, _Entry]], size_of: Callable[[ImageDigest], int | None]
) -> list[tuple[_Role, _Entry]]:
    """Of an index of which nothing is there, want all."""
    if any(role is _Role.LEAF or size_of(entry.digest) is not None for role, entry in children):
        return children
    return [(_Role.DOCUMENT, entry) for _, entry in children]


def _children(layout: Layout, digest: ImageDigest) -> list[tuple[_Role, _Entry]] | None:
    """List what a document names; None if it is damaged."""
    try:
        members = _decoded(blobs.read(layout, digest, DOCUMENT_LIMIT), dict[str, msgspec.Raw])
    except (LayersMissing, DigestMismatch):
        return None
    return list(_named(members)) if members else []


def _named(members: dict[str, msgspec.Raw]) -> Iterator[tuple[_Role, _Entry]]:
    if (config := _decoded(members.get("config"), _Entry)) is not None:
        yield _Role.LEAF, config
    for member in ("manifests", "layers", "blobs"):
        role = _Role.CHILD if member == "manifests" else _Role.LEAF
        for raw in _decoded(members.get(member), list[msgspec.Raw]) or ():
            if (entry := _decoded(raw, _Entry)) is not None:
                yield role, entry


def _decoded(raw: bytes | msgspec.Raw | None, kind: type[_T]) -> _T | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=kind, dec_hook=digest_hook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
