"""A blob becomes visible whole, checked and once, or stays a partial that is resumed."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import DigestMismatch, SizeMismatch, StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from aioruntime.store import partial
from aioruntime.store.store import ImageStore
from tests.store.helpers import MIB, blob_path, content, partial_path, partials, save, save_some, write

if TYPE_CHECKING:
    from collections.abc import Callable


def test_making_a_store_does_no_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor touches no file; the path is that given, else the environment's, else in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ImageStore().path == tmp_path / "cache" / "aioruntime" / "store"
    monkeypatch.setenv("AIORUNTIME_STORE", str(tmp_path / "chosen"))
    assert ImageStore().path == tmp_path / "chosen"
    assert ImageStore(tmp_path / "given").path == tmp_path / "given"
    assert not any((tmp_path / name).exists() for name in ("cache", "chosen", "given"))


async def test_blob_is_visible_only_after_commit(store: ImageStore) -> None:
    """Until commit a blob is not in the store; then it is there, read-only, and its partial is gone."""
    data, digest = content(3 * MIB + 17)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        await ingest.write(data)
        assert not await store.has(digest)
        await ingest.commit("registry.test")
        assert await store.has(digest, len(data))
    assert await store.read(digest) == data
    assert stat.S_IMODE(blob_path(store, digest).stat().st_mode) & 0o222 == 0
    assert partials(store) == []
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB])
@pytest.mark.parametrize("piece", [7919, 65536, 3 * MIB])
async def test_any_size_in_any_pieces(store: ImageStore, size: int, piece: int) -> None:
    """A blob of any size written in pieces of any length arrives unchanged."""
    data, digest = content(size)
    async with store.ingest(digest, size) as ingest:
        assert ingest is not None
        for start in range(0, size, piece):
            await ingest.write(bytearray(data[start : start + piece]))
            assert ingest.offset == min(size, start + piece)
        await ingest.commit("registry.test")
    assert await store.read(digest) == data


async def test_sha512_blob_of_unknown_size(store: ImageStore) -> None:
    """A sha512 digest without a size is stored under its own algorithm."""
    data, _ = content(1000)
    hasher = ImageDigest("sha512:" + "0" * 128).hasher()
    hasher.update(data)
    digest = ImageDigest(f"sha512:{hasher.hexdigest()}")
    async with store.ingest(digest, None) as ingest:
        assert ingest is not None
        await ingest.write(data)
        await ingest.commit("registry.test")
    assert await store.read(digest) == data
    assert blob_path(store, digest).parent.name == "sha512"


async def test_present_blob_is_not_written_again(store: ImageStore) -> None:
    """For a blob that is in the store, the context gives None and no file is touched."""
    data, digest = content(100)
    assert await save(store, data, digest)
    before = blob_path(store, digest).stat()
    assert not await save(store, data, digest)
    assert blob_path(store, digest).stat() == before
    assert partials(store) == []


async def test_partial_is_resumed(store: ImageStore) -> None:
    """Bytes written before an attempt was left, buffered ones included, are kept and hashed again."""
    data, digest = content(3 * MIB)
    await save_some(store, data, digest, 2 * MIB + 5)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        assert ingest.offset == ingest.kept == 2 * MIB + 5
        await ingest.write(data[ingest.offset :])
        await ingest.commit("registry.test")
    assert await store.read(digest) == data


async def test_long_partial_is_hashed_in_steps(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long partial is hashed in several calls, between which the task can be cancelled."""
    monkeypatch.setattr(partial, "_HASHED_AT_ONCE", MIB)
    data, digest = content(4 * MIB)
    await save_some(store, data, digest, 3 * MIB + 5)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        assert ingest.kept == 3 * MIB + 5
        await ingest.write(data[ingest.offset :])
        await ingest.commit("registry.test")
    assert await store.verify() == []


