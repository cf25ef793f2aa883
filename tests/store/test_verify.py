"""Damage is found, all of it, without standing in anybody's way; and put aside when that is wanted."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import StoreError
from aioruntime.progress import NoopProgress
from aioruntime.store import directories, examine
from aioruntime.store.report import stored_blobs
from aioruntime.store.store import ImageStore
from aioruntime.store.survey import Survey
from aioruntime.store.threads import Threads
from tests.store.helpers import MIB, STALL_LIMIT, blob_path, content, longest_stall, put_aside, save
from tests.support.seeds import seed

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator
    from pathlib import Path

    from aioruntime.oci.digest import ImageDigest


SEED = 24  # unless the environment says otherwise


class Told(NoopProgress):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.updates: list[tuple[int | None, int | None]] = []
        self.finished: list[str] = []

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        self.updates.append((current, total))

    def finish(self, message: str) -> None:
        self.finished.append(message)


def fill(store: ImageStore, sizes: list[int]) -> list[ImageDigest]:
    """Write blobs as another tool would."""
    directory = store.path / "blobs" / "sha256"
    directory.mkdir(parents=True)
    digests = []
    first = seed(SEED) * 10_000
    for number, size in enumerate(sizes):
        data, digest = content(size, first + number)
        (directory / digest.hex).write_bytes(data)
        digests.append(digest)
    return digests


def flip(path: Path, rng: random.Random) -> None:
    """Alter one bit; size and time stay."""
    found = path.stat()
    bit = rng.randrange(8 * found.st_size)
    with path.open("r+b", buffering=0) as file:
        old = os.pread(file.fileno(), 1, bit // 8)
        os.pwrite(file.fileno(), bytes([old[0] ^ 1 << bit % 8]), bit // 8)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


async def test_all_damage_is_found(store: ImageStore) -> None:
    """L6, T24: of 1,000 blobs, 500 have one bit flipped, 100 are cut short, 100 emptied: 700 are found."""
    rng = random.Random(seed(SEED))
    sizes = [rng.randrange(1, 20_000) for _ in range(990)]
    digests = fill(store, [*sizes, *(rng.randrange(MIB - 1, 2 * MIB) for _ in range(10))])
    rng.shuffle(digests)
    paths = [blob_path(store, digest) for digest in digests]
    for path in paths[:500]:
        flip(path, rng)
    for path in paths[500:600]:
        os.truncate(path, rng.randrange(path.stat().st_size))
    for path in paths[600:700]:
        os.truncate(path, 0)

    assert await store.verify() == sorted(digests[:700])
    assert await store.verify(repair=True) == sorted(digests[:700])
    assert await ImageStore(store.path).verify() == []
    assert sorted(name.partition(".")[0] for name in put_aside(store)) == sorted(
        digest.hex for digest in digests[:700]
    )
    assert await store.missing([]) == []
    assert [await store.has(digest) for digest in digests] == [False] * 700 + [True] * 300


async def test_progress(store: ImageStore) -> None:
    """The bytes told grow to the total, damaged blobs included; one sentence tells the outcome."""
    digests = fill(store, [100, 3 * MIB, 0, MIB, MIB + 1])
    os.truncate(blob_path(store, digests[1]), MIB)
    told = Told()
    assert await store.verify(progress=told) == [digests[1]]
    total = 100 + MIB + MIB + MIB + 1
    assert {of for _, of in told.updates} == {total}
    assert told.updates[-1] == (total, total)
    assert [current for current, _ in told.updates] == sorted(current or 0 for current, _ in told.updates)
    assert told.finished == ["5 blobs verified, 1 damaged"]


async def test_progress_of_a_failed_verify(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no blob can be read, the error alone tells it, and the reporter's line is ended."""
    fill(store, [100])

    def refuse(path: object, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(os, "open", refuse)
    told = Told()
    with pytest.raises(StoreError, match="Too many open files"):
        await store.verify(progress=told)
    assert told.finished == [""]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
async def test_one_that_can_not_be_read(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One blob that can't be read does not end it: the others are examined, and the damaged ones put aside.

    What may not be read stays where it is, and is told last; what the disk can't give is put aside.
    """
    digests = fill(store, [100, MIB + 1, 100, MIB + 1])
    for digest in digests[:2]:
        os.truncate(blob_path(store, digest), 10)
    opening = os.open

    def refuse(path: str, flags: int, *more: int) -> int:
        if str(path).endswith(f"/{digests[2].hex}"):
            raise OSError(number, os.strerror(number), path)
        return opening(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    for repair in (False, True):
        if number == errno.EIO:
            assert await store.verify(repair=repair) == sorted(digests[:3])
            continue
        with pytest.raises(StoreError, match=digests[2].hex) as told:
            await store.verify(repair=repair)
        assert ", ".join(sorted(digests[:2])) in told.value.__notes__[0]
    assert await store.has(digests[2]) == (number == errno.EACCES)
    assert [await store.has(digest) for digest in digests[:2]] == [False, False]


async def test_one_that_can_not_be_put_aside(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One damaged blob that can't be put aside is told when the others were."""
    digests = fill(store, [100] * 20)
    for digest in digests:
        os.truncate(blob_path(store, digest), 10)
    renaming = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name == digests[3].hex:
            raise PermissionError(errno.EPERM, "Operation not permitted", source)
        renaming(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StoreError, match=digests[3].hex):
        await store.verify(repair=True)
    assert [digest for digest in digests if await store.has(digest)] == [digests[3]]


async def test_a_damaged_blob_that_is_used_meanwhile(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L6: a damaged blob whose time changed since it was hashed is put aside all the same."""
    [digest, loose] = fill(store, [1000, MIB + 5])
    put_it_aside = examine.put_aside
    touched: list[object] = []

    def touched_first(*arguments: object) -> bool | None:
        if arguments[1] not in touched:
            touched.append(arguments[1])
            blob_path(store, arguments[1]).touch()  # type: ignore[arg-type]
        return put_it_aside(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(examine, "put_aside", touched_first)
    for one in (digest, loose):
        os.truncate(blob_path(store, one), 10)
    assert await store.verify(repair=True) == sorted([digest, loose])
    assert touched
    assert not await store.has(digest)
    assert not await store.has(loose)
    assert len(put_aside(store)) == 2


async def test_a_blob_hashed_while_it_is_written(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that another tool was writing in place when it was hashed stays once it is whole."""
    [digest] = fill(store, [1000])
    data = blob_path(store, digest).read_bytes()
    os.truncate(blob_path(store, digest), 10)
    put_it_aside = examine.put_aside

    def whole_by_then(*arguments: object) -> bool | None:
        blob_path(store, digest).write_bytes(data)
        return put_it_aside(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(examine, "put_aside", whole_by_then)
    assert await store.verify(repair=True) == [digest]
    assert await store.read(digest) == data
    assert put_aside(store) == []


async def test_a_store_that_is_not_there(store: ImageStore) -> None:
    """A store that was never written has no damage, and is not made by looking."""
    assert await store.verify(repair=True) == []
    assert not store.path.exists()


async def test_what_was_replaced_meanwhile_stays(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that was fetched again after it had been found damaged is not put aside."""
    [digest] = fill(store, [1000])
    data = blob_path(store, digest).read_bytes()
    os.truncate(blob_path(store, digest), 10)
    put_it_aside = examine.put_aside

    def replaced_first(*arguments: object) -> bool | None:
        temporary = store.path / "blobs" / "new"
        temporary.write_bytes(data)
        temporary.replace(blob_path(store, digest))
        return put_it_aside(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(examine, "put_aside", replaced_first)
    assert await store.verify(repair=True) == [digest]
    assert await store.read(digest) == data
    assert put_aside(store) == []


async def test_the_writer_of_a_damaged_blob_is_waited_for(store: ImageStore) -> None:
    """A damaged blob that somebody just writes anew is left to him."""
    [digest] = fill(store, [1000])
    data = blob_path(store, digest).read_bytes()
    os.truncate(blob_path(store, digest), 10)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        repairing = asyncio.create_task(ImageStore(store.path).verify(repair=True))
        await asyncio.wait({repairing}, timeout=0.1)
        assert not repairing.done()
        await ingest.write(data)
        await ingest.commit("registry.test")
    await repairing
    assert await store.read(digest) == data
    assert put_aside(store) == []


@pytest.mark.parametrize("large", [True, False])
async def test_it_can_be_cancelled(store: ImageStore, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """On a slow disk too, a cancelled `verify` ends after the piece that is read, and leaves no file open."""
    digests = fill(store, [10] * (4 if large else 2000))
    if large:
        for digest in digests:
            os.truncate(blob_path(store, digest), 400 * MIB)
    pread = os.pread
    pieces: list[int] = []

    reading = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(fd: int, count: int, offset: int) -> bytes:
        loop.call_soon_threadsafe(reading.set)
        pieces.append(count)
        time.sleep(0.01 if large else 0.002)
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", slow)
    told = Told()
    task = asyncio.create_task(store.verify(progress=told))
    await reading.wait()
    before = len(pieces)
    task.cancel()
    await asyncio.wait({task})
    # 20 ms and a piece is what a thread may take; the rest is for a machine that has others to serve.
    whole = 4 * 400 * MIB // pieces[0] if large else 2000
    assert len(pieces) - before < whole // 4
    assert task.cancelled()
    assert told.finished == [""]


async def test_the_loop_goes_on(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing and ordering 300,000 blobs never holds up the event loop for long."""
    rng = random.Random(seed(SEED))
    sizes = [(f"{rng.getrandbits(256):064x}", rng.randrange(MIB + MIB // 10)) for _ in range(300_000)]

    def scan(path: Path) -> Iterator[tuple[str, directories.Status]]:
        return (
            (name, directories.Status(True, size, 0, 0, 0, 0))
            for name, size in sizes
            if path.name == "sha256"
        )

    monkeypatch.setattr(directories, "scan", scan)
    monkeypatch.setattr(examine, "examined", _seen)
    assert await longest_stall(store.verify) < STALL_LIMIT


async def test_the_loop_goes_on_while_blobs_are_told() -> None:
    """Telling 200,000 blobs, the largest first, never holds up the event loop for long."""
    rng = random.Random(SEED)
    sizes = {f"sha256:{rng.getrandbits(256):064x}": rng.randrange(MIB) for _ in range(200_000)}
    survey = Survey([], sizes, {}, {}, {}, set(), {})
    assert await longest_stall(lambda: Threads().run(stored_blobs, survey)) < STALL_LIMIT
    told = [(-blob.size_bytes, blob.digest) for blob in stored_blobs(survey)]
    assert told == sorted((-size, digest) for digest, size in sizes.items())


def _seen(layout: object, names: deque[str], sizes: dict[str, int]) -> Iterator[examine.Examined]:
    while names:
        yield examine.Examined(sizes[names.popleft()])


async def test_a_blob_that_cant_be_moved_is_told(store: ImageStore) -> None:
    """Where damaged blobs can't be put, the error names the place and a remedy."""
    [digest] = fill(store, [1000])
    os.truncate(blob_path(store, digest), 10)
    await save(store, *content(10))
    (store.path / "aioruntime" / "damaged").write_text("")
    with pytest.raises(StoreError, match=r"damaged: Not a directory; .*remove what is in the way"):
        await store.verify(repair=True)
