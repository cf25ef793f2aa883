"""Tasks and processes that want the same blob, index or note."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import filelock
import pytest

from aioruntime.oci.digest import ImageDigest
from aioruntime.store import files, threads
from tests.store.helpers import (
    MIB,
    content,
    partial_path,
    partials,
    put_descriptor,
    save,
    save_some,
    worker,
)

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.store import ImageStore


async def test_two_tasks_write_one_blob_once(store: ImageStore) -> None:
    """Of tasks that want one blob, one writes it and the others find it there."""
    data, digest = content(2 * MIB)
    results = await asyncio.gather(*(save(store, data, digest) for _ in range(20)))
    assert sorted(results) == [False] * 19 + [True]
    assert partials(store) == []


async def test_two_processes_write_one_blob_once(store: ImageStore) -> None:
    """Of processes that want one blob, one writes it and the others find it there."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(store.path, "save", 30 * MIB)) for _ in range(4)]
        for one in workers:
            assert await one.line() == "ready"
        for one in workers:
            await one.tell("go")
        assert sorted([await one.line() for one in workers]) == ["False", "False", "False", "True"]
    assert partials(store) == []
    assert await store.verify() == []


async def test_waits_for_another_process(store: ImageStore) -> None:
    """While another process writes the blob we wait; when it has committed we get None."""
    data, digest = content(3 * MIB)
    async with worker(store.path, "hold", len(data), 100) as holder:
        assert await holder.line() == "held"
        waiting = asyncio.create_task(save(store, data, digest))
        assert await asyncio.wait([waiting], timeout=0.1) == (set(), {waiting})
        await holder.tell("go")
        assert await holder.line() == "committed"
        assert await waiting is False
    assert partials(store) == []


async def test_killed_writer_frees_the_lock(store: ImageStore) -> None:
    """A writer killed by SIGKILL frees the blob at once, and what it wrote is resumed."""
    data, digest = content(3 * MIB)
    async with worker(store.path, "hold", len(data), 2 * MIB) as holder:
        assert await holder.line() == "held"
        holder.process.send_signal(signal.SIGKILL)
        await holder.process.wait()
        async with asyncio.timeout(30), store.ingest(digest, len(data)) as ingest:
            assert ingest is not None
            assert ingest.offset == 2 * MIB
            await ingest.write(data[ingest.offset :])
            await ingest.commit("registry.test")
    assert await store.read(digest) == data


