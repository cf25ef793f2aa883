"""What programs leave that are killed is removed, and nothing else, on each generation of engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

import aioruntime as ar
from aioruntime.engine.identity import Identity
from aioruntime.runtime.owner import CONTAINER_LABEL, OWNER_LABEL, open_owner
from aioruntime.runtime.reap import _judge, _Verdict
from aioruntime.store.owners import Record
from aioruntime.tasks import in_thread
from tests.cli.child import ROOT, command, started
from tests.runtime.conftest import newer_in_full
from tests.support import host
from tests.support.leaks import assert_settles, snapshot
from tests.support.proxy import Fault, UnixProxy
from tests.support.rootfs import import_image, program_tar
from tests.support.stepper import each_step, run_cancelled_at
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from aioruntime.runtime.owner import Claim
    from tests.support.engines import Engine

SEED = 7
BAIT = {OWNER_LABEL: "somebody", CONTAINER_LABEL: "something"}
MINUTE = 60 * 10**9


def request(engine: Engine, method: str, path: str, document: object = None) -> Any:
    """Ask the engine beside the library."""
    body = b"" if document is None else json.dumps(document).encode()
    headers = {"Content-Type": "application/json"}
    status, answer = ask(engine.socket, method, f"/v1.40{path}", body=body, headers=headers, seconds=60)
    assert status < 300, (method, path, status, answer)
    return json.loads(answer) if answer.strip() else None


def listed(engine: Engine, **filters: list[str]) -> set[str]:
    """The IDs of all containers that pass the filters."""
    path = f"/containers/json?all=1&filters={quote(json.dumps(filters))}"
    return {each["Id"] for each in request(engine, "GET", path)}


def create(engine: Engine, image: str, name: str, labels: dict[str, str]) -> str:
    """Create a container as anybody may, and return its ID."""
    document = {"Image": image, "Cmd": ["sleep", "600"], "Labels": labels}
    return str(request(engine, "POST", f"/containers/create?name={name}", document)["Id"])


def labelled(engine: Engine, image: str, labels: dict[str, str]) -> str:
    """Make an image with labels, as `LABEL` in a Dockerfile does, and return its name."""
    name = f"localhost/labelled-{os.urandom(4).hex()}"
    base = create(engine, image, os.urandom(8).hex(), {})
    changes = "".join(f"&changes={quote(f'LABEL {key}={value}')}" for key, value in labels.items())
    request(engine, "POST", f"/commit?container={base}&repo={name}&tag=1{changes}", {})
    request(engine, "DELETE", f"/containers/{base}")
    found = request(engine, "GET", f"/images/{quote(name, safe='')}:1/json")["Config"]["Labels"]
    assert found.items() >= labels.items()
    return f"{name}:1"


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


@pytest.fixture
def image(engine: Engine) -> Iterator[str]:
    """An image with `sleep` whose labels are bait; all containers and images are removed afterwards."""
    plain = import_image(engine, "sleeper", program_tar("sleep"))
    yield labelled(engine, plain, BAIT)
    for found in listed(engine):
        ask(engine.socket, "POST", f"/v1.40/containers/{found}/kill")
        request(engine, "DELETE", f"/containers/{found}?force=1")
    for found in request(engine, "GET", "/images/json"):
        ask(engine.socket, "DELETE", f"/v1.40/images/{found['Id']}?force=1")


@asynccontextmanager
async def running(
    engine: Engine, store: ar.ImageStore, image: str, *arguments: object
) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[Any]]]:
    """Run a program that owns containers, and give what it has; it is killed at the end, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.owner_worker",
        *(engine.url, str(store.path), image, *map(str, arguments)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield process, await told_by(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def told_by(process: asyncio.subprocess.Process) -> list[Any]:
    """What a program says that it made."""
    assert process.stdout is not None
    return list(json.loads(await asyncio.wait_for(process.stdout.readline(), 90)))


async def killed(engine: Engine, store: ar.ImageStore, image: str, *arguments: object) -> list[Any]:
    """Run a program until it has what it owns, kill it, and return that."""
    async with running(engine, store, image, *arguments) as (_, made):
        return made


async def end(process: asyncio.subprocess.Process) -> None:
    """Have a program remove what it has and end."""
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 90) == 0


def ids(made: list[Any]) -> set[str]:
    return {each["id"] for each in made}


def owners_of(store: ar.ImageStore) -> list[Path]:
    """What is in the directory of owners."""
    directory = store.path / "aioruntime/owners"
    return sorted(directory.iterdir()) if directory.exists() else []


async def left_by_a_dead_one(
    runtime: EngineRuntime, name: str, container: str = "", *, engine_id: str | None = None
) -> Claim:
    """Record a container as an owner that is gone, and say so."""
    known = runtime._client.capabilities.engine_id if engine_id is None else engine_id
    async with open_owner(runtime.store, known) as owner:
        claim = await owner.claim(name)
        if container:
            await owner.identify(claim, container)
    return claim


def record_of(store: ar.ImageStore, claim: Claim) -> Path:
    return store.path / "aioruntime/owners" / claim.labels[OWNER_LABEL] / f"{claim.nonce}.json"


# What is removed.


async def test_kill_minus_nine(runtime: EngineRuntime, engine: Engine, image: str) -> None:
    """THREATS I8: of two programs with ten running containers, reap removes those of the one that was killed.

    Those of the other go on. The image has labels of ours, which don't get the better of those we set.
    """
    async with running(engine, runtime.store, image, "run", 10) as (living, living_ones):
        dead = await killed(engine, runtime.store, image, "run", 10)
        assert len(ids(dead) | ids(living_ones)) == 20
        assert listed(engine) == ids(dead) | ids(living_ones)

        report = await runtime.reap()
        again = await runtime.reap()

        assert sorted(report.removed) == sorted(ids(dead))
        assert (report.left, report.elsewhere) == ((), 0)
        assert again == ar.ReapReport((), ())
        assert listed(engine, status=["running"]) == listed(engine) == ids(living_ones)
        await end(living)
    assert listed(engine) == set()
    assert owners_of(runtime.store) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@newer_in_full
@pytest.mark.parametrize("seconds", [0, pytest.param(120, marks=pytest.mark.full)])
async def test_exactly_those_of_the_dead(
    runtime: EngineRuntime, engine: Engine, image: str, tmp_path: Path, seconds: int
) -> None:
    """THREATS I8, T20: three reapers at once remove the 100 containers of ten dead owners, each once.

    They leave those of ten live owners, of one that is stopped, of another store, and of images that carry
    the very labels of a container that goes.
    """
    store, other = runtime.store, ar.ImageStore(tmp_path / "other")
    where = ("--url", engine.url, "--store", store.path)
    dead = await killed(engine, store, image, "own", 10, 10)
    elsewhere = await killed(engine, other, image, "own", 1, 5)
    impostor = labelled(engine, image, dead[0]["labels"])
    impostors = {create(engine, impostor, f"impostor-{number}", {}) for number in range(5)}
    async with (
        running(engine, store, image, "own", 10, 1) as (living, live),
        running(engine, store, image, "own", 1, 1) as (stopped, stopped_ones),
    ):
        os.kill(stopped.pid, signal.SIGSTOP)
        await in_thread(host.poll, lambda: host.stopped(stopped.pid), 10.0)
        until = asyncio.get_running_loop().time() + seconds

        reapers = await asyncio.gather(*(command("reap", *where) for _ in range(3)))
        while asyncio.get_running_loop().time() < until:
            reapers.append(await command("reap", *where))

        assert [(reaper.status, reaper.stderr) for reaper in reapers] == [(0, "")] * len(reapers)
        removed = [line for reaper in reapers for line in reaper.stdout.split()]
        assert sorted(removed) == sorted(ids(dead))
        assert len(removed) == 100
        kept = ids(live) | ids(stopped_ones) | ids(elsewhere) | impostors
        assert listed(engine) == kept
        assert len(kept) == 21
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.stdin is not None
        stopped.stdin.write(b"\n")
        more = await told_by(stopped)
        assert (await runtime.reap()) == ar.ReapReport((), ())
        assert listed(engine) == kept | ids(more)
        await end(living)
        await end(stopped)
    assert owners_of(store) == []
    assert listed(engine) == ids(elsewhere) | impostors


async def test_a_reaper_that_is_killed(
    runtime: EngineRuntime, engine: Engine, image: str, tmp_path: Path
) -> None:
    """A reaper killed in the middle of its removals loses none of the rest: the next one goes on."""
    dead = await killed(engine, runtime.store, image, "own", 2, 10)
    async with UnixProxy(tmp_path / "s", engine.socket) as proxy:
        last = max(dead, key=lambda each: str(each["name"]))[
            "id"
        ]  # of the second owner, in the order of names
        stall = proxy.add(Fault("stall", request=f"GET .*{last}"))
        async with started("reap", "--url", proxy.url, "--store", runtime.store.path) as process:
            await asyncio.wait_for(stall.reached.wait(), 60)
            process.kill()
            await process.wait()
    assert owners_of(runtime.store)

    report = await runtime.reap()

    assert last in report.removed
    assert set(report.removed) < ids(dead)
    assert report.left == ()
    assert listed(engine) == set()
    assert owners_of(runtime.store) == []


async def test_a_creation_whose_answer_was_lost(runtime: EngineRuntime, engine: Engine, image: str) -> None:
    """THREATS E7: a container whose ID was never told is found by name and labels, once it is there.

    Until then the record stays: the engine may still be creating what a dead program asked for. Another
    container of that name is not taken for it, nor one with its labels and another name.
    """
    claim = await left_by_a_dead_one(runtime, "wanted")
    create(engine, image, "not-wanted", dict(claim.labels))
    taken = create(engine, image, "wanted", {OWNER_LABEL: claim.labels[OWNER_LABEL]})
    kept = listed(engine)

    early = await runtime.reap()

    assert early.removed == ()
    (reason,) = early.left
    assert reason.startswith("container wanted: not there, but the engine may still be about to create it")
    assert listed(engine) == kept

    request(engine, "DELETE", f"/containers/{taken}")
    late = create(engine, image, "wanted", dict(claim.labels))
    assert await runtime.reap() == ar.ReapReport((late,), ())
    assert listed(engine) == kept - {taken}
    assert owners_of(runtime.store) == []


OURS = {OWNER_LABEL: "me", CONTAINER_LABEL: "one"}
NAMED = Record("engine", "name", "one")
KNOWN = Record("engine", "name", "one", "1d")


@pytest.mark.parametrize(
    ("record", "found", "age", "verdict"),
    [
        (KNOWN, Identity("1d", "name", OURS), 1, _Verdict.REMOVE),
        (KNOWN, Identity("1d", "renamed", {"other": "label"} | OURS), 1, _Verdict.REMOVE),
        (KNOWN, None, 1, _Verdict.GONE),
        (KNOWN, Identity("1d", "name", {}), 10**6, _Verdict.ANOTHER),
        (KNOWN, Identity("1d", "name", OURS | {OWNER_LABEL: "you"}), 10**6, _Verdict.ANOTHER),
        (KNOWN, Identity("1d", "name", OURS | {CONTAINER_LABEL: "two"}), 10**6, _Verdict.ANOTHER),
        (KNOWN, Identity("1d2", "name", OURS), 10**6, _Verdict.ANOTHER),
        (NAMED, Identity("1d", "name", OURS), 10**6, _Verdict.REMOVE),
        (NAMED, Identity("1d", "renamed", OURS), 1, _Verdict.WAIT),
        (NAMED, Identity("1d", "name", {OWNER_LABEL: "me"}), 1, _Verdict.WAIT),
        (NAMED, Identity("1d", "name", {OWNER_LABEL: "me"}), 601, _Verdict.GONE),
        (NAMED, None, 0, _Verdict.WAIT),
        (NAMED, None, 599, _Verdict.WAIT),
        (NAMED, None, 601, _Verdict.GONE),
        (NAMED, None, -601, _Verdict.GONE),
    ],
)
def test_judgement(record: Record, found: Identity | None, age: float, verdict: _Verdict) -> None:
    """THREATS I8: record and both labels have to agree; what is not there is waited for ten minutes.

    A record from the future, after a clock was set back, does not stay for ever.
    """
    assert _judge(record, "me", found, age) is verdict


@pytest.mark.parametrize("every_engine", ["docker-20.10"], indirect=True)
async def test_a_container_that_never_was(runtime: EngineRuntime, engine: Engine) -> None:
    """A record without ID is dropped after ten minutes, one whose ID the engine does not know at once."""
    claim = await left_by_a_dead_one(runtime, "never")
    await left_by_a_dead_one(runtime, "gone", "0" * 64)
    assert len((await runtime.reap()).left) == 1
    assert len(owners_of(runtime.store)) == 1

    written = record_of(runtime.store, claim).stat().st_mtime_ns - 11 * MINUTE
    os.utime(record_of(runtime.store, claim), ns=(written, written))

    assert await runtime.reap() == ar.ReapReport((), ())
    assert owners_of(runtime.store) == []


# What is left.


@pytest.mark.parametrize("every_engine", ["docker-20.10"], indirect=True)
async def test_records_that_are_none(runtime: EngineRuntime, engine: Engine, image: str) -> None:
    """What can't be read of a dead owner's is told, and stays; what can be is gone by."""
    store = runtime.store
    claim = await left_by_a_dead_one(runtime, "good")
    good = create(engine, image, "good", dict(claim.labels))
    directory, text = record_of(store, claim).parent, record_of(store, claim).read_text()
    (directory / "half.json").write_text(text[:20])
    (directory / "empty.json").touch()
    (directory / "copied.json").write_text(text)
    bad = json.loads(text) | {"nonce": "bad-id", "id": "../x"}
    (directory / "bad-id.json").write_text(json.dumps(bad) + "\n")
    (directory / "noise.json").write_bytes(os.urandom(100))
    (directory / "directory.json").mkdir()
    os.mkfifo(directory / "fifo.json")
    lockless = store.path / "aioruntime/owners/lockless"
    (lockless / "x.json").parent.mkdir()
    (lockless / "x.json").write_text(text)
    (store.path / "aioruntime/owners/file").touch()

    report = await runtime.reap()
    printed = await command("reap", "--url", engine.url, "--store", store.path)

    assert report.removed == (good,)
    assert len(report.left) == 9
    for name in ("half", "empty", "copied", "bad-id", "noise", "directory", "fifo"):
        assert sum(f"{directory}/{name}.json" in reason for reason in report.left) == 1, name
    assert any(f"{lockless} has records but no lock" in reason for reason in report.left)
    assert sorted(path.name for path in owners_of(store)) == sorted([directory.name, "file", "lockless"])
    assert (printed.status, printed.stdout) == (1, "")
    assert sorted(printed.stderr.splitlines()) == sorted(f"not removed: {reason}" for reason in report.left)


@pytest.mark.parametrize("every_engine", ["docker-20.10"], indirect=True)
async def test_other_engines(runtime: EngineRuntime, engine: Engine, image: str) -> None:
    """What is in another engine is left for a reap there, and counted."""
    here = create(engine, image, "here", {})
    claim = await left_by_a_dead_one(runtime, "here", here, engine_id="docker-elsewhere")

    report = await runtime.reap()
    printed = await command("reap", "--url", engine.url, "--store", runtime.store.path)

    assert report == ar.ReapReport((), (), 1)
    assert record_of(runtime.store, claim).exists()
    assert (printed.status, printed.stdout) == (0, "")
    assert printed.stderr == "1 more are in other engines: reap there, with --url\n"


@pytest.mark.parametrize("every_engine", ["docker-20.10"], indirect=True)
async def test_no_store(engine: Engine, tmp_path: Path) -> None:
    """Where there is no store there is nothing to reap, and none is made, by connecting either."""
    async with ar.connect(engine.url, store=tmp_path / "none") as runtime:
        assert await runtime.reap() == ar.ReapReport((), ())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("every_engine", ["docker-20.10"], indirect=True)
async def test_an_engine_that_goes_away(
    runtime: EngineRuntime, engine: Engine, image: str, tmp_path: Path
) -> None:
    """If the engine can't be reached, that is the error, and what is recorded stays."""
    await left_by_a_dead_one(runtime, "there", create(engine, image, "there", {}))
    async with (
        UnixProxy(tmp_path / "s", engine.socket) as proxy,
        ar.connect(proxy.url, store=runtime.store) as other,
    ):
        proxy.add(Fault("reset", request="GET .*/containers/"))
        with pytest.raises(ar.StreamTruncated):
            await other.reap()
    assert len(owners_of(runtime.store)) == 1


@pytest.mark.parametrize("every_engine", ["docker-20.10"], indirect=True)
async def test_cancelled_at_any_await(runtime: EngineRuntime, engine: Engine) -> None:
    """Cancelled at any await, `reap` leaves no task, file, lock or connection, and the next one works."""

    async def reap() -> None:
        await runtime.reap()

    async def prepared() -> None:
        for number in range(2):
            await left_by_a_dead_one(runtime, f"gone-{number}", f"{number}" * 64)

    await prepared()
    await reap()
    before = snapshot()
    tried = 0
    await prepared()
    async for step in each_step(reap, sample=None, seed=SEED):
        await prepared()
        await run_cancelled_at(reap, step, how="task", may_finish=True)
        await assert_settles(before)
        assert await runtime.reap() == ar.ReapReport((), ())
        assert owners_of(runtime.store) == []
        tried += 1
    assert tried >= 5
