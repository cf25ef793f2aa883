"""Decide how several layers become one that does the same: pure rules on their trees (L3)."""

from __future__ import annotations

__all__ = ("MergePlan", "Rewrite", "plan_merge")

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioruntime.assembly.changeset import OPAQUE, WHITEOUT, Changeset, Node
from aioruntime.assembly.tar import new_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Rewrite:
    """New name and link target of an entry; None for what stays."""

    name: bytes | None = None
    link: bytes | None = None


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What goes into the layer that stands for several.

    Attributes:
        first: headers of all directories, parents first, and of the whiteouts; they have no content.
        keep: for each layer, by position, whether the entry goes in after those.
        rewrites: for each layer, by position, what changes in the header of an entry that is kept.
    """

    first: tuple[bytes, ...]
    keep: tuple[bytearray, ...]
    rewrites: tuple[dict[int, Rewrite], ...]


def plan_merge(changesets: Sequence[Changeset], *, on_base: bool) -> MergePlan:
    """Tell how to make one layer that does what *changesets* do, one after the other.

    Args:
        changesets: of the layers, base first, each with its index as ``layer``. They are used up.
        on_base: whether there are layers below, of which something may have to be hidden.
    """
    root = Node.directory(None)
    for changeset in changesets:
        _lay_over(root, changeset.root)
    directories: list[bytes] = []
    whiteouts: list[bytes] = []
    keep = tuple(bytearray(len(changeset.lengths)) for changeset in changesets)
    paths: tuple[dict[int, bytes], ...] = tuple({} for _ in changesets)
    for path, node, hidden in _walk(root, not on_base):
        if node.children is not None:
            directories += _directory_headers(path, node, hidden)
        elif not node.gone:
            keep[node.layer][node.position] = 1
            if changesets[node.layer].links:
                paths[node.layer][node.position] = path
        elif not hidden:
            parent, _, name = path.rpartition(b"/")
            whiteouts.append(new_header(_below(parent, WHITEOUT + name)))
    rewrites = tuple(map(_settle_names, changesets, paths, keep))
    return MergePlan((*directories, *whiteouts), keep, rewrites)


def _directory_headers(path: bytes, node: Node, hidden: bool) -> Iterator[bytes]:
    opaque = node.hides and not hidden
    if node.header is not None:
        yield node.header
    elif path and (opaque or hidden):
        # Merely implied, but no layer below can have it: it has to be made.
        yield new_header(path, directory=True)
    if opaque:
        yield new_header(_below(path, OPAQUE))


def _below(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _lay_over(below: Node, above: Node) -> None:
    """Lay the directory *above* over *below*, which becomes both."""
    todo = [(below, above)]
    while todo:
        low, high = todo.pop()
        assert low.children is not None
        assert high.children is not None
        if high.hides:
            low.children, low.hides = {}, True
        if high.header is not None:
            low.header = high.header
        for name, node in high.children.items():
            old = low.children.get(name)
            if old is None:
                low.children[name] = node
            elif old.children is not None and node.children is not None:
                todo.append((old, node))
            else:
                # What takes the place of something else hides what that hid.
                node.hides = True
                low.children[name] = node


def _walk(root: Node, hidden: bool) -> Iterator[tuple[bytes, Node, bool]]:
    """Give path, node and whether all below it is hidden by a directory above: parents first, sorted."""
    todo = [(b"", root, hidden)]
    while todo:
        path, node, hidden = todo.pop()
        yield path, node, hidden
        if node.children is not None:
            below = hidden or node.hides
            names = sorted(node.children, reverse=True)
            todo += [(_below(path, name), node.children[name], below) for name in names]


def _settle_names(changeset: Changeset, paths: dict[int, bytes], keep: bytearray) -> dict[int, Rewrite]:
    """See to it that what is left of a layer is where the layer has it, whatever went with other entries.

    Names left of one file stay names of one file, also without the first of them. A name that leads through
    a symbolic link becomes the path where that led.

    Args:
        changeset: of the layer.
        paths: of what is left of the layer, by position; empty if it has no hard links.
        keep: by position; changed where another name takes over the content.
    """
    rewrites: dict[int, Rewrite] = {}
    heads: dict[int, bytes] = {}
    for position, (content, target) in changeset.links.items():
        if position not in paths:
            continue
        if content not in heads and content not in paths:
            heads[content] = paths[position]
            keep[content], keep[position] = 1, 0
            rewrites[content] = Rewrite(name=paths[position])
        elif target != (head := heads.setdefault(content, paths.get(content, b""))):
            rewrites[position] = Rewrite(changeset.led.get(position), head)
    for position, path in changeset.led.items():
        if keep[position]:
            rewrites.setdefault(position, Rewrite(path))
    return rewrites