async def test_long_wait_is_told(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits long for a blob finds its digest in the log, and who has it; then after 6 times that."""
    monkeypatch.setattr(threads, "_WORTH_TELLING", 0.05)
    data, digest = content(100)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        begin = time.monotonic()
        waiting = asyncio.create_task(save(store, data, digest))
        async with asyncio.timeout(60):
            while len(caplog.messages) < 2:
                await asyncio.wait([waiting], timeout=0.01)
        waited = time.monotonic() - begin
        waiting.cancel()
        await asyncio.wait([waiting])
    assert waited > 0.3
    assert [digest in message for message in caplog.messages] == [True, True]
    assert all("held by another task of this process" in message for message in caplog.messages)


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
async def test_cancelled_wait_ends_soon_and_leaves_nothing(store: ImageStore, kind: str) -> None:
    """Cancelling a wait takes at most 50 ms, leaves no file open, and does not disturb the writer."""
    data, digest = content(100)

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await save(store, data, digest)

    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        await ingest.write(data)
        took: list[float] = []
        while not took or (took[-1] > 0.05 and len(took) < 10):  # not what a busy machine does now and then
            scope = anyio.CancelScope()
            waiting = asyncio.create_task(wait(scope))
            await asyncio.wait([waiting], timeout=0.1)
            begin = time.perf_counter()
            if kind == "anyio":
                scope.cancel()
            else:
                waiting.cancel()
            await asyncio.wait([waiting])
            took.append(time.perf_counter() - begin)
        assert took[-1] <= 0.05
        assert partials(store) == [partial_path(store, digest).name]
        await ingest.commit("registry.test")
    assert await store.read(digest) == data


class _Gate:
    """Holds a call in its thread until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.entered = asyncio.Event()
        self.opened = threading.Event()
        loop = asyncio.get_running_loop()
        call = getattr(owner, name)

        def held(*arguments: object) -> object:
            loop.call_soon_threadsafe(self.entered.set)
            assert self.opened.wait(60)
            return call(*arguments)

        monkeypatch.setattr(owner, name, held)


async def test_cancel_during_a_write_waits_for_its_thread(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task cancelled, even twice, while its bytes are written ends after the write; they are resumed."""
    data, digest = content(3 * MIB)
    await store.put(b"", ImageDigest.of(b""))
    gate = _Gate(monkeypatch, files.File, "write_at")
    task = asyncio.create_task(save_some(store, data, digest, 2 * MIB))
    await gate.entered.wait()
    for _ in range(2):
        task.cancel()
        assert await asyncio.wait([task], timeout=0.02) == (set(), {task})
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert partial_path(store, digest).read_bytes() == data[: 2 * MIB]
    assert await save(store, data, digest)


async def test_cancel_while_the_lock_is_taken_gives_it_back(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task cancelled while its thread takes the lock does not keep it."""
    data, digest = content(100)
    await store.put(b"", ImageDigest.of(b""))
    with monkeypatch.context() as patch:
        gate = _Gate(patch, files.File, "try_lock")
        task = asyncio.create_task(save(store, data, digest))
        await gate.entered.wait()
        task.cancel()
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert partials(store) == []
    async with asyncio.timeout(30):
        assert await save(store, data, digest)


async def test_cancel_during_commit_leaves_blob_or_partial(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that was begun ends before the cancellation is seen: the blob is there, whole."""
    data, digest = content(100)
    await store.put(b"", ImageDigest.of(b""))
    gate = _Gate(monkeypatch, files.File, "sync")
    task = asyncio.create_task(save(store, data, digest))
    await gate.entered.wait()
    task.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.read(digest) == data
    assert partials(store) == []


@pytest.mark.parametrize("kind", ["asyncio", "anyio"])
async def test_cancel_in_the_context_keeps_buffered_bytes(store: ImageStore, kind: str) -> None:
    """Bytes still in the buffer when the task is cancelled are on disk for the next attempt."""
    data, digest = content(2 * MIB)
    written = asyncio.Event()
    scope = anyio.CancelScope()

    async def write() -> None:
        with scope:
            async with store.ingest(digest, len(data)) as ingest:
                assert ingest is not None
                await ingest.write(data[:1000])
                written.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await written.wait()
    if kind == "anyio":
        scope.cancel()
    else:
        task.cancel()
    await asyncio.wait([task])
    assert partial_path(store, digest).read_bytes() == data[:1000]


async def test_index_updates_of_8_processes_are_all_kept(store: ImageStore) -> None:
    """References set by 8 processes at once are all in the index afterwards."""
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(worker(store.path, "references", number, 10))
            for number in range(8)
        ]
        for one in workers:
            assert await one.line() == "ready"
        for one in workers:
            await one.tell("go")
        for one in workers:
            assert await one.line() == "done"
    names = {f"docker.io/library/x:{number}-{turn}" for number in range(8) for turn in range(10)}
    assert (await store.references()).keys() == names


async def test_references_set_by_tasks_are_all_kept(store: ImageStore) -> None:
    """References set by tasks of one process at once are all in the index afterwards."""
    descriptor = await put_descriptor(store, b"manifest")
    names = {f"docker.io/library/x:{number}" for number in range(50)}
    await asyncio.gather(*(store.set_reference(name, descriptor) for name in names))
    assert (await store.references()).keys() == names


async def test_note_updates_of_processes_are_all_kept(store: ImageStore) -> None:
    """A counter in a note that 4 processes raise at once counts every time."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(store.path, "notes", 25)) for _ in range(4)]
        for one in workers:
            assert await one.line() == "ready"
        for one in workers:
            await one.tell("go")
        for one in workers:
            assert await one.line() == "done"
    assert await store.read_note("count") == b"100"


@pytest.mark.parametrize("replaced", [False, True])
def test_lock_on_a_file_removed_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """A lock on a file that lost its name, or whose name has another file, is given back and tried again."""
    path = tmp_path / "partial"
    lock = filelock.lock_descriptor

    def too_late(fd: int, *, blocking: bool) -> bool:
        path.unlink()
        if replaced:
            path.touch()
        return lock(fd, blocking=blocking)

    with monkeypatch.context() as patch:
        patch.setattr(filelock, "lock_descriptor", too_late)
        assert files.open_locked(path) is None
    held = files.open_locked(path)
    assert held is not None
    with held:
        assert files.open_locked(path) is None


async def test_two_loops_at_once(store: ImageStore) -> None:
    """One store object in the loops of two threads at once is refused; one loop after the other is fine."""
    data, digest = content(100)
    await save(store, data, digest)
    with pytest.raises(RuntimeError, match="each its own ImageStore"):
        await asyncio.to_thread(asyncio.run, store.has(digest))
    assert await store.has(digest)


def test_one_loop_after_the_other(store: ImageStore) -> None:
    """A store object serves the program's next loop as it served the first."""
    data, digest = content(100)
    asyncio.run(save(store, data, digest))
    assert asyncio.run(store.has(digest))
