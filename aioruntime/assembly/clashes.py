"""Which paths do images put together have in different ways? Pure decisions over their layers' trees (L3).

Nothing is said of layers that an image lays over others on purpose: only what no image has in this order
can be a surprise.
"""

from __future__ import annotations

__all__ = ("Clash", "attributes", "find_clashes", "settle", "to_compare")

import os
import tarfile
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from aioruntime.assembly.changeset import Node
from aioruntime.assembly.tar import split_header
from aioruntime.oci.image import PathConflict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aioruntime.assembly.changeset import Changeset
    from aioruntime.assembly.compose import Source, Stack

Prints: TypeAlias = "Mapping[tuple[int, int], bytes]"
"""What an entry is, by its layer and its position there; equal for equal entries."""

_GONE = Node(-1)
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class _Place:
    """What one layer has at a path."""

    layer: int
    node: Node

    @property
    def is_directory(self) -> bool:
        return self.node.children is not None

    @property
    def is_file(self) -> bool:
        return self.node.children is None and not self.node.gone


@dataclass(frozen=True, slots=True)
class Clash:
    """A path that some sources may find otherwise than they have it.

    Attributes:
        path: the path, without a slash in front.
        winner: the name of the source that has it as it is.
        top: how it is.
        others: how those have it that may differ, and their names.
    """

    path: bytes
    winner: str
    top: _Place
    others: tuple[tuple[str, _Place], ...]


def find_clashes(stack: Stack, changesets: Mapping[int, Changeset]) -> list[Clash]:
    """List the paths to be looked at more closely.

    Args:
        stack: the layers.
        changesets: what those do that can conflict, by their index in *stack*.
    """
    digests = [layer.digest for layer, _ in stack.layers]

    def place_in(source: Source, layer: int) -> int:
        return source.places.get(digests[layer], -1)

    @cache
    def meant(lower: int, upper: int) -> bool:
        """Tell whether a source has *upper* over *lower* itself."""
        return any(0 <= place_in(each, lower) < place_in(each, upper) for each in stack.sources)

    found: list[Clash] = []
    for path, places in _meetings(changesets):
        top = places[-1]
        winner = ""
        others: list[tuple[str, _Place]] = []
        for source in stack.sources:
            own = sorted(
                (place for place in places if place_in(source, place.layer) >= 0),
                key=lambda place: place_in(source, place.layer),
            )
            if own and own[-1] is top:
                winner = source.name
            else:
                lost = (place for place in _visible(own, top) if not meant(place.layer, top.layer))
                others += [(source.name, place) for place in islice(lost, 1)]
        if others:
            found.append(Clash(path, winner or _owner(stack, digests[top.layer]), top, tuple(others)))
    return found


def _visible(own: Sequence[_Place], top: _Place) -> Iterator[_Place]:
    """Give what a source sees of what it has at a path, the highest first.

    That is one thing, but where a directory gives way to something else, all that the source has in it does.
    """
    for place in reversed(own):
        if place.node.gone:
            return
        yield place
        if place.node.hides or top.is_directory or not place.is_directory:
            return


def _owner(stack: Stack, digest: str) -> str:
    return [source.name for source in stack.sources if digest in source.places][-1]


def _meetings(changesets: Mapping[int, Changeset]) -> Iterator[tuple[bytes, Sequence[_Place]]]:
    """Give each path that several layers define, with what each has there, the lowest first."""
    roots = [_Place(layer, changesets[layer].root) for layer in sorted(changesets)]
    todo = [(b"", roots)] if roots else []
    while todo:
        path, places = todo.pop()
        # A directory that is merely implied says nothing, except that there is one.
        if all(place.is_directory for place in places):
            told = [place for place in places if place.node.header is not None]
        else:
            told = places
        if len(told) > 1:
            yield path, told
        for name, inside in _children(places).items():
            if len(inside) > 1:
                todo.append((path + b"/" + name if path else name, inside))


def _children(places: Sequence[_Place]) -> dict[bytes, list[_Place]]:
    """List by name what lies in a directory, and what hides it."""
    found: dict[bytes, list[_Place]] = {}
    if not places[-1].is_directory:
        return found  # the directory itself is gone, which says it all
    for place in places:
        if place.node.children is None or place.node.hides:
            for inside in found.values():
                inside.append(_Place(place.layer, _GONE))
        for name, child in (place.node.children or {}).items():
            found.setdefault(name, []).append(_Place(place.layer, child))
    return found


def to_compare(clashes: Iterable[Clash]) -> dict[int, set[int]]:
    """List the entries, by layer and position, of which `settle` has to know what they are."""
    wanted: dict[int, set[int]] = {}
    for clash in clashes:
        others = [place for _, place in clash.others if place.is_file]
        if clash.top.is_file and others:
            for place in (clash.top, *others):
                wanted.setdefault(place.layer, set()).add(place.node.position)
    return wanted


def settle(clashes: Iterable[Clash], prints: Prints) -> tuple[PathConflict, ...]:
    """Tell which *clashes* are conflicts, sorted by path, given what their entries are."""
    conflicts: list[PathConflict] = []
    for clash in clashes:
        losers = dict.fromkeys(name for name, place in clash.others if _differ(place, clash.top, prints))
        if losers:
            conflicts.append(PathConflict("/" + os.fsdecode(clash.path), clash.winner, tuple(losers)))
    return tuple(sorted(conflicts, key=lambda conflict: conflict.path))


def _differ(one: _Place, other: _Place, prints: Prints) -> bool:
    if one.is_file and other.is_file:
        entries = [(place.layer, place.node.position) for place in (one, other)]
        return prints[entries[0]] != prints[entries[1]]
    if not (one.is_directory and other.is_directory):
        return True
    headers = [place.node.header for place in (one, other)]
    return None not in headers and len({attributes(header) for header in headers if header}) > 1


def attributes(blocks: bytes) -> tuple[object, ...]:
    """Tell mode, owner, device and extended attributes of the entry that has this header."""
    main, records = split_header(blocks)
    try:
        info = tarfile.TarInfo.frombuf(main[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return (main,)  # with numbers that are none; it equals only itself
    extended = sorted(
        record for record in records.items() if record[0].startswith((b"SCHILY.xattr.", b"GNU.sparse."))
    )
    symbolic = info.type == tarfile.SYMTYPE  # Linux has no mode of its own for these
    return (
        0 if symbolic else info.mode & 0o7777,
        _number(records.get(b"uid"), info.uid),
        _number(records.get(b"gid"), info.gid),
        (info.devmajor, info.devminor) if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE) else (),
        tuple(record for record in extended if record[0] != b"GNU.sparse.name"),
        main[386:] if main[156:157] == tarfile.GNUTYPE_SPARSE else b"",
    )


def _number(record: bytes | None, told: int) -> int:
    return int(record) if record and record.isdigit() else told
