"""Fetch the blobs of python3-scipy beside skopeo: over a slow network, one that cuts, and none.

``python -m benchmarks.fetch`` starts its own registry and proxies.
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

import anyio

import aioruntime as ar
from aioruntime.assembly.fetch import fetch_layers
from aioruntime.demo.images import build_tool_image
from aioruntime.demo.registry import LocalRegistry
from aioruntime.tasks import in_thread
from benchmarks.bulk import PACKAGE, copy_with_skopeo
from benchmarks.meters import loop_stall, resident_memory
from benchmarks.throttle import Throttle

MIB = 2**20
CONNECTIONS = 16
RATE = 8 * MIB
DELAY = 0.040
NAME = "scipy:1"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch measured: seconds, bytes, seconds of the longest stall, bytes of growth."""

    seconds: float
    size: int
    downloaded: int
    stall: float
    growth: int


async def fetch(host: str, store: Path) -> Fetched:
    """Fetch all layers into an empty store, which is removed."""
    image = ar.OciRef.parse(f"{host}/{NAME}")
    async with ar.RegistryClient(connections_per_host=CONNECTIONS) as client:
        found = await client.resolve(image)
        with resident_memory() as memory:
            async with loop_stall() as stall:
                started = time.perf_counter()
                report = await fetch_layers(
                    found.layers,
                    image=image,
                    source=client,
                    store=ar.ImageStore(store),
                    progress=ar.NoopProgress(),
                    connections=anyio.CapacityLimiter(CONNECTIONS),
                )
                seconds = time.perf_counter() - started
    await in_thread(shutil.rmtree, store)
    size = sum(layer.size for layer in found.layers)
    return Fetched(seconds, size, report.downloaded_bytes, stall.longest, memory.growth)


def judged(name: str, value: float, limit: float) -> bool:
    """Print a figure beside its limit; return whether it is within."""
    print(f"    {name}: {value:.3f} (limit {limit})")
    return value <= limit


def told(title: str, runs: list[Fetched], skopeo: list[float]) -> tuple[float, float]:
    """Print what was measured; return the medians in seconds, ours and skopeo's."""
    ours = statistics.median(run.seconds for run in runs)
    theirs = statistics.median(skopeo) if skopeo else 0.0
    all_ours = ", ".join(f"{run.seconds:.2f}" for run in runs)
    print(f"{title}: {ours:.2f} s ({all_ours}); skopeo copy to a directory {theirs:.2f} s")
    print(
        f"    longest stall {max(run.stall for run in runs) * 1000:.0f} ms, "
        f"memory grew by {max(run.growth for run in runs) / MIB:.0f} MiB"
    )
    return ours, theirs


async def slow(registry: str, work: Path, runs: int) -> bool:
    """Each connection gets 8 MiB/s and 40 ms."""
    async with Throttle(registry, rate=RATE, delay=DELAY) as proxy:
        fetched = [await fetch(proxy.host, work / "store") for _ in range(runs)]
        skopeo = [await in_thread(copy_with_skopeo, f"{proxy.host}/{NAME}", work / "copy")]
    ours, theirs = told("8 MiB/s and 40 ms a connection", fetched, skopeo)
    fine = judged("of skopeo's time", ours / theirs, 0.12)
    return judged("of bytes / (16 x 8 MiB/s)", ours * CONNECTIONS * RATE / fetched[0].size, 1.6) and fine


async def cut(registry: str, work: Path, runs: int) -> bool:
    """Each connection is cut after 1 to 10 MiB besides."""
    shares = []
    fetched = []
    for _ in range(runs):
        async with Throttle(registry, rate=RATE, delay=DELAY, cut=True) as proxy:
            fetched.append(await fetch(proxy.host, work / "store"))
        shares.append(proxy.passed / fetched[-1].size)
    told("the same, cut after 1 to 10 MiB", fetched, [])
    fine = judged("bytes that came / bytes", max(run.downloaded / run.size for run in fetched), 1.05)
    return judged("bytes that were sent, heads too / bytes", max(shares), 1.05) and fine


async def local(registry: str, work: Path, runs: int) -> bool:
    """No proxy."""
    fetched = []
    skopeo = []
    for _ in range(runs):
        fetched.append(await fetch(registry, work / "store"))
        skopeo.append(await in_thread(copy_with_skopeo, f"{registry}/{NAME}", work / "copy"))
    ours, theirs = told("no proxy", fetched, skopeo)
    return judged("of skopeo's time", ours / theirs, 0.5)


async def run(runs: int, cache: Path) -> bool:
    """Measure and print the figures; return whether they are within the limits."""
    with tempfile.TemporaryDirectory(prefix="aioruntime-fetch-") as name:
        work = Path(name)
        async with LocalRegistry() as registry:
            image = await build_tool_image(PACKAGE, work / "layout", cache, compression="zstd", name="fetch")
            await registry.push(work / "layout", "fetch", NAME)
            size = sum(layer.size for layer in image.layers)
            print(f"{PACKAGE}: {len(image.layers)} layers, {size / MIB:.0f} MiB")
            fine = [await part(registry.host, work, runs) for part in (local, slow, cut)]
    return all(fine)


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".pytest_cache/images"), help="built layers")
    arguments = parser.parse_args()
    sys.exit(0 if asyncio.run(run(arguments.runs, arguments.cache.absolute())) else 1)


if __name__ == "__main__":
    main()
