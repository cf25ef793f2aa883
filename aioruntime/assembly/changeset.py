"""What a layer does to a file system, as a tree made of its entries: pure rules (L3).

Follows ``layer.md`` of the OCI image specification ("Image Layer Filesystem Changeset"). Where it leaves
room, the rule is what engines do: they unpack each layer into a directory of its own and lay these over one
another.
"""

from __future__ import annotations

__all__ = ("OPAQUE", "WHITEOUT", "Changeset", "Node")

from array import array
from typing import TYPE_CHECKING, Self

from aioruntime.assembly.tar import BadTar, renamed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioruntime.assembly.tar import Header

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
# Names of aufs' own files, which engines pass over.
_AUFS = b".wh..wh."
_GONE = -1
# PATH_MAX of Linux: engines can't make longer paths. It also bounds the depth of a tree.
_PATH_LIMIT = 4096
_SYMLINK_LIMIT = 40


class Node:
    """What a path is after one or more layers.

    Attributes:
        children: of a directory; None for anything else.
        header: of a directory, its header's blocks; None if it is merely implied by what lies in it.
        layer: of what is no directory, the index of the layer that has it.
        position: its entry's position there; `_GONE` for a whiteout.
        hides: whether it hides what layers below have at this path (a directory is then opaque).
    """

    __slots__ = ("children", "header", "hides", "layer", "position")

    def __init__(self, layer: int, position: int = _GONE, hides: bool = False) -> None:
        self.children: dict[bytes, Node] | None = None
        self.header: bytes | None = None
        self.layer = layer
        self.position = position
        self.hides = hides

    @classmethod
    def directory(cls, header: bytes | None, hides: bool = False) -> Self:
        """Make an empty directory."""
        node = cls(-1, hides=hides)
        node.children, node.header = {}, header
        return node

    @property
    def gone(self) -> bool:
        """Whether it is a whiteout."""
        return self.children is None and self.position == _GONE


class Changeset:
    """What one layer changes; `add` its entries in their order.

    Args:
        layer: the layer's index among those that are looked at together.

    Attributes:
        root: the tree that the layer makes of an empty directory, whiteouts included.
        starts: where each entry begins in the archive, by position.
        lengths: bytes that it takes there.
        links: of hard links, by position: the position of the entry that has the content, and the path
            that the link names.
        led: of entries other than directories whose names lead through symbolic links, by position: the
            path where they are.
    """

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.root = Node.directory(None)
        self.starts: array[int] = array("Q")
        self.lengths: array[int] = array("Q")
        self.links: dict[int, tuple[int, bytes]] = {}
        self.led: dict[int, bytes] = {}
        self._symlinks: dict[int, bytes] = {}

    def add(self, header: Header) -> None:
        """Take in the next entry.

        Raises:
            BadTar: no engine could unpack it, or engines differ in how.
        """
        position = len(self.lengths)
        self.starts.append(header.start)
        self.lengths.append(header.length)
        parts = _components(header.name)
        directory = header.kind == "directory"
        if not parts:
            if not directory:
                raise BadTar("the root is not a directory")
            self.root.header = header.blocks
            return
        (parent, above), name = self._directory(parts[:-1]), parts[-1]
        assert parent.children is not None
        if name.startswith(WHITEOUT):
            self._hide(parent, name)
            return
        blocks = header.blocks
        if above != parts[:-1]:  # other layers may do away with the links that lead there
            path = b"/".join((*above, name))
            if directory:
                blocks = renamed(header, path)
            else:
                self.led[position] = path
        if header.kind == "link":
            self.links[position] = self._target(header.link, parent, name)
        elif header.kind == "symlink":
            self._symlinks[position] = header.link
        old = parent.children.get(name)
        hides = old is not None and old.hides
        if not directory:
            parent.children[name] = Node(self.layer, position, hides)
        elif old is None or old.children is None:
            parent.children[name] = Node.directory(blocks, hides)
        else:
            old.header = blocks

    def _hide(self, parent: Node, name: bytes) -> None:
        assert parent.children is not None
        if name == OPAQUE:
            parent.hides = True
            return
        if name.startswith(_AUFS):
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise BadTar(f"the whiteout {name!r} names nothing")
        # A whiteout is for lower layers; what this layer has at the path stays.
        parent.children.setdefault(hidden, Node(self.layer)).hides = True

    def _directory(self, parts: Sequence[bytes], make: bool = True) -> tuple[Node, list[bytes]]:
        """Return the directory at a path of this layer, following its symbolic links as unpacking would.

        With it comes the path where it is. What is not there is implied; it is there from then on if *make*
        is set.
        """
        todo = list(reversed(parts))
        trail = [self.root]
        names: list[bytes] = []
        followed = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                del trail[max(1, len(trail) - 1) :], names[-1:]
                continue
            here = trail[-1].children
            assert here is not None
            node = here.get(name)
            if node is None or node.gone:
                if name.startswith(WHITEOUT):
                    raise BadTar(f"the directory {name!r} has the name of a whiteout")
                node = Node.directory(None, node is not None)
                if make:
                    here[name] = node
            if node.children is not None:
                trail.append(node)
                names.append(name)
                continue
            target = self._symlinks.get(node.position)
            followed += 1
            if target is None or followed > _SYMLINK_LIMIT:
                raise BadTar(f"{b'/'.join(parts)!r} leads through something that is not a directory")
            if target.startswith(b"/"):
                del trail[1:], names[:]
            todo += [part for part in reversed(target.split(b"/")) if part not in (b"", b".")]
        return trail[-1], names

    def _target(self, link: bytes, parent: Node, name: bytes) -> tuple[int, bytes]:
        parts = _components(link)
        if parts:
            directory, _ = self._directory(parts[:-1], make=False)
            assert directory.children is not None
            node = directory.children.get(parts[-1])
            itself = directory is parent and parts[-1] == name
            if node is not None and node.children is None and node.position >= 0 and not itself:
                content = self.links.get(node.position, (node.position, b""))[0]
                return content, b"/".join(parts)
        raise BadTar(f"a hard link to {link!r}, which is no file of the same layer")


def _components(path: bytes) -> list[bytes]:
    if len(path) > _PATH_LIMIT:
        raise BadTar(f"a path has {len(path)} bytes; {_PATH_LIMIT} are possible")
    if b"\0" in path:
        raise BadTar("a path has a zero byte")
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                raise BadTar(f"the path {path!r} leads out of the image")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return parts
