"""Images and blobs that go, and those that stay."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import InvalidSpec, NotStored, StoreBusy, StoreError
from aioruntime.store import collect
from aioruntime.store.store import ImageStore
from aioruntime.store.values import PruneReport
from tests.store.helpers import (
    blob_path,
    content,
    layer,
    partial_path,
    put_image,
    save,
    save_some,
    set_age,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.documents import Descriptor

LONG_AGO = 40.0
MONTH = timedelta(days=30)


def used_path(store: ImageStore, image: Descriptor) -> Path:
    return store.path / "aioruntime" / "used" / image.digest.replace(":", "-")


def last_used(store: ImageStore, image: Descriptor, days: float) -> None:
    """Let an image be last used *days* ago."""
    for path in (used_path(store, image), blob_path(store, image.digest)):
        if path.exists():
            set_age(path, days)


async def there(store: ImageStore, digests: Collection[ImageDigest]) -> set[ImageDigest]:
    return {digest for digest in digests if await store.has(digest)}


async def named(store: ImageStore) -> list[str]:
    return sorted(await store.references())


async def two_images(store: ImageStore) -> tuple[Descriptor, Descriptor]:
    """Two images of three layers, of which they share two."""
    return await put_image(store, "a", 1, 2, 3), await put_image(store, "b", 2, 3, 4)


async def test_usage(store: ImageStore) -> None:
    """Images have bytes of their own and shared ones; what no image has is counted apart, each blob once."""
    one, _ = await two_images(store)
    await store.set_reference("a again", one)
    await save(store, *content(500, 9))
    await save_some(store, *content(700, 10), 300)

    images = {image.name: image for image in await store.images()}
    usage = await store.usage()
    blobs = {blob.digest: blob for blob in await store.blobs()}

    documents = sum(blobs[digest].size_bytes for digest in images["a"].blobs if digest not in LAYERS)
    assert (images["a"].own_bytes, images["a"].shared_bytes) == (1000 + documents, 2000)
    assert images["a again"].own_bytes == images["a"].own_bytes  # one image by two names
    assert images["a"].blobs[0] == images["a"].digest == one.digest
    assert set(images["a"].blobs) > {layer(1), layer(2), layer(3)}
    assert (usage.unnamed, usage.partial, usage.damaged) == (500, 300, 0)
    assert usage.blobs == sum(blob.size_bytes for blob in blobs.values())
    assert usage.total == usage.blobs + 300
    assert usage.images == tuple(images[name] for name in ("a", "a again", "b"))
    assert blobs[layer(2)].images == ("a", "a again", "b")
    assert blobs[content(500, 9)[1]].images == ()
    assert usage.free > 0


LAYERS = {layer(seed) for seed in range(1, 5)}


async def test_an_empty_store(store: ImageStore) -> None:
    """Of a store that is not there nothing is told, and nothing is made or removed."""
    assert (await store.images(), await store.blobs(), (await store.usage()).total) == ([], [], 0)
    assert await store.prune(max_bytes=0, dry_run=True) == PruneReport((), (), 0, 0)
    assert await store.prune(max_bytes=0) == PruneReport((), (), 0, 0)
    assert not store.path.exists()


async def test_an_image_that_is_not_whole(store: ImageStore) -> None:
    """An image tells which of its blobs are missing, or cut short."""
    await put_image(store, "a", 1, 2, 3)
    blob_path(store, layer(1)).unlink()
    os.chmod(blob_path(store, layer(2)), 0o600)
    os.truncate(blob_path(store, layer(2)), 10)

    (image,) = await store.images()

    assert set(image.missing) == {layer(1), layer(2)}


async def test_removed_is_what_no_other_has(store: ImageStore) -> None:
    """`remove` frees what only that image has, tells how much, and the other image stays whole."""
    one, other = await two_images(store)
    own = next(image.own_bytes for image in await store.images() if image.name == "a")

    assert await store.remove("a") == own

    assert await named(store) == ["b"]
    assert await there(store, [one.digest, *LAYERS]) == LAYERS - {layer(1)}
    assert (await store.images())[0].missing == ()
    assert await store.remove(other.digest) > 3000
    assert await store.blobs() == []


async def test_one_name_of_two(store: ImageStore) -> None:
    """With one of two names of an image nothing is freed; a name is found as it was pulled, too."""
    image = await put_image(store, "docker.io/library/tool:1", 1)
    await store.set_reference("other", image)

    assert await store.remove("tool:1") == 0

    assert await named(store) == ["other"]
    for gone in ("tool:1", "docker.io/library/tool:1", layer(1), "sha256:" + "0" * 64):
        with pytest.raises(NotStored, match=str(store.path)):
            await store.remove(gone)


async def test_what_no_image_has_goes_in_time(store: ImageStore) -> None:
    """Blobs and downloads of no image stay for an hour after their last use, then `prune` removes them."""
    await put_image(store, "a", 1)
    old, young = content(500, 8), content(500, 9)
    await save(store, *old)
    await save(store, *young)
    await save_some(store, *content(700, 10), 300)
    await save_some(store, *content(700, 11), 400)
    assert (await store.prune()).freed_bytes == 0
    set_age(blob_path(store, old[1]), 0.05)
    set_age(partial_path(store, content(700, 10)[1]), 0.05)

    report = await store.prune()

    assert report == PruneReport((), (old[1],), 800, (await store.usage()).total)
    assert await there(store, [old[1], young[1]]) == {young[1]}
    assert not partial_path(store, content(700, 10)[1]).exists()
    assert partial_path(store, content(700, 11)[1]).exists()
    assert await named(store) == ["a"]


async def test_layers_in_use_count_as_used_then(store: ImageStore) -> None:
    """Layers that were ensured for an image to come are kept for an hour, however old they are."""
    data, digest = content(500, 8)
    await save(store, data, digest)
    set_age(blob_path(store, digest), LONG_AGO)
    async with store.lease([digest]):
        pass

    assert (await store.prune()).blobs == ()
    set_age(blob_path(store, digest), LONG_AGO)
    assert (await store.prune()).blobs == (digest,)


async def test_least_recently_used_go_first(store: ImageStore) -> None:
    """`max_bytes` removes images in the order of their last use, no more than it takes; using one counts."""
    images = [await put_image(store, name, seed) for seed, name in enumerate("abcd", 1)]
    for days, image in zip((4, 3, 2, 1), images, strict=True):
        last_used(store, image, days)
    async with store.lease([], image=images[1].digest):
        pass
    total = (await store.usage()).total

    assert (await store.prune(max_bytes=total)).images == ()
    report = await store.prune(max_bytes=total - 1500)

    assert report.images == ("a", "c")
    assert report.kept_bytes == (await store.usage()).total <= total - 1500
    assert await named(store) == ["b", "d"]
    assert await there(store, [layer(seed) for seed in (1, 2, 3, 4)]) == {layer(2), layer(4)}


async def test_older_than(store: ImageStore) -> None:
    """`older_than` removes the images that were not used for that long, and no others."""
    one, _ = await two_images(store)
    last_used(store, one, LONG_AGO)

    assert (await store.prune(older_than=timedelta(days=50))).images == ()
    report = await store.prune(older_than=MONTH)

    assert report.images == ("a",)
    assert await there(store, LAYERS) == LAYERS - {layer(1)}


async def test_pinned_stays(store: ImageStore) -> None:
    """A pinned image is not pruned, nor removed until it is unpinned; the pin stays with its name."""
    one, other = await two_images(store)
    await store.pin("a")
    await store.pin("a")
    await store.set_reference("a", other)
    last_used(store, other, LONG_AGO)

    assert (await store.prune(older_than=MONTH, dry_run=True)).images == ("b",)
    assert (await store.prune(older_than=MONTH, max_bytes=0)).images == ("b",)
    with pytest.raises(InvalidSpec, match="a is pinned"):
        await store.remove("a")

    assert [image.pinned for image in await store.images()] == [True]
    assert await there(store, LAYERS) == LAYERS - {layer(1)}
    assert not await store.has(one.digest)
    await store.unpin(other.digest)
    assert (await store.prune(max_bytes=0)).images == ("a",)
    assert await store.blobs() == []
    for work in (store.pin, store.unpin):
        with pytest.raises(NotStored):
            await work("a")


async def test_what_is_in_use_stays(store: ImageStore) -> None:
    """L11: nothing that somebody works with goes: not the image, not layers of no image, not a download."""
    image = await put_image(store, "a", 1)
    loose, begun = content(500, 8), content(700, 10)
    await save(store, *loose)
    used = [*(await store.images())[0].blobs, loose[1]]
    async with store.lease([*used, begun[1]], image=image.digest):
        await save_some(store, *begun, 300)
        for path in (blob_path(store, loose[1]), partial_path(store, begun[1])):
            set_age(path, LONG_AGO)
        last_used(store, image, LONG_AGO)
        assert [found.in_use for found in await store.images()] == [True]

        report = await store.prune(older_than=MONTH, max_bytes=0)
        freed = await store.remove("a")

        assert report.images == ()
        assert freed == 0
        assert await there(store, used) == {*used}
        assert partial_path(store, begun[1]).exists()
    assert not list((store.path / "aioruntime" / "leases").iterdir())
    await store.prune(max_bytes=0)
    assert await store.blobs() == []


async def test_used_between_plan_and_removal(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L11: what is leased, or named, after it was chosen to go stays."""
    one, other = await two_images(store)
    async with AsyncExitStack() as stack:
        loose = content(500, 8)
        await save(store, *loose)
        plan = collect.collect

        async def late(*arguments: object) -> PruneReport:
            await stack.enter_async_context(store.lease([loose[1], one.digest, *one_layers]))
            await store.set_reference("c", other)
            return await plan(*arguments)  # type: ignore[arg-type]

        one_layers = [layer(seed) for seed in (1, 2, 3)]
        monkeypatch.setattr("aioruntime.store.store.collect", late)
        report = await store.prune(max_bytes=0)

    assert report.images == ("b",)  # its digest goes on as c
    assert await named(store) == ["a", "c"]
    assert [image.missing for image in await store.images() if image.name == "c"] == [()]
    assert await store.has(loose[1])
    assert await there(store, LAYERS) == LAYERS


