"""One fault at one call of one operation, and what the next process finds: each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioruntime.errors import StoreError, StoreFull
from aioruntime.store.ingest import Ingest
from tests.store.conftest import open_in
from tests.store.sweep import world
from tests.store.sweep.operations import Operation
from tests.store.sweep.record import Record
from tests.store.sweep.seam import Fault, Seam
from tests.store.sweep.world import Place

if TYPE_CHECKING:
    from collections.abc import Callable

_HUNG = 20  # seconds
_NEXT_USE = 30  # seconds; it takes a hundredth of one, but the machine may be busy


@dataclass(frozen=True)
class Point:
    """A fault at the call of an operation that has this number, counted from 1."""

    operation: Operation
    fault: Fault
    at: int

    def __str__(self) -> str:
        return (
            f"python -m tests.store.sweep --operation {self.operation.name} "
            f"--fault {self.fault.name} --at {self.at}"
        )


class Stores:
    """Prepared stores, made once and copied for each point. Nothing here runs in this process itself."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made = 0

    def template(self, operation: Operation) -> Path:
        path = self._directory / f"of-{operation.name}"
        if not path.exists():
            path.mkdir()
            self._make(operation, Place(path))
        return path

    def _make(self, operation: Operation, place: Place) -> None:
        async def make() -> None:
            if not operation.empty:
                await world.make(place)
            if operation.prepare is not None:
                await operation.prepare(place)

        status, text = forked(lambda: asyncio.run(make()))
        assert status == 0, text

    def copy(self, operation: Operation) -> Place:
        self._made += 1
        path = self._directory / f"{self._made}"
        shutil.copytree(self.template(operation), path, symlinks=True)
        return Place(path)


def forked(run: Callable[[], object], beside: Callable[[int], object] = lambda pid: None) -> tuple[int, str]:
    """Call *run* in a child, and *beside* with its PID; return its exit code, and its standard error."""
    sys.stdout.flush()
    told = os.memfd_create("stderr")
    try:
        pid = os.fork()
        if pid == 0:
            signal.alarm(_HUNG)
            os.dup2(told, 2)
            code = 1
            try:
                run()
                code = 0
            finally:
                if code:
                    sys.excepthook(*sys.exc_info())
                os._exit(code)
        beside(pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, os.pread(told, 2**20, 0).decode(errors="replace")
    finally:
        os.close(told)


def calls_of(operation: Operation, stores: Stores) -> list[str]:
    """Return the names of the calls that the operation makes, in order."""
    place, record = stores.copy(operation), Record()

    def run() -> None:
        Seam(record).install()
        perform(operation, place, record)
        assert open_in(place.path) == []

    status, text = forked(run)
    assert status == 0, f"{operation.name} fails by itself: {text}"
    shutil.rmtree(place.path)
    return record.told("call")


def failure_of(point: Point, stores: Stores) -> str | None:
    """Try the point; return what went wrong, None if nothing did."""
    place, record = stores.copy(point.operation), Record()
    try:
        status, text = forked(lambda: _attempt(point, place, record))
        if status != (-signal.SIGKILL if point.fault.kind == "kill" and record.told("fault") else 0):
            return f"the operation ended with {status}: {text}"
        status, text = forked(lambda: asyncio.run(examine(point.operation, point.fault, place, record)))
        return f"found afterwards ({status}): {text}" if status else None
    finally:
        record.close()
        shutil.rmtree(place.path)


def _attempt(point: Point, place: Place, record: Record) -> None:
    seam = Seam(record, point.fault, point.at)
    seam.install()
    try:
        perform(point.operation, place, record)
    except StoreError as error:
        assert seam.happened
        _check_told(error, point.fault, place)
        record.say("failed")
    assert open_in(place.path) == []


def perform(operation: Operation, place: Place, record: Record) -> None:
    """Do the operation, and say so if it comes to its end."""
    watch(record)
    asyncio.run(operation.run(place, record))
    record.say("end")


def _check_told(error: StoreError, fault: Fault, place: Place) -> None:
    """The error is the fault's, and names a path and a remedy."""
    cause = error.__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == fault.number
    assert isinstance(error, StoreFull) == (fault.kind in ("ENOSPC", "EDQUOT"))
    path, _, remedy = str(error).partition("; ")
    assert str(place.path) in path
    assert remedy


async def examine(operation: Operation, fault: Fault, place: Place, first: Record) -> None:
    """Look at what is there as the next process does, do the operation again, and look again."""
    await world.check_sound(place.store, operation)
    await operation.check(place, first)
    _check_not_synced_again(place, first, fault)
    again = Record()
    watch(again)
    async with asyncio.timeout(_NEXT_USE):
        await operation.run(place, again)
    again.say("end")
    await world.check_sound(place.store, operation)
    await operation.check(place, again)
    await place.store.prune()
    world.check_tidy(place.store, operation.partials)
    _check_fetched_again(first, again)


def _check_not_synced_again(place: Place, first: Record, fault: Fault) -> None:
    """After a failed fsync the data is not believed to be there: the file is gone."""
    for told in first.told("fault"):
        call, _, path = told.partition(" ")
        if call == "fsync" and Path(path).parent.name == "ingest" and not fault.lasting:
            assert not Path(path).exists() or fault.number is None


def _check_fetched_again(first: Record, again: Record) -> None:
    """What was given to the store is there to go on from, but for a piece; unless it could not be synced."""
    if any(told.startswith("fsync ") for told in first.told("fault")) and first.said("failed"):
        return
    given, kept = first.numbers("given"), again.numbers("kept")
    for digest in given.keys() & kept.keys():
        assert kept[digest] >= given[digest] - world.PIECE, f"{digest} is fetched again"


def watch(record: Record) -> None:
    """Tell how much of each blob was there when its writing began, and how much came then."""
    begin, write = Ingest.__init__, Ingest.write

    def begun(self: Ingest, *arguments: Any) -> None:
        begin(self, *arguments)
        record.say("kept", self.digest, self.kept)

    async def written(self: Ingest, data: bytes) -> None:
        await write(self, data)
        record.say("given", self.digest, self.offset)

    setattr(Ingest, "__init__", begun)  # noqa: B010
    setattr(Ingest, "write", written)  # noqa: B010
