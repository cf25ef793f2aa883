"""What can befall a lock: another file in its place, a fork, no descriptor left, signals."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import files
from aioruntime.store.store import ImageStore
from tests.store.conftest import open_in
from tests.store.helpers import (
    MIB,
    ROOT,
    blob_path,
    content,
    partial_path,
    partials,
    put_descriptor,
    save,
    write,
)
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


def in_child(run: Callable[[], object]) -> int:
    """Run it in a forked child; return how that ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_that_closes_leaves_its_parent_the_lock(tmp_path: Path) -> None:
    """L10: a forked child that closes what it inherited, and ends, does not free what its parent holds."""
    path = tmp_path / "lock"
    held = files.open_locked(path)
    assert held is not None
    with held:
        assert in_child(held.close) == 0
        assert in_child(held.unlink) == 0
        assert files.open_locked(path) is None
        assert in_child(lambda: held.write_at(0, b"x", 1)) == 1
        assert held.in_place()
    assert path.read_bytes() == b""


def test_a_child_can_take_what_its_parent_gave_back(tmp_path: Path) -> None:
    """L10: a lock is as free for a forked child as for anybody."""
    path = tmp_path / "lock"
    held = files.open_locked(path)
    assert held is not None

    def take() -> None:
        file = files.open_locked(path)
        assert file is not None
        file.close()

    with held:
        assert in_child(take) == 1
    assert in_child(take) == 0


def test_a_child_that_python_did_not_fork(tmp_path: Path) -> None:
    """L10: what we give back is free, also if a child that foreign code forked has the descriptor still."""
    path = tmp_path / "lock"
    held = files.open_locked(path)
    assert held is not None
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        signal.alarm(60)
        while True:
            signal.pause()
    try:
        assert files.open_locked(path) is None
        held.close()
        again = files.open_locked(path)
        assert again is not None
        again.close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_file_that_can_not_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L5: if opening fails half-way, nothing stays open."""

    def broken(_: int) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", broken)
        with pytest.raises(StoreError, match="lock: Input/output error"):
            files.open_locked(tmp_path / "lock")
    assert open_in(tmp_path) == []


async def test_no_descriptor_is_inherited(store: ImageStore) -> None:
    """L10: a program that is started while locks are held gets no descriptor of the store."""
    data, digest = content(2 * MIB)
    listing = ("sh", "-c", "ls -l /proc/$$/fd")
    async with store.ingest(digest, len(data)) as ingest, store.turn("turn"):
        assert ingest is not None
        await ingest.write(data)
        with store.open_blob((await put_descriptor(store, b"manifest")).digest), store.open_scratch():
            assert len(open_in(store.path)) == 4
            # With all that are inheritable, which a plain start would close.
            run = partial(subprocess.run, close_fds=False, check=True, stdout=subprocess.PIPE, text=True)
            found = (await asyncio.to_thread(run, listing)).stdout
    assert str(store.path) not in found


async def test_a_partial_replaced_while_it_is_written(store: ImageStore) -> None:
    """L8, L10, T7: if its file is removed, a second may come; the first commits nothing of the second's."""
    data, digest = content(3 * MIB)
    async with store.ingest(digest, len(data)) as first:
        assert first is not None
        await first.write(data)
        partial_path(store, digest).unlink()
        async with store.ingest(digest, len(data)) as second:
            assert second is not None
            await second.write(data[: 2 * MIB])
            with pytest.raises(StoreError, match=r"ingest/.* was removed or replaced while it was written"):
                await first.commit("registry.test")
            assert not await store.has(digest)
            await second.write(data[2 * MIB :])
            await second.commit("registry.test")
    assert await store.read(digest) == data
    assert partials(store) == []


async def test_a_partial_removed_while_it_is_written(store: ImageStore) -> None:
    """L10: if the file is removed, the error says so, and the next try works."""
    data, digest = content(100)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        await ingest.write(data)
        partial_path(store, digest).unlink()
        with pytest.raises(StoreError, match=r"ingest/.* was removed or replaced"):
            await ingest.commit("registry.test")
    assert await save(store, data, digest)