async def test_error_in_the_context_keeps_the_partial(store: ImageStore) -> None:
    """An exception passes through unchanged, and what was written before it stays for the next attempt."""
    data, digest = content(100)

    async def fail() -> None:
        async with store.ingest(digest, len(data)) as ingest:
            assert ingest is not None
            await ingest.write(data[:60])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert partial_path(store, digest).read_bytes() == data[:60]


async def test_empty_partial_is_removed(store: ImageStore) -> None:
    """An attempt that wrote nothing leaves nothing."""
    data, digest = content(100)
    await save_some(store, data, digest, 0)
    assert partials(store) == []


async def test_restart_forgets_what_was_kept(store: ImageStore) -> None:
    """After restart the blob is written from its beginning, kept and buffered bytes forgotten."""
    data, digest = content(2 * MIB)
    await save_some(store, b"x" * len(data), digest, MIB + 10)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        await ingest.write(b"y" * 10)
        await ingest.restart()
        assert ingest.offset == ingest.kept == 0
        await ingest.write(data)
        await ingest.commit("registry.test")
    assert await store.read(digest) == data


async def test_altered_partial_is_caught_at_commit(store: ImageStore) -> None:
    """A partial that was altered between attempts is refused and removed; the next attempt begins at 0."""
    data, digest = content(MIB)
    await save_some(store, data, digest, 5000)
    with partial_path(store, digest).open("r+b") as file:
        file.write(bytes([data[0] ^ 1]))
    with pytest.raises(DigestMismatch, match="5000 bytes of it from an earlier attempt"):
        await save(store, data, digest)
    assert partials(store) == []
    assert not await store.has(digest)
    assert await save(store, data, digest)


async def test_partial_longer_than_the_blob_begins_anew(store: ImageStore) -> None:
    """A partial with more bytes than declared is not resumed."""
    data, digest = content(100)
    await save_some(store, data, digest, 50)
    partial_path(store, digest).write_bytes(b"x" * 101)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        assert ingest.offset == 0


async def test_wrong_bytes_are_refused(store: ImageStore) -> None:
    """Right size, wrong bytes: DigestMismatch names both digests and the source, and nothing is kept."""
    _, digest = content(100)
    other = bytes(100)
    with pytest.raises(DigestMismatch, match=r"registry\.test") as caught:
        await save(store, other, digest)
    assert (caught.value.expected, caught.value.actual) == (digest, ImageDigest.of(other))
    assert partials(store) == []
    assert not await store.has(digest)


async def test_surplus_is_refused_at_once(store: ImageStore) -> None:
    """More bytes than declared are refused before they are written; those that came before are kept."""
    data, digest = content(100)
    with pytest.raises(SizeMismatch) as caught:
        await write(store, digest, len(data), data[:90], b"x" * 11)
    assert (caught.value.expected, caught.value.actual) == (100, 101)
    assert partial_path(store, digest).stat().st_size == 90
    assert await save(store, data, digest)


async def test_short_blob_is_not_committed(store: ImageStore) -> None:
    """Fewer bytes than declared raise SizeMismatch at commit and are kept for the next attempt."""
    data, digest = content(100)
    with pytest.raises(SizeMismatch) as caught:
        await write(store, digest, len(data), data[:99])
    assert (caught.value.expected, caught.value.actual) == (100, 99)
    assert partial_path(store, digest).stat().st_size == 99


async def test_shortened_blob_is_written_again(store: ImageStore) -> None:
    """A blob whose file lost bytes counts as missing and is replaced."""
    data, digest = content(100)
    await save(store, data, digest)
    blob_path(store, digest).chmod(0o600)
    os.truncate(blob_path(store, digest), 99)
    layer = LayerSpec(digest, 100, "application/vnd.oci.image.layer.v1.tar")
    assert await store.missing([layer]) == [layer]
    assert await save(store, data, digest)
    assert await store.read(digest) == data


