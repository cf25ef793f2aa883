"""Paths that images put together have in different ways are found; umoci is the judge."""

from __future__ import annotations

import random
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.assembly.compose import Source, Stack, stack_layers
from aioruntime.assembly.conflicts import find_conflicts
from aioruntime.errors import DigestMismatch, InvalidManifest
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec, PathConflict
from aioruntime.progress import NoopProgress
from tests.assembly.stacks import Entry, add_stack, entry, packed, unpacked
from tests.store.helpers import save

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aioruntime.store.store import ImageStore

DIR, LINK, SYMLINK = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
BLOCK = tarfile.BLKTYPE
Seen = dict[str, tuple[object, ...]]


async def stack_of(store: ImageStore, images: Mapping[str, Sequence[bytes]]) -> Stack:
    """The layers of images by name, all in the store."""
    sources = []
    for name, layers in images.items():
        pairs = []
        for data in layers:
            digest = ImageDigest.of(data)
            await save(store, data, digest)
            pairs.append((LayerSpec(digest, len(data), "x"), digest))
        sources.append(Source(name, tuple(pairs)))
    return stack_layers(sources)


async def conflicts(store: ImageStore, **images: Sequence[Sequence[Entry]]) -> list[tuple[str, ...]]:
    """Path, winner and losers of each conflict."""
    packs = {name: [packed(layer) for layer in layers] for name, layers in images.items()}
    found = await find_conflicts(store, await stack_of(store, packs), "all", NoopProgress())
    return [(conflict.path, conflict.winner, *conflict.losers) for conflict in found]


def both(one: list[Entry], other: list[Entry]) -> dict[str, list[list[Entry]]]:
    """Two images that have a layer of their own over one that they share."""
    base = [entry("base", data=b"x"), entry("d", DIR)]
    return {"a": [base, one], "b": [base, other]}


FILE = entry("d/x", data=b"1")
PAIRS: dict[str, tuple[list[Entry], list[Entry], list[str]]] = {
    "other files": ([FILE], [entry("d/y")], []),
    "the same file": ([FILE], [FILE], []),
    "other times": ([FILE], [entry("d/x", data=b"1", mtime=77)], []),
    "other content": ([FILE], [entry("d/x", data=b"2")], ["/d/x"]),
    "other sizes": ([FILE], [entry("d/x", data=b"11")], ["/d/x"]),
    "other modes": ([FILE], [entry("d/x", data=b"1", mode=0o600)], ["/d/x"]),
    "other owners": ([FILE], [entry("d/x", data=b"1", uid=5)], ["/d/x"]),
    "other groups": ([FILE], [entry("d/x", data=b"1", gid=5)], ["/d/x"]),
    "large owners": ([entry("d/x", uid=2**22)], [entry("d/x", uid=2**22 + 1)], ["/d/x"]),
    "other capabilities": (
        [FILE],
        [entry("d/x", data=b"1", pax_headers={"SCHILY.xattr.security.capability": "x"})],
        ["/d/x"],
    ),
    "other types": ([FILE], [entry("d/x", SYMLINK, linkname="y")], ["/d/x"]),
    "a directory for a file": ([FILE], [entry("d/x", DIR), entry("d/x/y")], ["/d/x"]),
    "a file for a directory": ([entry("d/x", DIR), entry("d/x/y")], [FILE], ["/d/x"]),
    "a symlink for a directory": (
        [entry("d/l", SYMLINK, linkname="/e")],
        [entry("d/l/x")],
        ["/d/l"],
    ),
    "other link targets": (
        [entry("l", SYMLINK, linkname="1")],
        [entry("l", SYMLINK, linkname="2")],
        ["/l"],
    ),
    "modes of symlinks": (
        [entry("l", SYMLINK, linkname="1", mode=0o777)],
        [entry("l", SYMLINK, linkname="1", mode=0o755)],
        [],
    ),
    "other devices": (
        [entry("v", BLOCK, devmajor=1, devminor=2)],
        [entry("v", BLOCK, devmajor=1, devminor=3)],
        ["/v"],
    ),
    "the same directory": ([entry("e", DIR)], [entry("e", DIR)], []),
    "an implied directory": ([entry("e", DIR, mode=0o700), entry("e/x")], [entry("e/y")], []),
    "other modes of directories": ([entry("e", DIR)], [entry("e", DIR, mode=0o700)], ["/e"]),
    "other modes of the root": ([entry("./", DIR)], [entry("./", DIR, mode=0o700)], ["/"]),
    "a hard link to the same": (
        [entry("e", data=b"1"), FILE],
        [entry("e", data=b"1"), entry("d/x", LINK, linkname="e")],
        [],
    ),
    "a hard link to another": (
        [FILE],
        [entry("e", data=b"2"), entry("d/x", LINK, linkname="e")],
        ["/d/x"],
    ),
    "a whiteout over another's file": ([FILE], [entry("d/.wh.x")], ["/d/x"]),
    "a whiteout under another's file": ([entry("d/.wh.x")], [FILE], []),
    "a whiteout over another's directory": (
        [entry("e", DIR), entry("e/x"), entry("e/y")],
        [entry(".wh.e")],
        ["/e"],
    ),
    "two whiteouts": ([entry(".wh.base")], [entry(".wh.base")], []),
    "a whiteout of what both have below": ([entry("d/y")], [entry(".wh.base")], []),
    "another file over what both have below": ([entry("d/y")], [entry("base", data=b"y")], []),
    "an opaque directory over another's files": (
        [FILE, entry("d/y")],
        [entry("d/.wh..wh..opq"), FILE],
        ["/d/y"],
    ),
    "an opaque directory under another's files": ([entry("d/.wh..wh..opq"), FILE], [entry("d/y")], []),
    "an opaque directory of an opaque one": (
        [entry("d/e/x"), entry("d/e/y")],
        [entry("d/.wh..wh..opq"), entry("d/e/x")],
        ["/d/e/y"],
    ),
    "a name that is not UTF-8": (
        [entry("\udcff", data=b"1")],
        [entry("\udcff", data=b"2")],
        ["/\udcff"],
    ),
}


