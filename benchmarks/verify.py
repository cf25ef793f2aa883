"""Verify a store: our `verify` beside ``sha256sum``, run by xargs on as many processors over the same files.

``python -m benchmarks.verify`` makes two stores, of a few large blobs and of many small ones, and takes turns
in each. What counts is the ratio of speeds: the median of the rounds has to be at least 0.7.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aioruntime as ar
from aioruntime.tasks import in_thread
from benchmarks.meters import loop_stall

LIMIT = 0.7
STALL_LIMIT = 0.05
# Names of the case, number of blobs, bytes of each, files for each process of sha256sum.
CASES = (("large", 8, 128 << 20, 1), ("small", 20_000, 5_000, 500))


def fill(directory: Path, count: int, size: int) -> None:
    """Write blobs of about that size."""
    directory.mkdir(parents=True)
    rng = random.Random(count)
    for _ in range(count):
        data = rng.randbytes(rng.randrange(size // 2, size * 3 // 2))
        (directory / hashlib.sha256(data).hexdigest()).write_bytes(data)


def sha256sum(directory: Path, at_once: int) -> float:
    """Return the seconds that it takes."""
    command = f"find . -type f -print0 | xargs -0 -P {len(os.sched_getaffinity(0))} -n {at_once} sha256sum"
    started = time.perf_counter()
    subprocess.run(command, cwd=directory, shell=True, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


async def verify(store: ar.ImageStore) -> tuple[float, float]:
    """Return the seconds that it takes, and the longest that it held up the loop."""
    async with loop_stall() as stall:
        started = time.perf_counter()
        assert await store.verify() == []
        taken = time.perf_counter() - started
    return taken, stall.longest


async def measure(case: tuple[str, int, int, int], runs: int, work: Path) -> bool:
    """Print the figures of a case; return whether they are within the limits."""
    name, count, size, at_once = case
    directory = work / name / "blobs" / "sha256"
    await in_thread(fill, directory, count, size)
    store = ar.ImageStore(work / name)
    await in_thread(sha256sum, directory, at_once)  # what is measured is not the disk
    rounds = [(await in_thread(sha256sum, directory, at_once), *await verify(store)) for _ in range(runs)]
    theirs, ours, stall = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratio = statistics.median(theirs / ours for theirs, ours, _ in rounds)
    print(
        f"{name}: {count} blobs of {size} bytes: sha256sum {theirs:.3f} s, verify {ours:.3f} s, "
        f"{ratio:.2f} of its speed; the loop stood still for {stall * 1000:.0f} ms",
        flush=True,
    )
    return ratio >= LIMIT and stall <= STALL_LIMIT


async def run(runs: int) -> bool:
    """Measure both cases; return whether they are within the limits."""
    with tempfile.TemporaryDirectory(prefix="aioruntime-verify-", dir="/dev/shm") as name:
        return all([await measure(case, runs, Path(name)) for case in CASES])


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    sys.exit(0 if asyncio.run(run(parser.parse_args().runs)) else 1)


if __name__ == "__main__":
    main()
