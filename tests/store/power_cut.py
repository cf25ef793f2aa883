"""Cuts the power under a store at work, and looks what the disk holds then.

`unshare --mount python -m tests.store.power_cut WORK --data ordered --cuts 8 --seed 1`, by root. WORK is a
directory to be made, to mount things in. All mounts and loop devices go with the process, however it ends.

A disk is a file with an ext4 in it. After a power cut it would hold what that file holds at this moment, so
a cut is a copy of the file. It has to be of one moment: so the file lies in a file system of its own, which
is frozen while it is copied. Little gets to the disk unless somebody waits for it: the journal is
committed every 300 s. Prints what harm each cut did, and ends with 1 if one did. With `--without`, whose
fsync is left out, the first that does harm is the last.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.store.store import ImageStore
from tests.store.helpers import MIB, ROOT
from tests.store.power_check import faults_of
from tests.store.promises import read_promises
from tests.support.disks import make_ext4, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.promises import Promised

DISK = 64 * MIB
CUTS_PER_LIFE = 4
FAULTS_TOLD = 5
PAUSES = (0.01, 0.05, 0.3)
# A session of its own: were it killed between the two, the file system would stay frozen for ever.
COPY = 'fsfreeze --freeze "$1" && { cp --sparse=always "$2" "$3"; fsfreeze --unfreeze "$1"; }'


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    work: Path
    data: str
    cuts: int
    seed: str
    without: str


@dataclass(frozen=True, slots=True)
class Life:
    """A store at work on a disk of its own."""

    outer: Path
    image: Path
    log: Path
    worker: subprocess.Popen[bytes]

    def cut(self, copy: Path) -> dict[str, Promised]:
        """Copy the disk as it is at one moment; return what was promised then."""
        before = self._said()
        subprocess.run(
            ["sh", "-c", COPY, "sh", self.outer, self.image, copy], check=True, start_new_session=True
        )
        assert not self.worker.poll(), "the worker has failed"
        return read_promises(before, self._said()[len(before) :])

    def _said(self) -> bytes:
        said = self.log.read_bytes() if self.log.exists() else b""
        return said[: said.rfind(b"\n") + 1]


@contextmanager
def life(plan: Plan, outer: Path, number: int, pace: str) -> Iterator[Life]:
    """Let a store work on a new disk."""
    image, log = outer / "image", plan.work / f"log-{number}"
    make_ext4(image, DISK, "-m", "0")
    with mounted(image, plan.work / "disk", "-o", f"loop,commit=300,data={plan.data}") as disk:
        arguments = (disk / "store", log, f"{plan.seed}-{number}", pace, plan.without)
        command = [sys.executable, "-m", "tests.store.power_worker", *map(str, arguments)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as worker:
            try:
                assert worker.stdout is not None
                worker.stdout.readline()
                yield Life(outer, image, log, worker)
            finally:
                worker.kill()


def run(plan: Plan) -> Counter[str]:
    """Cut as often as planned; return how many cuts did harm, and what was promised in all."""
    chance, found = random.Random(f"{plan.seed} {plan.data}"), Counter[str]()
    make_ext4(plan.work / "outer.img", 3 * DISK, "-O", "^has_journal")
    with mounted(plan.work / "outer.img", plan.work / "outer", "-o", "loop") as outer:
        for number, pace in zip(count(), cycle(("calm", "busy"))):
            with life(plan, outer, number, pace) as alive:
                for _ in range(CUTS_PER_LIFE):
                    if found["cuts"] == plan.cuts or (found["harmful"] and plan.without != "none"):
                        return found
                    time.sleep(chance.choice(PAUSES) * chance.random())
                    promised = alive.cut(plan.work / "copy.img")
                    alive.worker.send_signal(signal.SIGSTOP)  # else the disk is full before all are checked
                    found.update(check(plan, found["cuts"], promised))
                    alive.worker.send_signal(signal.SIGCONT)
                    if alive.worker.poll() is not None:
                        break
    raise AssertionError("lives have no end")


def check(plan: Plan, number: int, promised: dict[str, Promised]) -> Counter[str]:
    """Look at the copy as it is after a restart: mounted, which replays the journal."""
    with mounted(plan.work / "copy.img", plan.work / "copy", "-o", f"loop,data={plan.data}") as copy:
        store = ImageStore(copy / "store")
        faults = asyncio.run(faults_of(store, promised, plan.work / "next"))
    for fault in faults[:FAULTS_TOLD]:
        print(f"cut {number}: {fault}", flush=True)
    kept = Counter(subject.split()[0] for subject, value in promised.items() if None not in value.values)
    return Counter(cuts=1, harmful=bool(faults)) + kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", choices=["ordered", "writeback"], default="ordered")
    parser.add_argument("--cuts", type=int, default=8)
    parser.add_argument("--seed", default=os.urandom(4).hex())
    parser.add_argument("--without", choices=["none", "files", "directories", "all"], default="none")
    plan = Plan(**vars(parser.parse_args()))
    print(f"seed {plan.seed}, data={plan.data}", flush=True)
    plan.work.mkdir()
    # In memory, as nobody else's work shall slow the disk down. Loop devices let go of it late: it is
    # left to the end of the process.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "none", plan.work], check=True)
    found = run(plan)
    print(*(f"{count} {what}" for what, count in found.items()), sep=", ")
    return bool(found["harmful"])


if __name__ == "__main__":
    sys.exit(main())
