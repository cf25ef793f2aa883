"""Owners: their records, that their lock tells whether they live, and stores that can't be written."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import aioruntime as ar
from aioruntime.runtime.owner import CONTAINER_LABEL, OWNER_LABEL, Owner, open_owner
from aioruntime.store.layout import Layout
from aioruntime.store.owners import Owned, owners
from aioruntime.tasks import in_thread
from tests.cli.child import ROOT
from tests.store.helpers import put_image, set_age
from tests.support.disks import mounted, needs_root, remount, tmpfs
from tests.support.leaks import assert_settles, snapshot
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ENGINE = "docker-here"
HOUR = 3600

FORKING = """
import asyncio, os, subprocess, sys
from aioruntime.runtime.owner import open_owner
from aioruntime.store.store import ImageStore

async def main():
    async with open_owner(ImageStore(sys.argv[1]), "docker-here") as owner:
        await owner.claim("x")
        out = {"stdin": 0, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        program = subprocess.Popen(["sleep", "600"], close_fds=False, **out)
        child = os.fork()
        if child == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1), os.dup2(null, 2)
            sys.stdin.readline()
            os._exit(0)
        print(child, program.pid, flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


def seen(store: ar.ImageStore) -> list[str]:
    return owners(Layout(store.path))


def alive(store: ar.ImageStore, owner: str) -> bool:
    """Whether a reaper takes the owner for alive."""
    owned = Owned(Layout(store.path), owner)
    try:
        return not owned.take()
    finally:
        owned.close()


def recorded(store: ar.ImageStore) -> list[str]:
    """The names of all recorded containers, with their IDs, of the dead."""
    found = []
    for owner in seen(store):
        owned = Owned(Layout(store.path), owner)
        assert owned.take()
        records, faults = owned.look()
        found += [f"{record.name}={record.id}" for record in records]
        assert faults == []
        owned.close()
    return sorted(found)


async def test_the_life_of_an_owner(store: ar.ImageStore) -> None:
    """THREATS I8: an owner is seen from its first claim on, lives while open, and goes if all is released."""
    async with open_owner(store, ENGINE) as owner:
        assert not store.path.exists()
        first, second = await owner.claim("first"), await owner.claim("second")
        assert first.labels == {OWNER_LABEL: owner.nonce, CONTAINER_LABEL: first.nonce}
        assert len({owner.nonce, first.nonce, second.nonce}) == 3
        assert seen(store) == [owner.nonce]
        assert alive(store, owner.nonce)
        await owner.identify(first, "1d")
        await owner.release(first)
        await owner.release(first)
        await owner.release(second)
        assert alive(store, owner.nonce)
    assert seen(store) == []


async def test_what_is_still_recorded_stays(store: ar.ImageStore) -> None:
    """What was not released when its owner closed is left for a reap, with the ID if that was known."""
    async with open_owner(store, ENGINE) as owner:
        first = await owner.claim("first")
        await owner.claim("second")
        await owner.identify(first, "1d")
        await owner.release(await owner.claim("third"))

    assert not alive(store, owner.nonce)
    assert recorded(store) == ["first=1d", "second="]


async def test_a_record_that_was_being_written(store: ar.ImageStore) -> None:
    """An ID that was not written to its end is none: the container is still known by its name."""
    async with open_owner(store, ENGINE) as owner:
        claim = await owner.claim("x")
        path = Layout(store.path).owners / owner.nonce / f"{claim.nonce}.json"
        begun = path.stat().st_size
        await owner.identify(claim, "1d")
        whole = path.read_bytes()

    for size in range(begun, len(whole)):
        path.write_bytes(whole[:size])
        assert recorded(store) == ["x="]
    path.write_bytes(whole)
    assert recorded(store) == ["x=1d"]


async def test_many_at_once(store: ar.ImageStore) -> None:
    """Any number of claims at once, also the first, in several owners: each is recorded."""
    async with open_owner(store, ENGINE) as one, open_owner(store, ENGINE) as other:

        async def claim(owner: Owner, name: str) -> None:
            await owner.identify(await owner.claim(name), name)

        await asyncio.gather(*(claim(owner, f"n{number}") for owner in (one, other) for number in range(50)))

    assert recorded(store) == sorted(f"n{number}=n{number}" for number in range(50) for _ in range(2))


async def test_forked_children(store: ar.ImageStore) -> None:
    """THREATS I8, L10: the lock goes with its process, though children that it started or forked live on.

    And it stays as long as that process lives, though a child that it forked has ended.
    """
    for ends in (False, True):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FORKING, str(store.path)),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        child, program = map(int, (await process.stdout.readline()).split())
        (owner,) = seen(store)
        if ends:
            os.kill(child, signal.SIGKILL)
        assert alive(store, owner)
        process.kill()
        await process.wait()
        assert not alive(store, owner)
        assert recorded(store) == ["x="]
        for pid in {child, program} - ({child} if ends else set()):
            os.kill(pid, signal.SIGKILL)
        await process.communicate()
        await in_thread(Layout(store.path).owners.joinpath(owner).rename, store.path / f"seen-{ends}")