@pytest.mark.parametrize("case", PAIRS)
async def test_two_images(store: ImageStore, case: str) -> None:
    """Each way in which two images can differ at a path is a conflict, and none in which they agree."""
    one, other, paths = PAIRS[case]

    assert await conflicts(store, **both(one, other)) == [(path, "b", "a") for path in paths]


async def test_three_images(store: ImageStore) -> None:
    """The last image that has a path wins; no loser is who has it likewise, or does not have it."""
    base, one, two = [entry("base")], [entry("x", data=b"1")], [entry("x", data=b"2")]

    found = await conflicts(store, a=[base, one], b=[base, two], c=[base, [*one, entry("y")]], d=[base])

    assert found == [("/x", "c", "b")]


async def test_layers_that_an_image_lays_over_others(store: ImageStore) -> None:
    """What an image itself has over a layer is no conflict, with whomever it shares that layer."""
    base, shared = [entry("x", data=b"0")], [entry("x", data=b"1")]
    last = [entry("x", data=b"2")]

    assert await conflicts(store, a=[base, shared], b=[base, shared, last]) == []
    assert await conflicts(store, a=[base], b=[shared], c=[base, shared]) == []
    assert await conflicts(store, a=[base], b=[shared], c=[base, last]) == [("/x", "c", "b")]


@pytest.mark.parametrize("last", [entry(".wh.d"), entry("d", data=b"f")], ids=["whiteout", "file"])
async def test_a_directory_gives_way(store: ImageStore, last: Entry) -> None:
    """With a directory goes what lower layers have in it: that an image lays this over one is not enough."""
    own, shared = [entry("d", DIR), entry("d/x", data=b"1")], [entry("d", DIR)]

    assert await conflicts(store, a=[own, shared], b=[shared, [last]]) == [("/d", "b", "a")]
    assert await conflicts(store, a=[shared], b=[own, shared, [last]]) == []
    assert await conflicts(
        store, a=[own, [entry("d", DIR), entry("d/.wh..wh..opq")], shared], b=[shared, [last]]
    ) == [("/d", "b", "a")]


async def test_shared_layers_in_another_order(store: ImageStore) -> None:
    """A shared layer that comes to lie below what it was over in one image: that image loses its files."""
    one, own = [entry("x", data=b"1")], [entry("x", data=b"2")]

    assert await conflicts(store, a=[one], b=[own, one]) == [("/x", "b", "a", "b")]