async def test_clocks_that_were_wrong(store: ImageStore) -> None:
    """L14: a use that lies ahead counts as now, one of 1970 as long ago; neither brings the order down."""
    images = [await put_image(store, name, seed) for seed, name in enumerate("abc", 1)]
    for path in (blob_path(store, image.digest) for image in images):
        path.touch()
    os.utime(blob_path(store, images[0].digest), (4102444800, 4102444800))  # 2100
    os.utime(blob_path(store, images[1].digest), (0, 0))
    last_used(store, images[2], 1)

    assert (await store.prune(older_than=MONTH)).images == ("b",)
    assert (await store.prune(max_bytes=1500)).images == ("c",)
    (kept,) = await store.images()
    assert kept.last_used > datetime.now(UTC)


async def test_dry_run(store: ImageStore) -> None:
    """A dry run tells what would go, as the real one does then, and removes nothing."""
    one, _ = await two_images(store)
    last_used(store, one, 1)
    before = await store.usage()

    told = await store.prune(max_bytes=0, dry_run=True)

    assert (await store.usage()).images == before.images
    assert told == await store.prune(max_bytes=0)
    assert told.images == ("a", "b")


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": -1},
        {"max_bytes": "20GB"},
        {"older_than": timedelta(days=-1)},
        {"older_than": 5},
        {"wait": -1.0},
    ],
)
async def test_nonsense(store: ImageStore, wrong: dict[str, float]) -> None:
    """Limits below zero, or of another kind, are refused with their name."""
    with pytest.raises(InvalidSpec, match=next(iter(wrong))):
        await store.prune(**wrong)  # type: ignore[arg-type]


