"""Images that come from other image layouts, and go into them."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.errors import (
    DigestMismatch,
    InvalidReference,
    InvalidSpec,
    LayersMissing,
    NotStored,
    SizeMismatch,
    StoreError,
    StoreFull,
)
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef
from aioruntime.store import files, foreign, names, transfer
from aioruntime.store.store import ImageStore
from aioruntime.tasks import in_thread
from tests.store.helpers import (
    ROOT,
    blob_path,
    content,
    partial_path,
    partials,
    put_descriptor,
    save,
    save_some,
    set_age,
)
from tests.store.layouts import (
    INDEX_TYPE,
    add_blob,
    add_image,
    blob_at,
    changed,
    list_images,
    make_layout,
    names_in,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from aioruntime.oci.documents import Descriptor
    from aioruntime.store.layout import Layout
    from aioruntime.store.named import Named

NAME = "docker.io/library/tool:1"
LAYER = content(3_000_000, 0)[1]  # of the first image of a layout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@contextmanager
def other_disk(path: Path, size: str = "64m") -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


async def _stored(store: ImageStore, source: Path) -> ImageDigest:
    """Have one image in the store."""
    image = make_layout(source, NAME)[0]
    await store.import_layout(source)
    return ImageDigest(image["digest"])


# Import


async def test_images_keep_their_names(
    store: ImageStore, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All named images of a layout are in the store, whole, by their names.

    One without a name is left out, and told.
    """
    one, two, three = make_layout(source, NAME, "latest", None)
    names = await store.import_layout(str(source))

    assert names == [NAME, "latest"]
    found = await store.references()
    assert {name: each.digest for name, each in found.items()} == {
        NAME: one["digest"],
        "latest": two["digest"],
    }
    assert not await store.has(ImageDigest(three["digest"]))
    [message] = caplog.messages
    assert message.startswith(f"{source}: left out, since they have no name there: {three['digest']}; name")
    assert await store.missing([]) == []
    assert await store.read(LAYER) == content(3_000_000, 0)[0]
    assert await store.verify() == []
    assert partials(store) == []


def _with_index(layout: Path, *children: dict[str, Any]) -> ImageDigest:
    root = add_blob(layout, json.dumps({"schemaVersion": 2, "manifests": children}).encode(), INDEX_TYPE)
    list_images(layout, (NAME, root))
    return ImageDigest(root["digest"])


async def test_an_index_of_platforms(store: ImageStore, source: Path) -> None:
    """An index comes with the images of those platforms that the layout has."""
    here, absent = add_image(source, 1), add_image(source.with_name("elsewhere"), 2)
    root = _with_index(source, absent, here)
    await store.import_layout(source)

    assert (await store.references())[NAME].digest == root
    assert await store.has(ImageDigest(here["digest"]))
    assert await store.has(content(3_000_000, 1)[1])


async def test_an_index_alone(store: ImageStore, source: Path) -> None:
    """An index without any of its images is told with what lacks, and gets no name."""
    absent = add_image(source.with_name("elsewhere"), 1)
    _with_index(source, absent)
    with pytest.raises(LayersMissing, match=f"{source} lacks {absent['digest']}.*--all") as caught:
        await store.import_layout(source)

    assert caught.value.digests == (absent["digest"],)
    assert await store.references() == {}


