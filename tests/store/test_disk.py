"""A disk that is full or may not be written."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.errors import StoreError, StoreFull
from aioruntime.oci.image import LayerSpec
from aioruntime.store import collect
from aioruntime.store.store import ImageStore
from tests.store.helpers import (
    MIB,
    blob_path,
    content,
    partial_path,
    partials,
    put_descriptor,
    put_image,
    save,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aioruntime.store.values import PruneReport

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextmanager
def _mounted(path: Path, options: str) -> Iterator[ImageStore]:
    path.mkdir()
    _mount("-t", "tmpfs", "-o", options, "none", path)
    try:
        yield ImageStore(path / "store")
    finally:
        subprocess.run(["umount", path], check=True)


async def _save_many(store: ImageStore) -> None:
    for seed in range(20):
        await save(store, *content(100, seed))


async def test_what_is_partial_is_not_needed_again(store: ImageStore) -> None:
    """The room that missing layers need is without the bytes that an earlier download left."""
    data, digest = content(3 * MIB)
    layer = LayerSpec(digest, len(data), "x")
    assert await store.unwritten([layer]) == len(data)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        await ingest.write(data[: 2 * MIB])

    assert await store.unwritten([layer]) == MIB


@needs_root
async def test_full_disk_is_told_and_resumed(tmp_path: Path) -> None:
    """On a full disk StoreFull tells what is needed and free; with room again the blob is resumed."""
    data, digest = content(6 * MIB)
    with _mounted(tmp_path / "disk", "size=8m") as store:
        await put_descriptor(store, b"manifest")
        ballast = tmp_path / "disk" / "ballast"
        ballast.write_bytes(bytes(4 * MIB))
        with pytest.raises(StoreFull, match=str(store.path)) as caught:
            await write(
                store, digest, len(data), *(data[i : i + 100_000] for i in range(0, 6 * MIB, 100_000))
            )
        assert 0 <= caught.value.have < caught.value.need <= len(data)
        kept = partial_path(store, digest).stat().st_size
        assert kept > 2 * MIB
        ballast.unlink()
        async with store.ingest(digest, len(data)) as ingest:
            assert ingest is not None
            assert ingest.offset == kept
            await ingest.write(data[kept:])
            await ingest.commit("registry.test")
        assert await store.read(digest) == data


@needs_root
async def test_a_piece_that_came_half(tmp_path: Path) -> None:
    """L3, T5: Of a piece that the full disk did not take whole nothing stays, least of all in a blob."""
    data, digest = content(2 * MIB)
    with _mounted(tmp_path / "disk", "size=4m") as store:
        async with store.ingest(digest, None) as ingest:
            assert ingest is not None
            await ingest.write(data)
            with pytest.raises(StoreFull):
                await ingest.write(bytes(4 * MIB))
            await ingest.commit("registry.test")
        assert blob_path(store, digest).read_bytes() == data


@needs_root
async def test_what_was_pinned_since_stays_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L3, L11: If blobs have to go before there is room to remove names, those of a pinned image stay."""
    with _mounted(tmp_path / "disk", "size=4m") as store:
        for seed, name in enumerate("ab"):
            await put_image(store, name, seed, size=100_000)
        plan = collect.collect

        async def late(*arguments: Any) -> PruneReport:
            await store.pin("a")
            with suppress(OSError), (tmp_path / "disk/ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))
            return await plan(*arguments)

        monkeypatch.setattr("aioruntime.store.store.collect", late)
        report = await store.prune(max_bytes=0)

        assert report.images == ("b",)
        assert [(image.name, image.missing) for image in await store.images()] == [("a", ())]


@needs_root
async def test_no_inodes_left_is_told(tmp_path: Path) -> None:
    """A disk that takes no more files is full too, and reading goes on."""
    with _mounted(tmp_path / "disk", "size=8m,nr_inodes=20") as store:
        with pytest.raises(StoreFull):
            await _save_many(store)
        assert partials(store) == []
        assert await store.verify() == []
        assert await store.has(content(100, 0)[1])


@needs_root
async def test_no_inodes_left_to_prune_with(tmp_path: Path) -> None:
    """L3: room is made also on a disk that takes no more files, so no lock's either."""
    with _mounted(tmp_path / "disk", "size=8m,nr_inodes=40") as store:
        await put_image(store, "a", 1)
        with suppress(OSError):
            for number in range(40):
                (tmp_path / "disk" / str(number)).touch()
        report = await store.prune(max_bytes=0)

        assert report.images == ("a",)
        assert await store.blobs() == []


@needs_root
async def test_full_disk_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    """An index that can't be written for lack of space keeps its old content, and no temporary file stays."""
    with _mounted(tmp_path / "disk", "size=4m") as store:
        descriptor = await put_descriptor(store, b"manifest")
        await store.set_reference("first", descriptor)
        free = os.statvfs(store.path)
        (tmp_path / "disk" / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize))
        with pytest.raises(StoreFull):
            await store.set_reference("second", descriptor)
        assert list(await store.references()) == ["first"]
        assert sorted(os.listdir(store.path)) == ["aioruntime", "blobs", "index.json", "ingest", "oci-layout"]


@needs_root
async def test_read_only_store_can_be_read(tmp_path: Path) -> None:
    """A store mounted read-only serves what it has; writing raises StoreError with the path and a remedy."""
    data, digest = content(100)
    with _mounted(tmp_path / "disk", "size=4m") as store:
        await save(store, data, digest)
        descriptor = await put_descriptor(store, b"manifest")
        await store.set_reference("first", descriptor)
        _mount("-o", "remount,ro", tmp_path / "disk")
        assert await store.read(digest) == data
        assert not await save(store, data, digest)
        await store.put(data, digest)
        assert list(await store.references()) == ["first"]
        assert await store.verify() == []
        assert await store.update_note("a", lambda _: b"new") == b"new"
        assert await store.read_note("a") is None
        for attempt in (
            lambda: save(store, *content(101)),
            lambda: store.put(*content(101)),
            lambda: store.set_reference("second", descriptor),
        ):
            with pytest.raises(StoreError, match=f"{store.path}.*AIORUNTIME_STORE"):
                await attempt()


async def test_store_that_can_not_be_made(tmp_path: Path) -> None:
    """A place where no directory can be made raises StoreError that names it."""
    store = ImageStore("/proc/none/store")
    with pytest.raises(StoreError, match="/proc/none"):
        await save(store, *content(10))
    assert await store.references() == {}