async def test_one_prunes_at_a_time(store: ImageStore) -> None:
    """A second prune waits for the first, or gives up after the seconds that it was given."""
    await put_image(store, "a", 1)
    async with store.turn("prune"):
        with pytest.raises(StoreBusy):
            await store.prune(wait=0)
        waiting = asyncio.create_task(ImageStore(store.path).prune(max_bytes=0))
        assert await asyncio.wait([waiting], timeout=0.2) == (set(), {waiting})
    assert (await waiting).images == ("a",)


async def test_leftovers_of_the_dead_go(store: ImageStore) -> None:
    """L12: what nobody holds goes: leases, locks, what was put aside or half written; not what is held."""
    await put_image(store, "a", 1)
    ours = store.path / "aioruntime"
    (ours / "damaged").mkdir()
    (ours / "damaged" / "x").write_bytes(b"1234")
    half = (store.path / ".index.json.new", ours / ".images.json.new")
    for dead in (ours / "leases" / "0123", ours / "load-x.lock", ours / "used" / "sha256-00", *half):
        dead.parent.mkdir(exist_ok=True)
        dead.write_text(f"{layer(1)}\n")
    set_age(ours / "used" / "sha256-00", 0.1)
    begun = store.path / ".aioruntime-try"
    begun.mkdir()
    (begun / "lock").touch()
    set_age(begun, 0.1)
    async with store.turn("load-y"), store.lease([layer(1)]):
        report = await store.prune()
        assert (ours / "load-y.lock").exists()
        assert len(list((ours / "leases").iterdir())) == 1

    assert report.freed_bytes == 4
    assert not begun.exists()
    left = {str(path.relative_to(ours)) for path in ours.rglob("*") if path.is_file()}
    assert left == {"lock", "images.json"}
    assert not half[0].exists()


