"""Sweep faults over operations: `python -m tests.store.sweep --help`."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import anyio._backends._asyncio  # noqa: F401 - else each child would import it

from tests.store.sweep import world
from tests.store.sweep.keeping import KEEPING
from tests.store.sweep.moving import MOVING
from tests.store.sweep.operations import OPERATIONS
from tests.store.sweep.points import Point, Stores, calls_of, failure_of
from tests.store.sweep.pulling import PULL, registry
from tests.store.sweep.seam import FAULTS

_TOLD = 20
MEMORY = os.environ.get("TMPDIR", "/dev/shm")
ALL = (*OPERATIONS, *KEEPING, *MOVING, PULL)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--operation", choices=[operation.name for operation in ALL])
    parser.add_argument("--fault", choices=[fault.name for fault in FAULTS])
    parser.add_argument("--at", type=int, help="the number of the call, from 1")
    parser.add_argument("--share", default="0/1", help="such as 0/2: every other point, from the first on")
    parser.add_argument("--seed", help="draw one of ten calls, and faults, at random")
    return parser.parse_args()


def main() -> int:
    wanted = _arguments()
    operations = [operation for operation in ALL if wanted.operation in (None, operation.name)]
    faults = [fault for fault in FAULTS if wanted.fault in (None, fault.name)]
    world.small_pieces()
    gc.freeze()
    tried: Counter[str] = Counter()
    failures = 0
    # In memory: nothing here depends on a real disk, and syncing one takes most of the time.
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
        if PULL in operations:
            stack.enter_context(registry())
        stores = Stores(directory)
        for operation in operations:
            calls = calls_of(operation, stores)
            points = [
                Point(operation, fault, at)
                for at, call in enumerate(calls, 1)
                for fault in faults
                if fault.concerns(call) and wanted.at in (None, at)
            ]
            tried[f"calls of {operation.name}"] = len(calls)
            for point in _chosen(points, wanted.share, wanted.seed):
                failure = failure_of(point, stores)
                tried[point.fault.name] += 1
                tried["points"] += 1
                if failure is not None:
                    failures += 1
                    if failures <= _TOLD:
                        print(f"{point} ({calls[point.at - 1]}): {failure}", file=sys.stderr)
    print(json.dumps({"failures": failures, **tried}))
    return int(failures > 0)


def _chosen(points: list[Point], share: str, seed: str | None) -> list[Point]:
    """Return our share; with a seed, of one of ten calls a kill and another fault."""
    number, of = map(int, share.split("/"))
    if seed is None:
        return points[number::of]
    drawn = random.Random(f"{seed} {share}")
    calls = sorted({point.at for point in points})[number::of]
    chosen = []
    for at in drawn.sample(calls, -(-len(calls) // 10)):
        kill, *others = [point for point in points if point.at == at]
        chosen += [kill, drawn.choice(others)]
    return chosen


if __name__ == "__main__":
    sys.exit(main())