async def test_missing_lists_each_layer_once_in_order(store: ImageStore) -> None:
    """`missing` keeps the order, drops repeats, and leaves out what is there."""
    layers = []
    for seed in (3, 1, 2):
        data, digest = content(10 + seed, seed)
        layers.append(LayerSpec(digest, len(data), "application/vnd.oci.image.layer.v1.tar"))
        if seed == 1:
            await save(store, data, digest)
    assert await store.missing([*layers, *layers]) == [layers[0], layers[2]]


async def test_writing_after_commit_is_refused(store: ImageStore) -> None:
    """A committed blob can't be changed through its ingest."""
    data, digest = content(100)
    async with store.ingest(digest, None) as ingest:
        assert ingest is not None
        await ingest.write(data)
        await ingest.commit("registry.test")
        with pytest.raises(StoreError):
            await ingest.write(b"x")
    assert await store.read(digest) == data


async def test_put_is_checked_and_idempotent(store: ImageStore) -> None:
    """`put` refuses bytes that are not the digest's, replaces an altered file, and else changes nothing."""
    data, digest = content(500)
    with pytest.raises(DigestMismatch):
        await store.put(data + b"x", digest)
    assert not store.path.exists()
    await store.put(data, digest)
    before = blob_path(store, digest).stat()
    await store.put(data, digest)
    assert blob_path(store, digest).stat() == before
    blob_path(store, digest).chmod(0o600)
    blob_path(store, digest).write_bytes(bytes(500))
    await store.put(data, digest)
    assert await store.read(digest) == data
    assert partials(store) == []


async def test_fsync_failure_drops_the_partial(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L4: after a failed fsync nothing is trusted: one try, no blob, no partial, the error names the path."""
    data, digest = content(100)
    await store.put(b"", ImageDigest.of(b""))
    calls = []

    def fail(fd: int) -> None:
        calls.append(fd)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=digest.hex) as caught:
        await save(store, data, digest)
    assert isinstance(caught.value.__cause__, OSError)
    assert len(calls) == 1
    assert partials(store) == []
    assert not await store.has(digest)


async def test_failed_fsync_of_the_name_drops_the_blob(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4: a blob whose name may not have reached the disk is not there for others; the next try writes it."""
    data, digest = content(100)
    await store.put(b"", ImageDigest.of(b""))
    fsync = os.fsync

    def fail(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("blobs/sha256"):
            raise OSError(5, "Input/output error")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="blobs/sha256: Input/output error"):
            await save(store, data, digest)
    assert not await store.has(digest)
    assert partials(store) == []
    assert await save(store, data, digest)
    assert await store.read(digest) == data


async def test_commit_is_durable_in_order(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content reaches the disk before the name, and the name before commit returns."""
    data, digest = content(100)
    await store.put(b"", ImageDigest.of(b""))
    steps: list[str] = []

    def note(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            target = arguments[0]
            where = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(arguments[1])
            steps.append(f"{name} {Path(where).relative_to(store.path)}")
            call(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", note("fsync", os.fsync))
    monkeypatch.setattr(os, "rename", note("rename", os.rename))
    await save(store, data, digest)
    assert steps == [
        f"fsync ingest/sha256-{digest.hex}",
        f"rename blobs/sha256/{digest.hex}",
        "fsync blobs/sha256",
    ]


async def test_directories_removed_meanwhile_are_made_again(store: ImageStore) -> None:
    """A tool that tidies away our own directories stops neither the next ingest nor the next note."""
    await save(store, *content(10))
    os.rmdir(store.path / "ingest")
    shutil.rmtree(store.path / "aioruntime")
    assert await save(store, *content(11))
    assert await store.update_note("a", lambda _: b"1") == b"1"


def test_a_store_serves_one_loop_after_another(store: ImageStore) -> None:
    """The same store object works in a second event loop once the first has ended."""
    assert asyncio.run(save(store, *content(10)))
    assert asyncio.run(save(store, *content(11)))
