"""Files altered, cut short or replaced behind the store's back."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import DigestMismatch, LayersMissing, SizeMismatch, StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.store.store import ImageStore
from tests.store.conftest import open_in
from tests.store.helpers import (
    MIB,
    blob_path,
    content,
    partial_path,
    partials,
    put_aside,
    put_descriptor,
    save,
    save_some,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _flip(path: Path) -> None:
    """Alter one byte and nothing else that shows: size and times stay."""
    found = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(found.st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _cut(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size - 1)


def _empty(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, 0)


def _link(path: Path) -> None:
    """Put a link to a file with the very same content in its place."""
    [root] = (above.parent for above in path.parents if above.name == "store")
    elsewhere = root / "elsewhere"
    path.replace(elsewhere)
    path.symlink_to(elsewhere)


def _pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


async def _read(store: ImageStore, digest: ImageDigest, size: int, do: Callable[[bytes], object]) -> None:
    async for piece in store.stream(digest, size):
        do(piece)


def _device(path: Path) -> None:
    """Put a device in its place that gives zeros without end."""
    path.unlink(missing_ok=True)
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


_NO_FILES = [_link, _pipe, _directory, _device]
_DAMAGES = [_flip, _cut, _empty, *_NO_FILES]


@pytest.mark.parametrize("damage", _DAMAGES)
async def test_verify_finds_damage(store: ImageStore, damage: Callable[[Path], None]) -> None:
    """`verify` lists every blob that was altered, cut, emptied or replaced, and no other."""
    digests = []
    for seed in range(6):
        data, digest = content(3 * MIB + seed, seed)
        digests.append(digest)
        await save(store, data, digest)
    (store.path / "blobs" / "sha256" / "oci-put-blob123").write_text("of another tool")
    assert await store.verify() == []
    for digest in digests[2:4]:
        damage(blob_path(store, digest))
        (store.path.parent / "elsewhere").unlink(missing_ok=True)
    assert await store.verify() == sorted(digests[2:4])


@pytest.mark.parametrize("damage", _DAMAGES)
async def test_damaged_blob_is_discarded_and_fetched_again(
    store: ImageStore, damage: Callable[[Path], None]
) -> None:
    """`discard_damaged` puts a blob aside that is damaged, and no other; then it can be stored again."""
    data, digest = content(MIB)
    assert not await store.discard_damaged(digest)
    await save(store, data, digest)
    assert not await store.discard_damaged(digest)
    damage(blob_path(store, digest))
    assert await store.discard_damaged(digest)
    assert [name.partition(".")[0] for name in put_aside(store)] == [digest.hex]
    assert partials(store) == []
    assert await save(store, data, digest)
    assert await store.read(digest) == data


@pytest.mark.parametrize("size", [0, 1, MIB, 3 * MIB + 5])
async def test_stream_gives_the_whole_blob(store: ImageStore, size: int) -> None:
    """A sound blob is given out whole, in pieces of at most 1 MiB."""
    data, digest = content(size)
    await save(store, data, digest)
    pieces = [piece async for piece in store.stream(digest, size)]
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= MIB for piece in pieces)


@pytest.mark.parametrize(
    ("damage", "error"),
    [(_flip, DigestMismatch), (_cut, SizeMismatch), (_empty, SizeMismatch), (_pipe, StoreError)],
)
async def test_stream_of_a_damaged_blob_never_ends_well(
    store: ImageStore, damage: Callable[[Path], None], error: type[StoreError]
) -> None:
    """The last piece of a damaged blob is never given out."""
    data, digest = content(3 * MIB)
    await save(store, data, digest)
    damage(blob_path(store, digest))
    received: list[int] = []
    with pytest.raises(error, match=digest.hex):
        await _read(store, digest, len(data), lambda piece: received.append(len(piece)))
    assert sum(received) <= 2 * MIB


async def test_stream_of_an_empty_blob_is_checked(store: ImageStore) -> None:
    """A blob of declared size 0 whose digest is not that of nothing is refused."""
    data, digest = content(10)
    await save(store, data, digest)
    _empty(blob_path(store, digest))
    with pytest.raises(DigestMismatch):
        assert [piece async for piece in store.stream(digest, 0)] == []


async def test_stream_shortened_while_read(store: ImageStore) -> None:
    """A file cut while it is streamed raises SizeMismatch instead of ending."""
    data, digest = content(3 * MIB)
    await save(store, data, digest)
    with pytest.raises(SizeMismatch):
        await _read(store, digest, len(data), lambda _: os.truncate(blob_path(store, digest), MIB + 1))


async def test_stream_left_early_closes_its_file(store: ImageStore) -> None:
    """Leaving a stream early closes the blob's file."""
    data, digest = content(3 * MIB)
    await save(store, data, digest)
    async with aclosing(store.stream(digest, len(data))) as stream:
        assert await anext(stream) == data[:MIB]
        assert open_in(store.path) != []
    assert open_in(store.path) == []