@pytest.mark.parametrize("text", ["", "{", '{"schemaVersion":2,"manif'])
@pytest.mark.parametrize("name", ["index.json", "aioruntime/images.json"])
async def test_names_that_are_not_known(store: ImageStore, name: str, text: str) -> None:
    """L9: while a list of names is damaged nothing is removed, since it is not known what is needed."""
    await two_images(store)
    for path in (store.path / "blobs" / "sha256").iterdir():
        set_age(path, LONG_AGO)
    (store.path / name).write_text(text)

    for work in (store.prune(), store.prune(max_bytes=0, older_than=MONTH), store.remove("a")):
        with pytest.raises(StoreError, match=f"{name} is damaged"):
            await work

    assert (store.path / name).read_text() == text
    assert await there(store, LAYERS) == LAYERS


@pytest.mark.parametrize(
    "odd",
    [
        {"platform": {"architecture": "amd64"}},
        {"mediaType": None},
        {"size": "570"},
        {"annotations": {"x": 1}},
        {"annotations": {"org.opencontainers.image.ref.name": "twice"}},
    ],
)
async def test_entries_that_are_not_understood(store: ImageStore, odd: dict[str, object]) -> None:
    """What any entry of index.json names stays, whatever else it says, also beside another of its name."""
    image = await put_image(store, "a", 1, 2)
    blobs = (await store.images())[0].blobs
    (store.path / "aioruntime" / "images.json").unlink()
    entry = {"mediaType": image.media_type, "digest": image.digest, "size": image.size, **odd}
    index = json.loads((store.path / "index.json").read_bytes())
    other = await put_image(store, "twice", 3)
    named = {"mediaType": other.media_type, "digest": other.digest, "size": other.size}
    named["annotations"] = {"org.opencontainers.image.ref.name": "twice"}
    index["manifests"] = [named, entry]
    (store.path / "index.json").write_text(json.dumps(index))
    (store.path / "aioruntime" / "images.json").unlink()
    for path in (store.path / "blobs" / "sha256").iterdir():
        set_age(path, LONG_AGO)

    assert (await store.prune()).blobs == ()
    await store.prune(max_bytes=0)

    assert await there(store, blobs) == {*blobs}


async def test_used_between_plan_and_removal_to_its_end(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: what was used after it was chosen to go stays, though that use is over."""
    image = await put_image(store, "a", 1)
    last_used(store, image, LONG_AGO)
    loose = content(500, 8)
    await save(store, *loose)
    set_age(blob_path(store, loose[1]), LONG_AGO)
    collecting = collect.collect

    async def late(*arguments: object) -> PruneReport:
        async with store.lease([image.digest], image=image.digest):
            pass
        async with store.lease([loose[1]]):
            pass
        return await collecting(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("aioruntime.store.store.collect", late)

    assert await store.prune(older_than=MONTH) == PruneReport((), (), 0, (await store.usage()).total)
    assert await named(store) == ["a"]
    assert await store.has(loose[1])


async def test_no_store(tmp_path: Path) -> None:
    """A directory of other things is refused."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "thesis.tex").touch()

    with pytest.raises(StoreError, match="is no image store"):
        await ImageStore(tmp_path / "place").prune()


async def test_no_store_yet(tmp_path: Path) -> None:
    """What lies in a layout that another tool is making, without oci-layout, is not pruned."""
    place = tmp_path / "place"
    (place / "blobs" / "sha256").mkdir(parents=True)
    (place / "oci-put-blob123").touch()
    data, digest = content(100)
    blob = blob_path(ImageStore(place), digest)
    blob.write_bytes(data)
    set_age(blob, LONG_AGO)

    assert (await ImageStore(place).prune()).blobs == ()
    assert blob.exists()
    assert sorted(os.listdir(place)) == ["blobs", "oci-put-blob123"]


async def test_one_that_can_not_be_removed(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file that can't be removed, blob or put aside, does not end it: all else goes, and it is told."""
    await put_image(store, "a", 1, 2, 3)
    stays = {layer(2).hex, "x"}
    (store.path / "aioruntime" / "damaged").mkdir()
    for name in "xy":
        (store.path / "aioruntime" / "damaged" / name).write_bytes(b"1234")
    unlink = os.unlink

    def refuse(path: Path) -> None:
        if path.name in stays:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    before = (await store.usage()).total

    report = await store.prune(max_bytes=0)

    assert report.images == ("a",)
    assert [blob.digest for blob in await store.blobs()] == [layer(2)]
    assert layer(2) not in report.blobs
    assert (report.freed_bytes, report.kept_bytes) == (before - 1004, 1004)
    assert len(report.failed) == 2
    assert layer(2).hex in str(report.failed[0])
    await put_image(store, "a", 1, 2, 3)
    with pytest.raises(StoreError, match=layer(2).hex):
        await store.remove("a")
    assert [blob.digest for blob in await store.blobs()] == [layer(2)]
    stays.clear()
    assert await store.prune(max_bytes=0) == PruneReport((), (layer(2),), 1004, 0)