async def test_what_all_begin_with_is_not_read(store: ImageStore) -> None:
    """Layers that every image begins with can't conflict and cost nothing: they may even be broken."""
    stack = await stack_of(store, {"a": [b"no tar", packed([FILE])], "b": [b"no tar", packed([entry("y")])]})

    assert await find_conflicts(store, stack, "all", NoopProgress()) == ()
    with pytest.raises(InvalidManifest, match=r"a: layer .* can't be put together with others"):
        await conflicts_of_broken(store)


async def conflicts_of_broken(store: ImageStore) -> tuple[PathConflict, ...]:
    stack = await stack_of(store, {"a": [b"no tar" * 100], "b": [packed([FILE])]})
    return await find_conflicts(store, stack, "all", NoopProgress())


async def test_diff_ids_are_proven(store: ImageStore) -> None:
    """A layer that does not hold what the config says is refused, whatever it is."""
    stack = await stack_of(store, {"a": [packed([FILE])], "b": [packed([entry("y")])]})
    layers = [(layer, ImageDigest.of(b"other")) for layer, _ in stack.layers]

    with pytest.raises(DigestMismatch, match="but the config names"):
        await find_conflicts(store, Stack(stack.sources, tuple(layers), 0), "all", NoopProgress())


async def test_the_bytes_read_are_told(store: ImageStore) -> None:
    """Progress tells the bytes of the layers that are looked through, then of those looked at again."""
    told: list[tuple[str, Any, Any]] = []

    class Told(NoopProgress):
        def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
            told.append((message, current, total))

    layers = [packed([FILE]), packed([entry("d/x", data=b"2")]), packed([entry("y")])]
    stack = await stack_of(store, {str(number): [layer] for number, layer in enumerate(layers)})
    assert len(await find_conflicts(store, stack, "all", Told())) == 1

    sizes = [len(layer) for layer in layers]
    assert [message for message, _, _ in told] == [
        *["comparing the layers of all"] * 3,
        *["comparing the files of all"] * 2,
    ]
    assert told[2][1:] == (sum(sizes), sum(sizes))
    assert told[4][1:] == (sum(sizes[:2]), sum(sizes[:2]))


def implies(layer: Sequence[Entry]) -> set[str]:
    """The directories that a layer has without saying so."""
    named = {info.name for info, _ in layer}
    return {
        parent
        for name in named
        for end in range(1, name.count("/") + 1)
        if (parent := "/".join(name.split("/")[:end])) not in named
    }


def differ(one: tuple[object, ...], other: tuple[object, ...] | None, *, plain: bool = False) -> bool:
    """Whether what umoci made is different, times aside; of a *plain* directory only whether it is one."""
    sides = []
    for side in (one, other):
        mode, uid, gid, content, attributes = side[:5] if side else [None] * 5
        if isinstance(content, tuple):
            content = content[0]
        plainly = plain and side is not None and content is None
        sides.append("directory" if plainly else (mode, uid, gid, content, attributes))
    return sides[0] != sides[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_random_images(store: ImageStore, tmp_path: Path, seed: int) -> None:
    """Of 200 random pairs a seed, each path that is lost by putting them together is told, and no other."""
    rng = random.Random(seed)
    first = rng.randint(1, 3)
    layers: list[list[Entry]] = [[] for _ in range(first + rng.randint(1, 3))]
    for number in range(200):
        add_stack(rng, f"stack{number}", layers)
    packs = [packed(layer) for layer in layers]
    stack = await stack_of(store, {"a": packs[:first], "b": packs[first:]})
    (tmp_path / "a").mkdir()
    (tmp_path / "all").mkdir()
    alone, together = unpacked(tmp_path / "a", packs[:first]), unpacked(tmp_path / "all", packs)

    found = await find_conflicts(store, stack, "all", NoopProgress())

    told = {conflict.path[1:] for conflict in found}
    assert {(conflict.winner, conflict.losers) for conflict in found} == {("b", ("a",))}
    implied = set[str]().union(*map(implies, layers))
    # Where a layer implies a directory, umoci and its other layers tell what it is; that may differ or not.
    lost = {path for path in alone if differ(alone[path], together.get(path), plain=path in implied)}
    other = {path for path in alone if differ(alone[path], together.get(path))}
    assert [
        path for path in lost if not any(path == part or path.startswith(f"{part}/") for part in told)
    ] == []
    assert [
        part for part in told if not any(path == part or path.startswith(f"{part}/") for path in other)
    ] == []
    assert len(lost) > 100