async def test_missing_blob_is_named(store: ImageStore) -> None:
    """Reading a blob that is not there raises LayersMissing with its digest, in every way of reading."""
    data, digest = content(10)
    with pytest.raises(LayersMissing) as caught:
        await store.read(digest)
    assert caught.value.digests == (digest,)
    with pytest.raises(LayersMissing):
        store.open_blob(digest)
    with pytest.raises(LayersMissing):
        await anext(store.stream(digest, len(data)))


async def test_read_checks_hash_and_limit(store: ImageStore) -> None:
    """`read` returns a blob only if its hash is right and it keeps to the limit."""
    data, digest = content(1000)
    await save(store, data, digest)
    assert await store.read(digest, limit=1000) == data
    with pytest.raises(StoreError, match="more than 999 bytes"):
        await store.read(digest, limit=999)
    _flip(blob_path(store, digest))
    with pytest.raises(DigestMismatch):
        await store.read(digest)


async def test_open_blob_reads_from_the_start(store: ImageStore) -> None:
    """`open_blob` gives an ordinary binary file."""
    data, digest = content(1000)
    await save(store, data, digest)
    with store.open_blob(digest) as file:
        assert file.read() == data


@pytest.mark.parametrize("damage", _NO_FILES)
async def test_no_file_in_a_blobs_place(store: ImageStore, damage: Callable[[Path], None]) -> None:
    """L7: a link, FIFO or directory in a blob's place is never followed, read, or waited for."""
    data, digest = content(1000)
    await save(store, data, digest)
    damage(blob_path(store, digest))
    assert not await store.has(digest)
    told = f"{digest.hex} is not a regular file"
    with pytest.raises(StoreError, match=told):
        await store.read(digest)
    with pytest.raises(StoreError, match=told):
        await anext(store.stream(digest, len(data)))
    with pytest.raises(StoreError, match="is not a regular file"):
        store.open_blob(digest)


async def test_verify_calls_unreadable_sectors_damage(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob that the disk can't give back is damaged, and the others are still examined."""
    digests = [content(100, seed)[1] for seed in range(3)]
    for seed in range(3):
        await save(store, *content(100, seed))
    pread = os.pread

    def fail_once(fd: int, count: int, offset: int) -> bytes:
        if digests[1].hex in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", fail_once)
    assert await store.verify() == [digests[1]]


@pytest.mark.parametrize("way", ["save", "put"])
@pytest.mark.parametrize("damage", _NO_FILES)
async def test_no_file_where_a_blob_is_stored(
    store: ImageStore, damage: Callable[[Path], None], way: str
) -> None:
    """L7: what is in a blob's place and no file is put aside as it is, and the blob stored."""
    data, digest = content(1000)
    await save(store, data, digest)
    damage(blob_path(store, digest))
    await (save(store, data, digest) if way == "save" else store.put(data, digest))
    assert await store.read(digest) == data
    [aside] = put_aside(store)
    assert aside.startswith(digest.hex)
    assert not stat.S_ISREG((store.path / "aioruntime" / "damaged" / aside).lstat().st_mode)


@pytest.mark.parametrize("way", ["save", "put", "discard"])
@pytest.mark.parametrize("damage", _NO_FILES)
async def test_no_file_in_a_partials_place(
    store: ImageStore, damage: Callable[[Path], None], way: str
) -> None:
    """L7: what is in a partial's place and no file is put aside as it is; a link's target is unharmed."""
    data, digest = content(1000)
    await save_some(store, data, digest, 500)
    damage(partial_path(store, digest))
    if way == "discard":
        blob_path(store, digest).write_bytes(b"")
        assert await store.discard_damaged(digest)
    else:
        await (save(store, data, digest) if way == "save" else store.put(data, digest))
        assert await store.read(digest) == data
    assert f"sha256-{digest.hex}" in {name.partition(".")[0] for name in put_aside(store)}
    assert partials(store) == []
    if damage is _link:
        assert (store.path.parent / "elsewhere").read_bytes() == data[:500]


async def test_a_partials_place_is_cleared_by_one(store: ImageStore) -> None:
    """L7: of many writers that find a directory in a partial's place, one puts it aside and writes."""
    data, digest = content(1000)
    await store.put(b"", ImageDigest.of(b""))
    partial_path(store, digest).mkdir()
    others = [ImageStore(store.path) for _ in range(20)]
    written = await asyncio.gather(*(save(other, data, digest) for other in others))
    assert written.count(True) == 1
    assert len(put_aside(store)) == 1
    assert await store.read(digest) == data


@pytest.mark.parametrize("name", ["index.json", "aioruntime/lock"])
@pytest.mark.parametrize("damage", [_pipe, _directory])
async def test_no_file_in_the_place_of_index_or_lock(
    store: ImageStore, name: str, damage: Callable[[Path], None]
) -> None:
    """L7: a FIFO or directory in place of the index or the lock is told at once instead of waited for."""
    descriptor = await put_descriptor(store, b"manifest")
    damage(store.path / name)
    with pytest.raises(StoreError, match=f"{name} is not a regular file"):
        await store.set_reference("x", descriptor)


async def test_a_file_where_the_store_should_be(store: ImageStore) -> None:
    """A file in place of the store's directory is named in the error."""
    store.path.write_text("")
    with pytest.raises(StoreError, match=str(store.path)):
        await store.put(b"", ImageDigest.of(b""))