@pytest.mark.parametrize("leave", ["leave", "wrong"])
async def test_a_partial_replaced_is_not_removed(store: ImageStore, leave: str) -> None:
    """L10: who leaves without a blob does not remove the file of another who took its place."""
    data, digest = content(100)
    async with store.ingest(digest, len(data)) as first:
        assert first is not None
        partial_path(store, digest).unlink()
        async with store.ingest(digest, len(data)) as second:
            assert second is not None
            if leave == "wrong":
                await first.write(bytes(100))
                with pytest.raises(StoreError):
                    await first.commit("registry.test")
            else:
                await asyncio.to_thread(first.release)
            await second.write(data)
            await second.commit("registry.test")
    assert await store.read(digest) == data


async def test_the_lock_of_a_turn_replaced(store: ImageStore) -> None:
    """L10, T7: who gives a turn back does not remove the lock of another who took its place."""
    lock = store.path / "aioruntime" / "x.lock"
    async with store.turn("x"):
        lock.unlink()
        async with asyncio.timeout(30):
            second = store.turn("x")
            await second.__aenter__()
    assert files.open_locked(lock) is None
    await second.__aexit__(None, None, None)
    assert not lock.exists()


async def test_the_lock_of_notes_replaced(store: ImageStore) -> None:
    """L10, T7: if its file is removed, what a second wrote meanwhile is not lost: the first begins again."""
    entered, go_on = threading.Event(), threading.Event()

    def slowly(old: bytes | None) -> bytes:
        entered.set()
        assert go_on.wait(10)
        return (old or b"") + b"1"

    await store.update_note("n", lambda _: b"")
    first = asyncio.create_task(store.update_note("n", slowly))
    assert await asyncio.to_thread(entered.wait, 10)
    (store.path / "aioruntime" / "lock").unlink()
    await ImageStore(store.path).update_note("n", lambda old: (old or b"") + b"2")
    go_on.set()
    assert await first == b"21"
    assert await store.read_note("n") == b"21"


