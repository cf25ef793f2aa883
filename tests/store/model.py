"""What lies in a store, in plain dictionaries: to compare what is there with what has to be there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest
from tests.store.helpers import content

if TYPE_CHECKING:
    from pathlib import Path

REF_NAME = "org.opencontainers.image.ref.name"


def _document(kind: str, *parts: bytes) -> bytes:
    entries = [{"mediaType": "x/y", "digest": ImageDigest.of(part), "size": len(part)} for part in parts]
    config = {"config": entries.pop(0)} if kind == "layers" else {}
    return json.dumps({"schemaVersion": 2, **config, kind: entries}).encode()


_LEAVES = [content(size, seed=size)[0] for size in (0, 1, 50, 64, 200, 700)]
_MANIFESTS = [_document("layers", *_LEAVES[a:b]) for a, b in ((0, 3), (1, 5), (4, 6))]
_ABSENT = b"of another platform, which is not here"
_INDEX = _document("manifests", _MANIFESTS[0], _MANIFESTS[2], _ABSENT)
CONTENT = {ImageDigest.of(data): data for data in (*_LEAVES, *_MANIFESTS, _INDEX)}
DIGESTS = list(CONTENT)
IMAGES = DIGESTS[len(_LEAVES) :]
CHILDREN = dict.fromkeys(DIGESTS, frozenset[ImageDigest]()) | {
    ImageDigest.of(_MANIFESTS[0]): frozenset(DIGESTS[0:3]),
    ImageDigest.of(_MANIFESTS[1]): frozenset(DIGESTS[1:5]),
    ImageDigest.of(_MANIFESTS[2]): frozenset(DIGESTS[4:6]),
    ImageDigest.of(_INDEX): frozenset((IMAGES[0], IMAGES[2])),
}
NAMES = [f"docker.io/library/{letter}:1" for letter in "abc"]
FOREIGN = "foreign:1"


@dataclass(frozen=True)
class State:
    """What lies in a store.

    Args:
        blobs: content by digest.
        partial: downloads that were begun.
        record: names that we keep.
        index: names that `index.json` has.
        meant: what names of ours meant before.
        pins: names that are pinned.
        note: our note.
        damaged: what was put aside: the names it had, and its sizes.
        stamps: images with a time of their last use.
        held: digests being written.
        leases: what is in use, and by which process.
        garbled: whether `index.json` is not whole, or gone.
    """

    blobs: Mapping[ImageDigest, bytes] = field(default_factory=dict)
    partial: Mapping[ImageDigest, bytes] = field(default_factory=dict)
    record: Mapping[str, ImageDigest] = field(default_factory=dict)
    index: Mapping[str, ImageDigest] = field(default_factory=dict)
    meant: Mapping[str, frozenset[ImageDigest]] = field(default_factory=dict)
    pins: frozenset[str] = frozenset()
    note: bytes | None = None
    damaged: tuple[tuple[str, int], ...] = ()
    stamps: frozenset[ImageDigest] = frozenset()
    held: frozenset[ImageDigest] = frozenset()
    leases: tuple[tuple[str, tuple[ImageDigest, ...]], ...] = ()
    garbled: bool = False

    @property
    def named(self) -> dict[str, ImageDigest]:
        return {**self.record, **{name: d for name, d in self.index.items() if self.counts(name, d)}}

    def counts(self, name: str, digest: ImageDigest) -> bool:
        """Tell whether what the index says of a name is more than a lost update."""
        ours = self.record.get(name)
        here = digest in self.blobs
        aside = digest.hex in {name for name, _ in self.damaged}
        before = digest in self.meant.get(name, ())
        return ours == digest or (((here or aside) and not before) if ours else (here or not before))

    @property
    def promised(self) -> tuple[object, ...]:
        """What is told to be on the disk."""
        return self.blobs, self.named, self.pins, self.note

    @property
    def leased(self) -> set[ImageDigest]:
        return {digest for _, digests in self.leases for digest in digests}

    @property
    def sound(self) -> set[ImageDigest]:
        """The blobs that are what their digests say."""
        return {digest for digest, data in self.blobs.items() if data == CONTENT[digest]}

    @property
    def total(self) -> int:
        files = (*self.blobs.values(), *self.partial.values())
        return sum(map(len, files)) + sum(size for _, size in self.damaged)

    def tree(self, root: ImageDigest) -> set[ImageDigest]:
        """The blobs of an image, here or not."""
        found: set[ImageDigest] = set()
        todo = [root]
        while todo:
            digest = todo.pop()
            found.add(digest)
            if self.blobs.get(digest) != CONTENT.get(digest) or digest not in IMAGES:
                continue
            here = [child for child in CHILDREN[digest] if child not in IMAGES or child in self.blobs]
            # Of an index of which nothing is here, nobody knows the platform that was asked for.
            todo += here or [*CHILDREN[digest], ImageDigest.of(_ABSENT)]
        return found

    def unread(self, root: ImageDigest) -> set[ImageDigest]:
        """The documents of an image that can't be read, but for those that were never here."""
        found: set[ImageDigest] = set()
        todo = [root]
        while todo:
            digest = todo.pop()
            if self.blobs.get(digest) != CONTENT.get(digest):
                found.add(digest)
                continue
            children = [child for child in CHILDREN[digest] if child in IMAGES]
            here = {child for child in children if child in self.blobs}
            aside = {name for name, _ in self.damaged}
            todo += [child for child in children if child in here or not here or child.hex in aside]
        return found

    @property
    def all_unread(self) -> set[ImageDigest]:
        return set().union(*(self.unread(root) for root in self.named.values()))

    def named_blobs(self) -> set[ImageDigest]:
        """The blobs that named images have, and that are here."""
        return set().union(*(self.tree(root) for root in self.named.values())) & self.blobs.keys()

    def renamed(self, named: Mapping[str, ImageDigest], pins: frozenset[str]) -> State:
        """Other names: ours are recorded, those of others stay where they are, all that count are listed."""
        before = self.named
        ours = {
            name: digest
            for name, digest in named.items()
            if name in self.record or name in pins or before.get(name) != digest
        }
        gone = before.keys() - named.keys()
        others = {name: d for name, d in self.index.items() if name not in gone and self.counts(name, d)}
        meant = self.meaning(named, self.meant.keys() | ours.keys() | gone)
        return replace(self, record=ours, index={**others, **ours}, pins=pins, meant=meant, garbled=False)

    def meaning(self, named: Mapping[str, ImageDigest], names: Set[str]) -> dict[str, frozenset[ImageDigest]]:
        last = [*self.named.items(), *self.record.items()]
        found = {
            name: self.meant.get(name, frozenset()).union(d for n, d in last if n == name) for name in names
        }
        meant = {name: digests - {named.get(name)} for name, digests in found.items()}
        return {name: digests for name, digests in meant.items() if digests}


