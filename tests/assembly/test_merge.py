"""Layers merged into one do what they did one after the other; umoci is the judge."""

from __future__ import annotations

import io
import random
import tarfile
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip

from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.changeset import Changeset
from aioruntime.assembly.inflate import InflatedReader
from aioruntime.assembly.merge import merged_image
from aioruntime.assembly.tar import BadTar, TarReader
from aioruntime.errors import DigestMismatch, InvalidManifest
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from tests.assembly.images import made_image
from tests.assembly.stacks import Entry, add_stack, entry, packed, unpacked
from tests.store.helpers import save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aioruntime.oci.image import ResolvedImage
    from aioruntime.store.store import ImageStore

DIR, LINK, SYMLINK = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


async def saved(
    store: ImageStore, blobs: Sequence[bytes], diff_ids: list[ImageDigest] | None = None
) -> ResolvedImage:
    """An image whose layers are in the store."""
    image = made_image(blobs, diff_ids=diff_ids)
    for layer, data in zip(image.layers, blobs, strict=True):
        await save(store, data, layer.digest)
    return image


async def layers_of(store: ImageStore, image: ResolvedImage, groups: Sequence[range]) -> list[bytes]:
    """The layers that stand for each of *groups*, checked against what the new image says of them."""
    archives: list[bytes] = []
    async with merged_image(image, groups, store, Arrivals.of(image.layers)) as (new, content):
        assert new.layers[: groups[0].start] == image.layers[: groups[0].start]
        for layer in new.layers[groups[0].start :]:
            async with aclosing(content.stream(layer.digest, layer.size)) as pieces:
                archives.append(b"".join([piece async for piece in pieces]))
            assert (layer.digest, layer.size) == (ImageDigest.of(archives[-1]), len(archives[-1]))
        assert new.config.rootfs.diff_ids[groups[0].start :] == tuple(map(ImageDigest.of, archives))
    return archives


async def merged(store: ImageStore, layers: Sequence[bytes], first: int) -> bytes:
    """The layer that stands for those from *first* on."""
    image = await saved(store, layers)
    (archive,) = await layers_of(store, image, [range(first, len(layers))])
    return archive


async def assert_same(store: ImageStore, path: Path, layers: Sequence[bytes], first: int) -> None:
    count = len(layers)
    archive = await merged(store, layers, first)
    assert_same_tree(path / "one", layers, [*layers[:first], archive])
    if count - first > 2:
        middle = (first + count) // 2
        image = await saved(store, layers)
        two = await layers_of(store, image, [range(first, middle), range(middle, count)])
        assert_same_tree(path / "two", layers, [*layers[:first], *two])


def assert_same_tree(path: Path, layers: Sequence[bytes], others: Sequence[bytes]) -> None:
    (path / "before").mkdir(parents=True)
    (path / "after").mkdir()
    before = unpacked(path / "before", layers)
    after = unpacked(path / "after", others)

    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
async def test_random_stacks(store: ImageStore, tmp_path: Path, seed: int) -> None:
    """THREATS I6, I7, T15: 200 random stacks a seed unpack to the same tree before and after merging."""
    rng = random.Random(seed)
    first = rng.randint(0, 2)
    layers: list[list[Entry]] = [[] for _ in range(first + rng.randint(2, 5))]
    for number in range(200):
        add_stack(rng, f"stack{number}", layers)

    await assert_same(store, tmp_path, [packed(layer) for layer in layers], first)


STACKS: dict[str, list[list[Entry]]] = {
    "a file hides a directory": [
        [entry("d", DIR), entry("d/x", data=b"x")],
        [entry("d", data=b"now a file")],
        [entry("other")],
    ],
    "a directory takes a file's place": [
        [entry("d", DIR), entry("d/old")],
        [entry("d", data=b"file")],
        [entry("d", DIR), entry("d/new")],
    ],
    "a symlink takes a directory's place": [
        [entry("d", DIR), entry("d/x"), entry("e", DIR)],
        [entry("d", SYMLINK, linkname="e")],
        [entry("e", DIR), entry("e/y")],
    ],
    "what was gone comes back": [
        [entry("d", DIR), entry("d/x", data=b"1")],
        [entry(".wh.d")],
        [entry("d", DIR), entry("d/y")],
    ],
    "an opaque directory": [
        [entry("d", DIR), entry("d/x"), entry("d/e", DIR), entry("d/e/z")],
        [entry("d", DIR), entry("d/.wh..wh..opq"), entry("d/y")],
        [entry("d", DIR), entry("d/z")],
    ],
    "an opaque root": [[entry("a"), entry("b")], [entry(".wh..wh..opq"), entry("c")], [entry("d")]],
    "the first of two names goes": [
        [entry("base")],
        [entry("a", data=b"content"), entry("b", LINK, linkname="a"), entry("c", LINK, linkname="b")],
        [entry(".wh.a")],
    ],
    "the first of two names is another file now": [
        [entry("base")],
        [entry("a", data=b"content"), entry("b", LINK, linkname="a"), entry("c", LINK, linkname="a")],
        [entry("a", data=b"new")],
    ],
    "links on the way are other directories now": [
        [entry("base")],
        [
            *(entry(name, DIR) for name in ("usr", "usr/lib", "usr/bin", "o")),
            *(entry(name, SYMLINK, linkname=f"./o/../usr/{name}") for name in ("lib", "bin")),
            entry("lib/x", DIR, mode=0o700),
            entry("lib/x/f", data=b"1"),
            entry("bin/a", data=b"2"),
            entry("bin/b", LINK, linkname="bin/a"),
            entry("bin/c", LINK, linkname="usr/bin/b"),
            entry("bin/d", SYMLINK, linkname="a"),
            entry("o/e", LINK, linkname="bin/a"),
        ],
        [entry("lib", DIR), entry("lib/y"), entry("usr/bin/.wh.a")],
        [entry(".wh.bin"), entry("z", SYMLINK, linkname="lib")],
    ],
    "links on the way": [
        [entry("usr", DIR), entry("usr/lib", DIR), entry("lib", SYMLINK, linkname="/usr/lib")],
        [
            entry("usr", DIR),
            entry("v", SYMLINK, linkname="usr"),
            entry("v/x", DIR, mode=0o700),
            entry("v/x/f", data=b"1"),
            entry("v/x/f", data=b"2"),
        ],
        [entry("o", DIR), entry("v", SYMLINK, linkname="o")],
    ],
    "names in several forms": [
        [entry("./a/", DIR), entry("a//b", data=b"1")],
        [entry("./a", DIR), entry("./a/./c", data=b"2")],
        [entry("a/b", data=b"3")],
    ],
    "long and odd names": [
        [entry("d", DIR)],
        [entry("d/" + "n" * 200, data=b"1"), entry("d/\udcff\u00e9", data=b"2")],
        [entry("d/" + "n" * 200, data=b"3"), entry("d/l", SYMLINK, linkname="t" * 150)],
    ],
    "a device and a pipe": [
        [entry("dev", DIR)],
        [entry("dev/p", tarfile.FIFOTYPE), entry("dev/n", tarfile.CHRTYPE, devmajor=1, devminor=3)],
        [entry("dev/q", tarfile.FIFOTYPE)],
    ],
}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
async def test_what_layers_do_to_each_other(
    store: ImageStore, tmp_path: Path, stack: list[list[Entry]], first: int, form: int
) -> None:
    """THREATS I6, I7: each way in which a layer acts on those below it is kept, on a base and without one."""
    await assert_same(store, tmp_path, [packed(layer, form) for layer in stack], first)