async def test_what_replaces_a_file_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L8, L10: of two who write one file at once, against the rules, none makes the other's half visible."""
    path = tmp_path / "file"
    files.replace(path, b"old")
    sync = files.File.sync

    def interrupted(file: files.File, need: int = 0) -> None:
        monkeypatch.setattr(files.File, "sync", sync)
        file.path.unlink()
        file.path.write_bytes(b"half of")
        sync(file, need)

    monkeypatch.setattr(files.File, "sync", interrupted)
    with pytest.raises(StoreError, match="was removed or replaced"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    files.replace(path, b"newer")
    assert not (tmp_path / ".file.new").exists()
    assert path.read_bytes() == b"newer"


async def test_a_temporary_file_of_the_dead(store: ImageStore) -> None:
    """L12: what a dead process left half written goes at the next write; its turn is free, and goes."""
    await store.update_note("n", lambda _: b"1")
    left = [store.path / "aioruntime" / name for name in (".n.json.new", "x.lock")]
    for path in left:
        path.write_bytes(b"half")
    await store.update_note("n", lambda _: b"2")
    async with store.turn("x") as waited:
        assert not waited
    assert not any(path.exists() for path in left)


SEED = 6
DATA, DIGEST = content(MIB + 1)


def _damage(store: ImageStore) -> None:
    blob_path(store, DIGEST).unlink(missing_ok=True)
    blob_path(store, DIGEST).write_bytes(b"damaged")


async def _discard(store: ImageStore) -> None:
    await store.discard_damaged(DIGEST)
    assert not await store.has(DIGEST)


async def _turn(store: ImageStore) -> None:
    async with store.turn("x"):
        pass


async def _named(store: ImageStore) -> None:
    await store.set_reference("x", await put_descriptor(store, b"manifest"))


async def _noted(store: ImageStore) -> None:
    await store.update_note("n", lambda old: (old or b"") + b"1")


async def _verified(store: ImageStore) -> None:
    assert await store.verify() == []


USES = {
    "ingest": lambda store: save(store, DATA, DIGEST),
    "put": lambda store: store.put(b"x", ImageDigest.of(b"x")),
    "reference": _named,
    "note": _noted,
    "turn": _turn,
    "discard": _discard,
    "verify": _verified,
}


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Let this process open that many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))
    used = set(map(int, os.listdir("/proc/self/fd"))) - {lowest}  # which the listing had
    free = [number for number in range(max(used) + spare + 2) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("use", USES)
async def test_no_descriptor_left(store: ImageStore, use: str) -> None:
    """L5, T4: with too few descriptors it is told, nothing stays open or locked, and the next try works."""
    work: Callable[[ImageStore], Awaitable[object]] = USES[use]
    await store.put(b"", ImageDigest.of(b""))
    failed: list[StoreError] = []
    for spare in count():
        blob_path(store, DIGEST).unlink(missing_ok=True)
        if use == "discard":
            _damage(store)
        try:
            with few_descriptors(spare):
                await work(store)
            break
        except StoreError as exc:
            failed.append(exc)
        assert open_in(store.path) == []
        async with asyncio.timeout(30):
            await work(store)
    assert failed
    assert all("raise the limit of open files (ulimit -n)" in str(exc) for exc in failed)
    assert await store.verify() == []


def lock_of(store: ImageStore, use: str) -> Path:
    ours = store.path / "aioruntime"
    places = {"turn": ours / "x.lock", "reference": ours / "lock", "note": ours / "lock"}
    return places.get(use, partial_path(store, DIGEST))


@pytest.mark.parametrize("again_after", [None, 1])
@pytest.mark.parametrize("use", ["ingest", "reference", "note", "turn", "discard"])
async def test_a_wait_cancelled_at_any_await(store: ImageStore, use: str, again_after: int | None) -> None:
    """L16: a wait that is cancelled wherever it stands, even twice, leaves nothing open or locked."""
    work: Callable[[ImageStore], Awaitable[object]] = USES[use]
    await put_descriptor(store, b"manifest")

    async def wait() -> None:
        blob_path(store, DIGEST).unlink(missing_ok=True)
        if use == "discard":
            _damage(store)
        held = files.open_locked(lock_of(store, use))
        assert held is not None
        freeing = asyncio.get_running_loop().call_later(0.02, held.close)
        try:
            await work(store)
        finally:
            freeing.cancel()
            held.close()

    async for step in each_step(wait, sample=8, seed=SEED):
        await run_cancelled_at(wait, step, again_after=again_after, may_finish=True)
        assert open_in(store.path) == []
    async with asyncio.timeout(30):
        await wait()
    assert await store.verify() == []


async def test_few_bytes_at_a_time(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L5, T4: reads and writes that do less than was asked are gone on with."""
    data, digest = content(MIB + 1)
    reads, writes = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, count, offset: reads(fd, min(count, 65_537), offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, rest, offset: writes(fd, rest[:4099], offset))
    await write(store, digest, len(data), data[:1000], data[1000:])
    assert await store.read(digest) == data
    await _named(store)
    assert list(await store.references()) == ["x"]


@pytest.mark.slow
async def test_interrupted_calls(store: ImageStore, tmp_path: Path) -> None:
    """L5, T4: calls that a signal interrupts are made again."""
    calls = ("openat", "pread64", "pwrite64", "fsync", "flock", "ftruncate")
    inject = [f"--inject={call}:error=EINTR:when=1+2" for call in calls]
    code = """
import asyncio, sys
from tests.store.test_locks import all_uses
asyncio.run(all_uses(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(all_uses(sys.argv[1]))
"""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(store.path), str(tmp_path / "first")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert worker.stdout
    assert worker.stdin
    await worker.stdout.readline()
    log = tmp_path / "log"
    trace = f"--trace={','.join(calls)}"
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-p", str(worker.pid), "-o", str(log), trace, *inject), stderr=subprocess.PIPE
    )
    assert tracer.stderr
    await tracer.stderr.readline()  # "attached"
    _, errors = await worker.communicate(b"\n")
    await tracer.communicate()
    assert worker.returncode == 0, errors.decode()
    assert await store.verify() == []
    told = log.read_text()
    for call in calls:
        assert any(call in line and "EINTR" in line for line in told.splitlines()), call


async def all_uses(path: str) -> None:
    store = ImageStore(path)
    await store.put(b"", ImageDigest.of(b""))
    for name, work in USES.items():
        if name == "discard":
            _damage(store)
        await work(store)
    await save(store, *content(3 * MIB))
