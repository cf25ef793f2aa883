"""Archives made to harm: merged they do what umoci makes of them one by one, or are refused by name."""

from __future__ import annotations

import io
import random
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from aioruntime.assembly.changeset import Changeset
from aioruntime.assembly.merge_plan import plan_merge
from aioruntime.assembly.tar import BadTar, TarReader
from aioruntime.errors import InvalidManifest
from tests.assembly.archives import HOSTILE, hostile, resummed
from tests.assembly.stacks import unpacked
from tests.assembly.test_merge import assert_same_tree, merged

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.store import ImageStore

# What is refused, on a base or without one, and by which words. Refusing is always safe: the layers can
# still be sent as they are, and then the engine judges.
_OUTSIDE, _NOTHING, _ROOT = "leads out of the image", "names nothing", "the root is not a directory"
_NO_FILE, _RECORD = "no file of the same layer", "a pax record"
REFUSED = {
    "HardlinkDirectRelative": _OUTSIDE,
    "SymlinkParentDirectory": _OUTSIDE,
    "SymlinkEmptyFilename": _ROOT,
    "SymlinkOverrideDirectory": _NO_FILE,
    "SymlinkOverrideDirectoryRelative": _NO_FILE,
    "DirectoryOverrideSymlink": _NO_FILE,
    "WhiteoutRootParent": _NOTHING,
    "WhiteoutParent": _NOTHING,
    "WhiteoutRoot": _NOTHING,
    "WhiteoutCurrentDirectory": _NOTHING,
    "WhiteoutDirectoryName": "has the name of a whiteout",
    "name up": _OUTSIDE,
    "name up behind": _OUTSIDE,
    "name empty": _ROOT,
    "name dot, a file": _ROOT,
    "name dot, a symlink": _ROOT,
    "pax path up": _OUTSIDE,
    "pax path with a zero": "zero byte",
    "pax linkpath up": _OUTSIDE,
    "pax size negative": _RECORD,
    "pax size too large": _RECORD,
    "pax malformed": _RECORD,
    "pax and nothing": "ends after an extension header",
    "long name up": _OUTSIDE,
    "long link to itself": _NO_FILE,
    "size negative": "a size is negative",
    "size not octal": "not octal",
    "checksum wrong": "wrong checksum",
    "kind unknown": "unknown type",
    "hard link to a directory": _NO_FILE,
    "hard link before its file": _NO_FILE,
    "symlinks in a ring": "not a directory",
    "ended early": "ends within a file",
}
# What umoci refuses as it was made: no judge of ours. What we don't look at (owners, types that Go doesn't
# know, holes) goes on unread, to an engine that refuses it too.
BEYOND_UMOCI = {
    "pax uid, no number",
    "pax for all",
    "long name",
    "kind contiguous",
    "sparse",
    "sparse, holes crossed",
}
# Without a base the layers below are merged too. A path that leads through what a lower layer has as a link:
# umoci, which unpacks into what is there, follows the link; engines give each layer a directory of its own,
# which then hides the link. We do as engines do.
THROUGH_LOWER_LINKS = {
    "WhiteoutSymlinkPath",
    "WhiteoutDeadSymlinkParent",
}


@pytest.mark.parametrize("first", [0, 1], ids=["alone", "on a base"])
@pytest.mark.parametrize("name", HOSTILE)
async def test_what_archives_do(store: ImageStore, tmp_path: Path, name: str, first: int) -> None:
    """THREATS I4, I6, I7, T15: the tree is umoci's, or the image is refused by name; which, is told here."""
    layers = hostile(name)
    if name in REFUSED:
        with pytest.raises(InvalidManifest, match=rf"layer 1 .*can't be merged.*{REFUSED[name]}"):
            await merged(store, layers, first)
        return
    archive = await merged(store, layers, first)
    if name in BEYOND_UMOCI:
        with pytest.raises(AssertionError, match=r"unpack layer|name too long"):
            unpacked(tmp_path, layers)
    elif name in THROUGH_LOWER_LINKS and not first:
        with pytest.raises(AssertionError, match=r"localetc|etc/"):
            assert_same_tree(tmp_path, layers, [archive])
    else:
        assert_same_tree(tmp_path, layers, [*layers[:first], archive])


def mutated(rng: random.Random, archive: bytes, other: bytes) -> bytes:
    """The archive with a few bytes altered, cut, doubled or taken from another; headers often valid still."""
    data = bytearray(archive)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.choice([rng.randrange(len(data) + 1), 512 * rng.randrange(len(data) // 512 + 1)])
        length = rng.choice([1, 1, 8, 12, 100, 512])
        match rng.randrange(7):
            case 0:
                data[place : place + 1] = rng.randbytes(1)
            case 1:
                del data[place : place + length]
            case 2:
                data[place:place] = data[place : place + length]
            case 3:
                start = rng.randrange(len(other) + 1)
                data[place : place + length] = other[start : start + length]
            case 4:
                # A header's own fields: name, size, type, link.
                field = place // 512 * 512 + rng.choice([0, 124, 135, 156, 157])
                data[field : field + 1] = bytes([rng.choice(b"/.0157xgLKS\0\x80\xff")])
            case 5:
                data[place : place + length] = rng.choice([b"../", b"/", b".wh.", b".wh..wh..opq", b"\0"])
            case _:
                data[place:place] = rng.choice([archive, other])[:1536]
    return resummed(data) if rng.random() < 0.8 else bytes(data)


def test_mutated_archives() -> None:
    """THREATS I4, I5, I7, T15: of 3,000 damaged archives each is read and planned, or refused by `BadTar`."""
    rng = random.Random(15)
    archives = [layer for name in HOSTILE for layer in hostile(name) if layer]
    outcomes = {True: 0, False: 0}
    for _, archive in zip(range(3000), cycle(archives), strict=False):
        made = [mutated(rng, archive, rng.choice(archives)), rng.choice(archives)]
        try:
            plan_merge([changeset(*each) for each in enumerate(made)], on_base=rng.random() < 0.5)
            outcomes[True] += 1
        except BadTar:
            outcomes[False] += 1

    assert min(outcomes.values()) > 500, outcomes


def changeset(layer: int, archive: bytes) -> Changeset:
    found = Changeset(layer)
    for header in TarReader(io.BytesIO(archive)):
        found.add(header)
    return found


async def test_mutated_archives_are_merged(store: ImageStore) -> None:
    """THREATS I4, I5, T15: so with merging as a whole, where what is kept is written: `InvalidManifest`."""
    rng = random.Random(51)
    archives = [layer for name in HOSTILE for layer in hostile(name) if layer]
    outcomes = {True: 0, False: 0}
    for number in range(300):
        layers = [rng.choice(archives), mutated(rng, rng.choice(archives), rng.choice(archives))]
        try:
            await merged(store, layers, number % 2)
            outcomes[True] += 1
        except InvalidManifest:
            outcomes[False] += 1

    assert min(outcomes.values()) > 50, outcomes