async def test_cancelled_at_any_await(store: ar.ImageStore) -> None:
    """Cancelled at any await, an owner leaves no task, file, lock or record of what was never created."""

    async def work() -> None:
        async with open_owner(store, ENGINE) as owner:
            claim = await owner.claim("x")
            try:
                await owner.identify(claim, "1d")
            finally:
                await owner.release(claim)

    await work()
    before = snapshot()
    tried = 0
    async for step in each_step(work):
        await run_cancelled_at(work, step, may_finish=True)
        await assert_settles(before)
        assert list(Layout(store.path).owners.iterdir()) == [], step
        tried += 1
    assert tried >= 4


# The store.


async def test_upkeep_leaves_owners_alone(store: ar.ImageStore) -> None:
    """Pruning, verifying and removing touch no owner, dead or alive; what is half made goes after an hour."""
    await put_image(store, "example.org/a:1", 1)
    directory = Layout(store.path).owners
    async with open_owner(store, ENGINE) as living, open_owner(store, ENGINE) as dead:
        await living.claim("living")
        await dead.claim("dead")
        await dead.close()
        for name in ("old", "young"):
            (directory / f".aioruntime-{name}").mkdir()
            (directory / f".aioruntime-{name}/lock").touch()
        set_age(directory / ".aioruntime-old", 2 * HOUR)
        for path in (directory / dead.nonce, *(directory / dead.nonce).iterdir()):
            set_age(path, 1000 * HOUR)

        await store.remove("example.org/a:1")
        report = await store.prune(max_bytes=0)
        assert await store.verify(repair=True) == []

        assert report.failed == ()
        found = sorted(path.name for path in directory.iterdir())
        assert found == sorted([".aioruntime-young", living.nonce, dead.nonce])
        assert alive(store, living.nonce)
        assert len(list((directory / dead.nonce).iterdir())) == 2


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def used(owner: Owner) -> None:
    """Go through the life of two containers."""
    for name in ("one", "two"):
        claim = await owner.claim(name)
        assert claim.labels == {OWNER_LABEL: owner.nonce, CONTAINER_LABEL: claim.nonce}
        await owner.identify(claim, "1d")
        await owner.release(claim)


@needs_root
async def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk containers are labelled and not recorded, which is told once; later they are again."""
    with tmpfs(tmp_path / "disk", "size=1m,nr_inodes=100") as disk:
        store = ar.ImageStore(disk / "store")
        async with open_owner(store, ENGINE) as first:
            await first.release(await first.claim("x"))
            filler = [disk / f"filler-{number}" for number in range(100)]
            with suppress(OSError):
                for path in filler:
                    path.touch()
            assert os.statvfs(disk).f_ffree == 0
            async with open_owner(store, ENGINE) as owner:
                await used(owner)
                assert seen(store) == [first.nonce]
                (told,) = warnings(caplog)
                for path in filler:
                    path.unlink(missing_ok=True)
                await owner.claim("y")
                assert sorted(seen(store)) == sorted([first.nonce, owner.nonce])
            assert warnings(caplog) == [told]
            assert recorded_by(store, owner.nonce) == ["y="]
    assert told.startswith(
        "containers run, but can't be found by reap if this program is killed: no space left"
    )


def recorded_by(store: ar.ImageStore, owner: str) -> list[str]:
    owned = Owned(Layout(store.path), owner)
    assert owned.take()
    records, _ = owned.look()
    owned.close()
    return [f"{record.name}={record.id}" for record in records]


@needs_root
async def test_a_store_to_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a store that may only be read nothing is recorded, which is told once, with the remedy."""
    store = ar.ImageStore(tmp_path / "store")
    await put_image(store, "example.org/a:1", 1)
    with mounted(store.path, store.path, "--bind"):
        remount(store.path, "ro,bind")
        async with open_owner(store, ENGINE) as owner:
            await used(owner)
        (told,) = warnings(caplog)
        assert "mount it writable" in told
        assert seen(store) == []


async def test_a_record_that_stays(store: ar.ImageStore, caplog: pytest.LogCaptureFixture) -> None:
    """If a record can't be removed, the container's end is no error for that: the log tells."""
    async with open_owner(store, ENGINE) as owner:
        claim = await owner.claim("x")
        path = Layout(store.path).owners / owner.nonce / f"{claim.nonce}.json"
        path.unlink()
        path.mkdir()
        await owner.release(claim)
    (told,) = warnings(caplog)
    assert told.startswith("container x stays recorded, and will be reaped if it is there")
    assert not alive(store, owner.nonce)


async def test_something_else_than_a_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory of something else is not written to; that is told once, and nothing is refused."""
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.tex").touch()
    async with open_owner(ar.ImageStore(tmp_path / "papers"), ENGINE) as owner:
        await used(owner)
    assert len(warnings(caplog)) == 1
    assert os.listdir(tmp_path / "papers") == ["thesis.tex"]


async def test_the_loop_is_not_held_up(store: ar.ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is slow delays a claim, and nobody else."""
    put = Owned.put

    def slow(owned: Owned, *arguments: object) -> bool | None:
        time.sleep(0.5)
        return put(owned, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Owned, "put", slow)
    async with open_owner(store, ENGINE) as owner:
        task = asyncio.create_task(owner.claim("x"))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await owner.release(await task)
    assert turns > 100
