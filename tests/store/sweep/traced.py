"""The kernel's own calls stopped by strace: also those that the store does not make by its seam.

`python -m tests.store.sweep.traced OPERATION [--seed SEED] [--inject CALL:FAULT:NUMBER]`
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio._backends._asyncio  # noqa: F401 - else each child would import it

from aioruntime.errors import StoreError
from tests.store.conftest import open_in
from tests.store.sweep import world
from tests.store.sweep.__main__ import ALL, MEMORY
from tests.store.sweep.points import Stores, examine, forked, perform
from tests.store.sweep.pulling import PULL, registry
from tests.store.sweep.record import Record
from tests.store.sweep.seam import Fault

if TYPE_CHECKING:
    from tests.store.sweep.operations import Operation
    from tests.store.sweep.world import Place

# The kernel ends these early when a signal comes, and Python makes them again.
_INTERRUPTED = ("openat", "pread64", "pwrite64", "fsync", "ftruncate", "flock", "fchmod")
_NAMES = (
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat"),
    *("close", "utimensat", "getdents64", "newfstatat", "ioctl", "copy_file_range"),
)
_CALLS = (*_INTERRUPTED, *_NAMES)
_KILL = "signal=SIGKILL"
_INTERRUPT = "error=EINTR"
_IN_CI = 4  # points


def _strace(options: list[str], pid: int) -> None:
    """Trace a process that waits, let it go on when that has begun, and wait until it has ended."""
    calls = ",".join(f"?{name}" for name in _CALLS)
    command = ["strace", "-f", "-e", f"trace={calls}", *options, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        first = tracer.stderr.readline()
        os.kill(pid, signal.SIGUSR1)
        rest = tracer.stderr.read()
    assert "attached" in first, first + rest


def _traced(operation: Operation, place: Place, record: Record, options: list[str]) -> tuple[int, str]:
    def run() -> None:
        signal.sigwait({signal.SIGUSR1})
        try:
            perform(operation, place, record)
        except StoreError as error:
            record.say("failed", error)
        assert open_in(place.path) == []

    # Blocked before the fork, so that the signal can't come before it is waited for.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    return forked(run, lambda pid: _strace(options, pid))


def injections(operation: Operation, stores: Stores) -> list[str]:
    """List what can be done to the operation: at each call of a thread, by the call's name and number."""
    place, record = stores.copy(operation), Record()
    with tempfile.NamedTemporaryFile() as log:
        status, text = _traced(operation, place, record, ["-o", log.name])
        calls = re.findall(rb"^(\d+) +(\w+)\(", log.read(), re.MULTILINE)
    assert status == 0, text
    assert record.said("end"), record.lines()
    numbers: dict[str, int] = {}
    for (_, name), number in Counter(calls).items():
        numbers[name.decode()] = max(number, numbers.get(name.decode(), 0))
    return [
        f"{name}:{fault}:when={number}"
        for name, last in numbers.items()
        for fault in (_KILL, _INTERRUPT)
        if fault == _KILL or name in _INTERRUPTED
        for number in range(1, last + 1)
    ]


def failure_of(operation: Operation, injection: str, stores: Stores) -> str | None:
    """Try it; return what went wrong, None if nothing did."""
    place, record = stores.copy(operation), Record()
    status, text = _traced(operation, place, record, ["-o", os.devnull, "-e", f"inject={injection}"])
    # Which thread makes how many of the calls is not always the same: it may have got by.
    killed = status == -signal.SIGKILL and _KILL in injection
    # Python does not begin the listing of a directory again: that may be told.
    told = any("Interrupted" in line for line in record.told("failed")) and "openat:error" in injection
    if not killed and not (status == 0 and (told or record.said("end"))):
        return f"the operation ended with {status}: {record.lines()} {text}"
    status, text = forked(lambda: asyncio.run(examine(operation, Fault("kill"), place, record)))
    shutil.rmtree(place.path)
    return f"found afterwards ({status}): {text}" if status else None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("operation", choices=[operation.name for operation in ALL])
    parser.add_argument("--seed", help="draw a few points at random")
    parser.add_argument("--inject", help="one point")
    wanted = parser.parse_args()
    operation = next(each for each in ALL if each.name == wanted.operation)
    world.small_pieces()
    gc.freeze()
    failures = 0
    with ExitStack() as stack:
        stores = Stores(Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))))
        if operation is PULL:
            stack.enter_context(registry())
        points = [wanted.inject] if wanted.inject else injections(operation, stores)
        if wanted.seed is not None:
            points = random.Random(wanted.seed).sample(points, _IN_CI)
        for point in points:
            failure = failure_of(operation, point, stores)
            if failure is not None:
                failures += 1
                command = f"python -m tests.store.sweep.traced {operation.name} --inject {point}"
                print(f"{command}: {failure}", file=sys.stderr)
    print(len(points))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
