"""Pull python3-scipy, 120 layers, into five engines that lack it: our pull beside the engine's own.

``python -m benchmarks.cold`` starts its own registry, and its own engines as the tests do. Each round has
the engine pull by itself, then ours with the layers as they are, then ours with the layers merged; the store
is empty each time. What counts is the ratio within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aioruntime as ar
from aioruntime.demo.images import build_tool_image
from aioruntime.demo.registry import LocalRegistry
from aioruntime.tasks import in_thread
from tests.support import engines
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from aioruntime.demo.blobs import Compression

PACKAGE = "python3-scipy"
KEEP_LIMIT = 1.1
MERGE_LIMIT = 0.7
MERGE_ENGINES = ("docker-20.10", "podman-5.4")


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds until the image could be run: pulled by the engine, by us, by us with layers merged."""

    engine: float
    keep: float
    merge: float


async def measure(url: str, reference: str, work: Path) -> Round:
    """Pull three times into an engine that lacks the image."""
    engine = await _timed(url, reference, work, via="engine")
    keep = await _timed(url, reference, work)
    merge = await _timed(url, reference, work, layering="merge")
    return Round(engine, keep, merge)


async def _timed(url: str, reference: str, work: Path, **options: object) -> float:
    store = work / "store"
    async with ar.connect(url, store=store) as runtime:
        started = time.perf_counter()
        await runtime.pull(reference, **options)  # type: ignore[arg-type]
        ended = time.perf_counter()
        await runtime.run(ar.RunSpec(ar.OciRef.parse(reference), ["/usr/bin/python3", "-c", "pass"]))
        await remove_images(runtime)
    await in_thread(shutil.rmtree, store)
    return ended - started


def report(flavor: str, rounds: list[Round]) -> bool:
    """Print one engine's figures; return whether the ratios are within the limits."""
    keep = statistics.median(each.keep / each.engine for each in rounds)
    merge = statistics.median(each.merge / each.engine for each in rounds)
    seconds = [
        statistics.median(values)
        for values in zip(*((r.engine, r.keep, r.merge) for r in rounds), strict=True)
    ]
    print(
        f"{flavor:23} engine's own pull {seconds[0]:5.2f} s; ours {seconds[1]:5.2f} s, ratio {keep:.2f}; "
        f"merged {seconds[2]:5.2f} s, ratio {merge:.2f}",
        flush=True,
    )
    return keep <= KEEP_LIMIT and (merge <= MERGE_LIMIT or flavor not in MERGE_ENGINES)


async def run(flavors: list[str], compression: Compression, runs: int, cache: Path) -> bool:
    """Measure the engines one after the other; return whether all are within the limits."""
    fine = True
    with tempfile.TemporaryDirectory(prefix="aioruntime-cold-", dir="/dev/shm") as name:
        work = Path(name)
        async with LocalRegistry() as registry:
            image = await build_tool_image(
                PACKAGE, work / "layout", cache, compression=compression, name="bulk"
            )
            size = sum(layer.size for layer in image.layers) / 2**20
            print(f"{PACKAGE}: {len(image.layers)} layers, {compression}, {size:.0f} MiB", flush=True)
            reference = await registry.push(work / "layout", "bulk", "scipy:1")
            for flavor in flavors:
                with engines.start(engines.FLAVORS[flavor]) as engine:
                    rounds = [await measure(engine.url, reference, work) for _ in range(runs)]
                fine = report(flavor, rounds) and fine
    return fine


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compression", choices=["gzip", "zstd"], default="gzip")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".pytest_cache/images"), help="built layers")
    parser.add_argument("flavors", nargs="*", help=f"of {', '.join(engines.FLAVORS)}; all if none is named")
    given = parser.parse_args()
    flavors = given.flavors or list(engines.FLAVORS)
    sys.exit(0 if asyncio.run(run(flavors, given.compression, given.runs, given.cache.absolute())) else 1)


if __name__ == "__main__":
    main()