async def test_an_index_of_what_the_store_has_begun(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """An index with an image of which only the manifest is here is told with what lacks, and gets no name."""
    here, begun = add_image(source, 1), add_image(tmp_path / "elsewhere", 2)
    _with_index(source, here, begun)
    manifest = blob_at(tmp_path / "elsewhere", begun["digest"]).read_bytes()
    await store.put(manifest, begun["digest"])
    config = json.loads(manifest)["config"]["digest"]
    with pytest.raises(LayersMissing, match=f"{source} lacks {config} and 1 more.*--all") as caught:
        await store.import_layout(source)

    assert caught.value.digests == (config, content(3_000_000, 2)[1])
    assert await store.references() == {}


async def test_an_index_of_what_the_store_has(
    store: ImageStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: What an index lists and only the store has is its, and is not collected before that is named."""
    theirs = make_layout(tmp_path / "elsewhere", "latest")[0]
    await store.import_layout(tmp_path / "elsewhere")
    root = _with_index(source, theirs)
    name_it, kept = names.change_names, []

    def pruned_before(layout: Layout, change: Callable[[Named], Named]) -> Named | None:
        kept.append(asyncio.run(ImageStore(store.path).remove("latest")))
        return name_it(layout, change)

    monkeypatch.setattr(transfer, "change_names", pruned_before)
    assert await store.import_layout(source) == [NAME]

    (image,) = await store.images()
    assert (image.digest, image.missing, len(image.blobs), kept) == (root, (), 5, [0])


async def test_a_short_name_of_another_image(store: ImageStore, tmp_path: Path) -> None:
    """A short name that the store has for another image is refused: nothing is copied, and no name given."""
    one, two = tmp_path / "one", tmp_path / "two"
    first = make_layout(one, "latest")[0]
    second = add_image(two, 5)
    list_images(two, ("latest", second), (NAME, add_image(two, 6)))
    await store.import_layout(one)
    told = f"latest is {second['digest']} in {two}.*{first['digest']}.*store rm"
    with pytest.raises(InvalidSpec, match=told) as caught:
        await store.import_layout(two)

    assert "such as ghcr.io/org/tool:1 (name=, --name)" in str(caught.value)
    assert {name: each.digest for name, each in (await store.references()).items()} == {
        "latest": first["digest"]
    }
    assert not await store.has(ImageDigest(second["digest"]))
    assert await store.import_layout(one) == ["latest"]


async def test_a_short_name_taken_meanwhile(
    store: ImageStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short name that another process gave during the copying is not taken from its image either."""
    make_layout(source, NAME, "latest")
    name_it, other = names.change_names, await put_descriptor(store, b"{}")

    def named_before(layout: Layout, change: Callable[[Named], Named]) -> Named | None:
        asyncio.run(ImageStore(store.path).set_reference("latest", other))
        return name_it(layout, change)

    monkeypatch.setattr(transfer, "change_names", named_before)
    with pytest.raises(InvalidSpec, match="another image of that name"):
        await store.import_layout(source)
    assert await store.references() == {"latest": other}


async def test_newer_images(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """A full reference, or a name that was asked for, is that of the newer image once it is imported."""
    image = make_layout(source, NAME)[0]
    await store.import_layout(source)
    newer = tmp_path / "newer"
    list_images(newer, (NAME, add_image(newer, 5)))
    await store.import_layout(newer)
    assert (await store.references())[NAME].digest != image["digest"]

    await store.import_layout(source, "tool:1")
    assert {each.digest for each in (await store.references()).values()} == {image["digest"]}


@pytest.mark.parametrize(
    ("names", "name", "message"),
    [
        ([None], None, "no name for .*give it one"),
        ([None, None], None, "no name for .*name them there first"),
        (["a", "b"], "c", r"several images \(a, b\)"),
        ([], None, "lists no image"),
        ([], "c", "lists no image"),
    ],
)
async def test_names_that_can_not_be_given(
    store: ImageStore, source: Path, names: list[str | None], name: str | None, message: str
) -> None:
    """Where it is not clear which image gets which name nothing is copied, and the images are listed."""
    make_layout(source, *names)
    with pytest.raises(InvalidSpec, match=message):
        await store.import_layout(source, name)
    assert not store.path.exists()


@pytest.mark.parametrize("name", ["", "a b", "Tool"])
async def test_names_that_are_none(store: ImageStore, source: Path, name: str) -> None:
    """A name that is no reference is refused, and nothing is copied."""
    make_layout(source, "a")
    with pytest.raises(InvalidReference):
        await store.import_layout(source, name)
    assert not store.path.exists()


async def test_no_directory(store: ImageStore) -> None:
    """An empty path is not taken for the working directory."""
    for work in (store.import_layout(""), store.export_layout("a", "")):
        with pytest.raises(InvalidSpec, match="path is empty"):
            await work


@pytest.mark.parametrize("named", [None, "latest"])
async def test_a_name_for_the_only_image(store: ImageStore, source: Path, named: str | None) -> None:
    """The only image of a layout gets the name that was given, and no other."""
    image = make_layout(source, named)[0]

    assert await store.import_layout(source, name=NAME) == [NAME]
    assert {name: each.digest for name, each in (await store.references()).items()} == {NAME: image["digest"]}


async def test_what_is_here_is_not_read_again(store: ImageStore, source: Path) -> None:
    """Blobs that the store has may be gone from the layout."""
    make_layout(source, NAME)
    data, digest = content(3_000_000, 0)
    await save(store, data, digest)
    blob_at(source, digest).unlink()

    assert await store.import_layout(source) == [NAME]


@pytest.mark.parametrize("which", ["manifest", "index and manifest", "manifest of an index"])
async def test_a_damaged_manifest_here(store: ImageStore, source: Path, which: str) -> None:
    """L6: A manifest or index that was altered in the store is whole after the layout is imported again."""
    image = add_image(source, 1)
    list_images(source, (NAME, image))
    damaged = [image["digest"]]
    if which != "manifest":
        root = _with_index(source, image)
        damaged += [root] if which == "index and manifest" else []
    await store.import_layout(source)
    for digest in damaged:
        changed(blob_path(store, digest))
    assert (await store.images())[0].missing != ()

    assert await store.import_layout(source) == [NAME]
    assert [each.missing for each in await store.images()] == [()]
    assert await store.verify() == []
    assert (await store.prune()).unclear == ()


async def test_a_damaged_manifest_here_alone(store: ImageStore, source: Path) -> None:
    """L6: A manifest that was altered here, and that the layout lacks, is told by the layout's path."""
    digest = await _stored(store, source)
    changed(blob_path(store, digest))
    blob_at(source, digest).unlink()
    with pytest.raises(LayersMissing, match=f"{source} lacks {digest}.*--all"):
        await store.import_layout(source)


async def test_an_altered_layer_here(store: ImageStore, source: Path) -> None:
    """L6: A layer that was altered in the store comes again once `verify` has put it aside."""
    await _stored(store, source)
    changed(blob_path(store, LAYER))
    await store.import_layout(source)
    assert await store.verify(repair=True) == [LAYER]

    await store.import_layout(source)
    assert await store.read(LAYER) == content(3_000_000, 0)[0]


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _linked(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (changed, DigestMismatch),
        (_cut, SizeMismatch),
        (os.unlink, LayersMissing),
        (_linked, StoreError),
        (_pipe, StoreError),
        (_directory, StoreError),
    ],
)
async def test_a_damaged_layout(
    store: ImageStore, source: Path, what: str, damage: Callable[[Path], None], error: type[StoreError]
) -> None:
    """L7: A blob that is altered, cut, absent, or no file, is told by its path, and nothing gets a name."""
    image = make_layout(source, NAME, "other")[0]
    manifest = json.loads(blob_at(source, image["digest"]).read_bytes())
    digest = {"layer": LAYER, "config": manifest["config"]["digest"], "manifest": image["digest"]}[what]
    damage(blob_at(source, digest))
    with pytest.raises(error, match=str(source)) as caught:
        await store.import_layout(source)

    assert digest.partition(":")[2] in str(caught.value)
    assert type(caught.value) is error
    assert await store.references() == {}
    assert await store.verify() == []


async def test_a_wrong_size_in_the_index(store: ImageStore, source: Path) -> None:
    """A manifest of another size than the layout's index says is told."""
    image = make_layout(source, NAME)[0]
    list_images(source, (NAME, {**image, "size": image["size"] + 1}))
    with pytest.raises(SizeMismatch, match=str(source)):
        await store.import_layout(source)
    assert await store.references() == {}


def _no_version(layout: Path) -> None:
    (layout / "oci-layout").unlink()


def _other_version(layout: Path) -> None:
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')


def _broken_version(layout: Path) -> None:
    (layout / "oci-layout").write_text("1.0.0")


def _version_pipe(layout: Path) -> None:
    _pipe(layout / "oci-layout")


def _broken_index(layout: Path) -> None:
    (layout / "index.json").write_text("[")


def _index_link(layout: Path) -> None:
    _linked(layout / "index.json")


def _archive(layout: Path) -> None:
    layout.rename(layout.with_name("moved"))
    layout.write_text("archive")


def _gone(layout: Path) -> None:
    layout.rename(layout.with_name("moved"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_version, "not an OCI image layout.*skopeo"),
        (_other_version, "version 2.0.0, only 1.0.0 is understood"),
        (_broken_version, "names no version"),
        (_version_pipe, "not a regular file"),
        (_broken_index, "not an image index; copy"),
        (_index_link, "not a regular file"),
        (_archive, "not an OCI image layout.*unpack"),
        (_gone, "not an OCI image layout"),
    ],
)
async def test_what_is_no_layout(
    store: ImageStore, source: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """L7: What is no image layout is told with its path and what can be done."""
    make_layout(source, NAME)
    spoil(source)
    with pytest.raises(StoreError, match=f"{source}.*{message}"):
        await store.import_layout(source)
    assert not store.path.exists()


async def test_wrong_bytes_of_an_earlier_attempt(store: ImageStore, source: Path) -> None:
    """What an earlier download left is gone on with, and thrown away if it was wrong."""
    make_layout(source, NAME)
    for seed, begun in ((0, content(3_000_000, 5)[0]), (1000, content(3_000_000, 1000)[0])):
        await save_some(store, begun, content(3_000_000, seed)[1], 1_500_000)
    assert len(partials(store)) == 2
    await store.import_layout(source)

    assert partials(store) == []
    assert await store.verify() == []


async def test_cancelled_import(store: ImageStore, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that is cancelled names nothing, leaves no file open, and is completed by the next."""
    make_layout(source, NAME)
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()
    read = files.File.read_at

    def told(file: files.File, offset: int, count: int) -> bytes:
        if file.path.name == LAYER.hex and offset >= 2**20:
            loop.call_soon_threadsafe(entered.set)
        return read(file, offset, count)

    with monkeypatch.context() as patch:
        patch.setattr(files.File, "read_at", told)
        task = asyncio.create_task(store.import_layout(source))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await store.references() == {}
    assert _open_below(source) == []
    assert partial_path(store, LAYER).stat().st_size >= 2**20

    assert await store.import_layout(source) == [NAME]


def _open_below(path: Path) -> list[str]:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return [
        found for link in links if os.path.lexists(link) if (found := os.readlink(link)).startswith(str(path))
    ]


async def test_imports_at_once(tmp_path: Path, source: Path) -> None:
    """Stores that share a directory may import layouts with common blobs at once."""
    make_layout(source, "a", "b", "c", "d")
    stores = [ImageStore(tmp_path / "store") for _ in range(4)]
    await asyncio.gather(*(store.import_layout(source) for store in stores))

    assert set(await stores[0].references()) == {"a", "b", "c", "d"}
    assert await stores[0].verify() == []


async def test_nothing_that_moves_is_collected(
    store: ImageStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: A prune that wants all room takes nothing of what is being imported or exported."""
    image = make_layout(source, NAME)[0]
    other = ImageStore(store.path)
    add, name_it = foreign.ForeignLayout.add, names.change_names
    kept = []

    def pruned_before(layout: Layout, change: Callable[[Named], Named]) -> Named | None:
        kept.append(asyncio.run(ImageStore(store.path).prune(max_bytes=0)).blobs)
        return name_it(layout, change)

    def pruned_before_add(self: foreign.ForeignLayout, name: str, descriptor: Descriptor) -> None:
        kept.append(asyncio.run(ImageStore(store.path).prune(max_bytes=0)).blobs)
        add(self, name, descriptor)

    monkeypatch.setattr(transfer, "change_names", pruned_before)
    monkeypatch.setattr(foreign.ForeignLayout, "add", pruned_before_add)
    assert await store.import_layout(source) == [NAME]
    await store.export_layout(NAME, tmp_path / "out")

    assert kept == [(), ()]
    assert [(each.name, each.missing) for each in await store.images()] == [(NAME, ())]
    assert names_in(tmp_path / "out") == {NAME: image["digest"]}
    await other.prune(max_bytes=0)
    assert await store.images() == []


# Export


def _same_file(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("store_mode", "mode"), [(0o700, 0o700), (0o755, 0o755), (0o750, 0o755)])
async def test_export_links(
    store: ImageStore, source: Path, tmp_path: Path, store_mode: int, mode: int
) -> None:
    """On the store's disk exported files are the store's, if these have the directory's permissions.

    Else they are copies that have them.
    """
    store.path.mkdir(store_mode)
    store.path.chmod(store_mode)
    digest = await _stored(store, source)
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    out.chmod(mode)
    await store.export_layout(NAME, out)

    assert names_in(out) == {NAME: digest}
    assert _same_file(blob_at(out, LAYER), blob_path(store, LAYER)) == (store_mode == mode)
    assert _mode(blob_at(out, LAYER)) == mode & 0o444
    assert _mode(out / "index.json") == mode & 0o666
    assert sorted(os.listdir(out)) == ["blobs", "index.json", "oci-layout"]
    assert len(os.listdir(out / "blobs" / "sha256")) == 4


async def test_export_to_another_disk(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """On another file system blobs are copied; what is there with its size is kept, all else replaced."""
    digest = await _stored(store, source)
    with other_disk(tmp_path / "disk") as disk:
        out = disk / "out"
        await store.export_layout(NAME, out)
        assert names_in(out) == {NAME: digest}
        assert blob_at(out, LAYER).stat().st_mode & 0o777 == 0o444

        kept = blob_at(out, digest).stat()
        _cut(blob_at(out, LAYER))
        await store.export_layout(NAME, out)
        assert names_in(out) == {NAME: digest}
        assert blob_at(out, digest).stat() == kept
        assert sorted(os.listdir(out)) == ["blobs", "index.json", "oci-layout"]


def _cloning(fd: int, request: int, argument: int) -> int:
    assert request == 0x40049409  # FICLONE in linux/fs.h: not every disk that tests run on has it
    os.sendfile(fd, argument, 0, 10_000_000)
    return 0


async def test_export_clones(
    store: ImageStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system can, exported files share their content with the store's, but nothing else."""
    digest = await _stored(store, source)
    monkeypatch.setattr(fcntl, "ioctl", _cloning)
    out = tmp_path / "out"
    await store.export_layout(NAME, out)

    assert names_in(out) == {NAME: digest}
    assert not _same_file(blob_at(out, LAYER), blob_path(store, LAYER))
    assert _mode(blob_at(out, LAYER)) == _mode(out) & 0o444
    assert sorted(os.listdir(out)) == ["blobs", "index.json", "oci-layout"]


async def test_export_adds_to_a_layout(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """An image is added to a layout of others, whose entries and files stay; its name gets the new image."""
    digest = await _stored(store, source)
    out = tmp_path / "out"
    theirs, replaced = add_image(out, 7), add_image(out, 8)
    list_images(out, ("theirs", theirs), (NAME, replaced))
    (out / "README").write_text("of others")
    await store.export_layout(NAME, out)

    assert names_in(out) == {"theirs": theirs["digest"], NAME: digest}
    assert (out / "README").read_text() == "of others"


async def test_exports_at_once(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """Exports into one layout at once all end up in it."""
    names = [f"tool:{number}" for number in range(5)]
    images = make_layout(source, *names)
    await store.import_layout(source)
    out = tmp_path / "out"
    await asyncio.gather(*(store.export_layout(name, out) for name in names))

    assert names_in(out) == {name: image["digest"] for name, image in zip(names, images, strict=True)}
    assert sorted(os.listdir(out)) == ["blobs", "index.json", "oci-layout"]


@pytest.mark.parametrize("form", [NAME, "tool:1", OciRef.parse("tool:1")])
async def test_names_of_what_is_exported(
    store: ImageStore, source: Path, tmp_path: Path, form: str | OciRef
) -> None:
    """An image is found by its name in every form, and keeps its full name."""
    digest = await _stored(store, source)
    await store.export_layout(form, tmp_path / "out")

    assert names_in(tmp_path / "out") == {NAME: digest}


async def test_export_by_digest(
    store: ImageStore, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An image is found by its digest, whether it has a name or is one of an index.

    An import tells that it leaves out what has no name beside its digest.
    """
    inner = add_image(source, 1)
    root = add_blob(source, json.dumps({"schemaVersion": 2, "manifests": [inner]}).encode(), INDEX_TYPE)
    list_images(source, (NAME, root))
    await store.import_layout(source)
    out = tmp_path / "out"
    for digest in (root["digest"], inner["digest"]):
        await store.export_layout(digest, out)

    assert names_in(out) == {each["digest"]: each["digest"] for each in (root, inner)}
    await store.export_layout(NAME, out)
    caplog.clear()
    assert await store.import_layout(out) == [NAME]
    assert [inner["digest"] in message for message in caplog.messages] == [True]
    assert root["digest"] not in caplog.text
    listed = json.loads((out / "index.json").read_bytes())["manifests"]
    assert [entry["mediaType"] for entry in listed] == [INDEX_TYPE, inner["mediaType"], INDEX_TYPE]


@pytest.mark.parametrize("image", ["tool:2", "sha256:" + "0" * 64, "sha256:0"])
async def test_export_of_what_is_not_stored(
    store: ImageStore, source: Path, tmp_path: Path, image: str
) -> None:
    """What the store does not have is told, and nothing is written."""
    await _stored(store, source)
    with pytest.raises(NotStored, match=f"^{image} is not in the store"):
        await store.export_layout(image, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("image", "error"), [("", InvalidReference), ("my image", InvalidReference), (None, InvalidSpec)]
)
async def test_what_names_no_image(
    store: ImageStore, tmp_path: Path, image: Any, error: type[Exception]
) -> None:
    """What can't name an image is told as that by all that take one, and nothing is made."""
    out = tmp_path / "out"
    for work in (
        store.pin(image),
        store.unpin(image),
        store.remove(image),
        store.export_layout(image, out),
    ):
        with pytest.raises(error, match="image is None" if image is None else None):
            await work
    assert not store.path.exists()
    assert not out.exists()


async def test_export_of_what_is_not_whole(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """An image of which a layer is gone is not exported."""
    await _stored(store, source)
    blob_path(store, LAYER).unlink()
    with pytest.raises(LayersMissing) as caught:
        await store.export_layout(NAME, tmp_path / "out")
    assert caught.value.digests == (LAYER,)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["copied", "linked", "cloned"])
async def test_export_of_a_damaged_layer(
    store: ImageStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """An altered layer is never exported, in whatever way, and the layout stays without the image."""
    await _stored(store, source)
    changed(blob_path(store, LAYER))
    if way == "cloned":
        monkeypatch.setattr(fcntl, "ioctl", _cloning)
    out = tmp_path / "out"
    out.mkdir(0o755 if way == "copied" else 0o700)
    blob_path(store, LAYER).chmod(0o400)  # as it was
    with pytest.raises(DigestMismatch, match=f"{LAYER.hex}.*verify --repair.*import"):
        await store.export_layout(NAME, out)
    assert not blob_at(out, LAYER).exists()
    assert names_in(out) == {}
    assert sorted(os.listdir(out)) == ["blobs", "index.json", "oci-layout"]

    await store.verify(repair=True)
    await store.import_layout(source)
    await store.export_layout(NAME, out)
    assert set(names_in(out)) == {NAME}


async def test_export_to_a_full_disk(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """A disk that is full is told; with room again the next export completes the layout."""
    digest = await _stored(store, source)
    with other_disk(tmp_path / "disk", "9m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(5_000_000))
        with pytest.raises(StoreFull, match=f"{disk}.*, or export to a directory on a larger disk") as caught:
            await store.export_layout(NAME, disk / "out")
        assert not hasattr(caught.value, "__notes__")
        assert caught.value.need > caught.value.have
        assert names_in(disk / "out") == {}
        ballast.unlink()
        await store.export_layout(NAME, disk / "out")
        assert names_in(disk / "out") == {NAME: digest}


def _mount_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


async def test_export_into_the_store(store: ImageStore, source: Path) -> None:
    """An export into the store's own directory is refused before anything is written there."""
    await _stored(store, source)
    with pytest.raises(InvalidSpec, match="in the store itself"):
        await store.export_layout(NAME, store.path / "blobs" / "out")
    assert not (store.path / "blobs" / "out").exists()


async def test_an_import_is_a_use(store: ImageStore, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L11: an image that is imported counts as used before it has its name, whatever it was before."""
    await _stored(store, source)
    [image] = await store.images()
    used = store._layout.used(image.digest)
    set_age(used, 2)
    give = names.change_names

    def give_when_used(*arguments: Any) -> Any:
        assert time.time() - used.stat().st_mtime < 3600
        return give(*arguments)

    monkeypatch.setattr(transfer, "change_names", give_when_used)
    assert await store.import_layout(source) == [NAME]


async def test_export_to_a_read_only_disk(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """A place that can't be written is told by its path, with advice on that place, not on the store."""
    await _stored(store, source)
    with other_disk(tmp_path / "disk") as disk:
        await store.export_layout(NAME, disk / "out")
        blob_at(disk / "out", LAYER).unlink()
        await in_thread(_mount_read_only, disk)
        for name in ("out", "new"):
            with pytest.raises(StoreError, match=f"{disk}/{name}.*, or export to a directory that is$"):
                await store.export_layout(NAME, disk / name)


@pytest.mark.parametrize("what", ["layer", "manifest"])
async def test_export_over_a_damaged_blob(store: ImageStore, source: Path, tmp_path: Path, what: str) -> None:
    """L6: A blob that was altered where it is exported to is replaced; if it is so here too, that is told."""
    digest = await _stored(store, source)
    out = tmp_path / "out"
    out.mkdir(0o755)  # gets copies
    await store.export_layout(NAME, out)
    damaged = LAYER if what == "layer" else digest
    changed(blob_at(out, damaged))
    await store.export_layout(NAME, out)
    assert names_in(out) == {NAME: digest}
    assert sorted(os.listdir(out)) == ["blobs", "index.json", "oci-layout"]

    changed(blob_path(store, LAYER))
    await store.export_layout(NAME, out)  # all of it is there
    changed(blob_at(out, LAYER))
    with pytest.raises(DigestMismatch, match=str(blob_path(store, LAYER))):
        await store.export_layout(NAME, out)


async def test_where_nothing_is_exported_to(store: ImageStore, source: Path, tmp_path: Path) -> None:
    """What has something else in it, is a file, a store, or of another version, stays as it is."""
    await _stored(store, source)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    newer = tmp_path / "newer"
    newer.mkdir()
    _other_version(newer)
    for path, message in (
        (other, "has thesis.tex in it"),
        (other / "thesis.tex", "not a directory"),
        (store.path, "an image store of its own"),
        (newer, "version 2.0.0"),
    ):
        before = sorted(path.rglob("*"))
        with pytest.raises(StoreError, match=message):
            await store.export_layout(NAME, path)
        assert sorted(path.rglob("*")) == before


@pytest.mark.parametrize("linked", [True, False])
def test_killed_exports(tmp_path: Path, linked: bool) -> None:
    """L1: Killed before any change of a file, an export leaves a layout that the next one completes."""
    with other_disk(tmp_path / "disk") as disk:  # where fsync takes no time
        command = [sys.executable, "-m", "tests.store.killed_exports", str(disk), str(int(linked))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


_MEASURED = """
import asyncio, resource, sys
from pathlib import Path
from aioruntime.store import files, foreign
from aioruntime.store.store import ImageStore
files.link = files.File.clone = lambda *_: False

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main(directory):
    store = ImageStore(directory / "store")
    await store.import_layout(directory / "small")
    await store.export_layout("small", directory / "out")
    before = peak()
    await store.import_layout(directory / "large")
    await store.export_layout("large", directory / "out")
    print(peak() - before)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_memory(tmp_path: Path) -> None:
    """A layer of 200 MB goes in and out in less than 24 MiB of memory."""
    for name, size in (("small", 10_000_000), ("large", 200_000_000)):
        layout = tmp_path / name
        list_images(layout, (name, add_image(layout, 1, 1000)))
        _with_large_layer(layout, name, size)
    command = [sys.executable, "-c", _MEASURED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 24 * 1024
    assert set(names_in(tmp_path / "out")) == {"small", "large"}


def _with_large_layer(layout: Path, name: str, size: int) -> None:
    large = add_blob(layout, bytes(size), "layer")
    image: dict[str, Any] = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    manifest = json.loads(blob_at(layout, image["digest"]).read_bytes())
    manifest["layers"].append(large)
    list_images(layout, (name, add_blob(layout, json.dumps(manifest).encode(), image["mediaType"])))