async def test_bytes_depend_on_content_alone(store: ImageStore, tmp_path: Path) -> None:
    """The same layers, compressed or not, give the same merged layer."""
    rng = random.Random(7)
    entries: list[list[Entry]] = [[], [], []]
    add_stack(rng, "s", entries)
    layers = [packed(layer) for layer in entries]
    blobs = [igzip.compress(layer) for layer in layers]
    image = await saved(store, blobs, list(map(ImageDigest.of, layers)))
    (compressed,) = await layers_of(store, image, [range(1, 3)])

    assert await merged(store, layers, 1) == compressed


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([entry("../x")], "leads out of the image"),
        ([entry("a/../../x")], "leads out of the image"),
        ([entry(".wh.")], "names nothing"),
        ([entry(".wh..")], "names nothing"),
        ([entry("a/.wh...")], "names nothing"),
        ([entry(".wh.a/b")], "name of a whiteout"),
        ([entry("a"), entry("a/b")], "not a directory"),
        ([entry("l", SYMLINK, linkname="l"), entry("l/x")], "not a directory"),
        ([entry("b", LINK, linkname="a")], "no file of the same layer"),
        ([entry("a", LINK, linkname="a")], "no file of the same layer"),
        ([entry("a", b"Z")], "unknown type"),
        ([entry("x" * 5000)], "a path has 5000 bytes"),
    ],
)
async def test_what_can_not_be_merged(store: ImageStore, entries: list[Entry], reason: str) -> None:
    """THREATS I4, I6, I7: what no engine could unpack, or each in its own way, is refused by name."""
    with pytest.raises(InvalidManifest, match=rf"example.org/tool:1: layer 1 .*can't be merged.*{reason}"):
        await merged(store, [packed([entry("a")]), packed(entries)], 0)


async def test_a_layer_that_is_not_what_the_config_says(store: ImageStore) -> None:
    """THREATS I2: a layer with another content than its diff ID is found before the merged layer ends."""
    layers = [packed([entry("a")]), packed([entry("b")])]
    image = await saved(store, layers, [ImageDigest.of(layers[0]), ImageDigest.of(b"else")])

    with pytest.raises(DigestMismatch) as caught:
        await layers_of(store, image, [range(2)])
    assert caught.value.position == 1


@given(st.binary(max_size=3000), st.integers(0, 4000))
def test_any_bytes_are_read_or_refused(noise: bytes, place: int) -> None:
    """THREATS I5, T16: whatever an archive has in it, reading it ends, with `BadTar` at the worst."""
    archive = bytearray(packed([entry("a", data=b"1" * 700), entry("n" * 150, DIR), entry("b", LINK)]))
    archive[place : place + len(noise)] = noise
    changeset = Changeset(0)
    try:
        for header in TarReader(io.BytesIO(bytes(archive))):
            changeset.add(header)
    except BadTar:
        pass


@pytest.mark.parametrize("size", [10_000, 2**40])
def test_a_declared_size_is_never_allocated(size: int) -> None:
    """THREATS I5, R12: an extension header that claims to be large is refused unread."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**20 + size
    with pytest.raises(BadTar, match="extension header"):
        list(TarReader(io.BytesIO(info.tobuf(tarfile.GNU_FORMAT))))


def test_a_bomb_is_refused() -> None:
    """THREATS I1, T14: a layer that inflates beyond all measure is given up at the limit."""
    block = igzip.compress(bytes(2**26))
    bomb = block * 40
    layer = LayerSpec(ImageDigest.of(bomb), len(bomb), "x")
    reader = InflatedReader(io.BytesIO(bomb), layer)

    with pytest.raises(InvalidManifest, match="decompression bomb"):
        reader.read_all()
