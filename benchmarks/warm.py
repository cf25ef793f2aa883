"""Pull bcftools into engines that have samtools, 54 of its 55 layers: our pull beside the engine's own.

``python -m benchmarks.warm`` starts its own registry, and its own engines as the tests do. In each round the
engine pulls both by itself, then we do, into an empty engine; what counts is the ratio of the second pulls.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import aioruntime as ar
from aioruntime.demo.images import build_tool_image
from aioruntime.demo.registry import LocalRegistry
from aioruntime.engine import images
from aioruntime.tasks import in_thread
from tests.support import engines
from tests.support.said import Said
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from aioruntime.runtime.engine_runtime import EngineRuntime

TOOLS = ("samtools", "bcftools")
LIMIT = 2.0


async def by_engine(runtime: EngineRuntime, first: str, second: str) -> float:
    """Have the engine pull both; return the seconds of the second."""
    await images.pull_image(runtime._client, first)
    started = time.perf_counter()
    await images.pull_image(runtime._client, second)
    return time.perf_counter() - started


async def by_us(runtime: EngineRuntime, first: str, second: str) -> tuple[float, int]:
    """Pull both; return the seconds of the second, and the bytes that went to the engine."""
    said = Said()
    await runtime.pull(first)
    started = time.perf_counter()
    await runtime.pull(second, said)
    return time.perf_counter() - started, said.sent_bytes


async def measure(flavor: str, engine: engines.Engine, host: str, runs: int, work: Path) -> bool:
    """Print one engine's figures; return whether the ratio is within the limit."""
    # Docker 20.10 pulls no zstd.
    tag: Literal["gzip", "zstd"] = "gzip" if flavor == "docker-20.10" else "zstd"
    first, second = (f"{host}/{tool}:{tag}" for tool in TOOLS)
    rounds: list[tuple[float, float]] = []
    sent = 0
    for _ in range(runs):
        async with ar.connect(engine.url, store=work / "store") as runtime:
            theirs = await by_engine(runtime, first, second)
            await remove_images(runtime)
            ours, sent = await by_us(runtime, first, second)
            await remove_images(runtime)
        rounds.append((theirs, ours))
        await in_thread(shutil.rmtree, work / "store")
    theirs, ours = (statistics.median(values) for values in zip(*rounds, strict=True))
    ratio = statistics.median(ours / theirs for theirs, ours in rounds)
    print(
        f"{flavor:23} {tag}: engine's own pull {theirs:.3f} s; ours {ours:.3f} s, ratio {ratio:.2f}; "
        f"{sent} bytes sent",
        flush=True,
    )
    return ratio <= LIMIT


async def run(flavors: list[str], runs: int, cache: Path) -> bool:
    """Measure the engines one after the other; return whether all are within the limit."""
    fine = True
    with tempfile.TemporaryDirectory(prefix="aioruntime-warm-", dir="/dev/shm") as name:
        work = Path(name)
        async with LocalRegistry() as registry:
            for compression in ("gzip", "zstd"):
                for tool in TOOLS:
                    image = f"{tool}-{compression}"
                    await build_tool_image(tool, work / "layout", cache, compression=compression, name=image)
                    await registry.push(work / "layout", image, f"{tool}:{compression}")
            for flavor in flavors:
                with engines.start(engines.FLAVORS[flavor]) as engine:
                    fine = await measure(flavor, engine, registry.host, runs, work) and fine
    return fine


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(".pytest_cache/images"), help="built layers")
    parser.add_argument("flavors", nargs="*", help=f"of {', '.join(engines.FLAVORS)}; all if none is named")
    given = parser.parse_args()
    flavors = given.flavors or list(engines.FLAVORS)
    sys.exit(0 if asyncio.run(run(flavors, given.runs, given.cache.absolute())) else 1)


if __name__ == "__main__":
    main()