def observe(root: Path, model: State) -> State:
    """Read from the disk what lies in a store, all but what only its users know."""
    index = _text(root / "index.json")
    try:
        entries = json.loads(index)["manifests"] if index else []
        garbled = not index and (root / "oci-layout").exists()
    except ValueError:
        entries, garbled = [], True  # another tool wrote half of it
    try:
        record = json.loads(_text(root / "aioruntime/images.json") or "{}")
    except ValueError:
        raise AssertionError("the record of names is not whole") from None
    note = root / "aioruntime/note.json"
    aside = root / "aioruntime/damaged"
    return State(
        blobs=_files(root / "blobs/sha256"),
        partial=_files(root / "ingest", "sha256-"),
        record={name: ImageDigest(found["digest"]) for name, found in record.get("images", {}).items()},
        index={entry["annotations"][REF_NAME]: ImageDigest(entry["digest"]) for entry in entries},
        meant={name: frozenset(map(ImageDigest, found)) for name, found in record.get("before", {}).items()},
        pins=frozenset(record.get("pinned", ())),
        note=note.read_bytes() if note.exists() else None,
        damaged=_aside(aside) if aside.exists() else (),
        stamps=frozenset(_files(root / "aioruntime/used", "sha256-")),
        held=model.held,
        leases=model.leases,
        garbled=garbled,
    )


def _aside(directory: Path) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((path.name.partition(".")[0], path.stat().st_size) for path in directory.iterdir()))


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _files(directory: Path, prefix: str = "") -> dict[ImageDigest, bytes]:
    found = directory.iterdir() if directory.exists() else ()
    return {ImageDigest("sha256:" + path.name.removeprefix(prefix)): path.read_bytes() for path in found}
