"""Fetch and load python3-scipy, 120 layers, beside skopeo: loop stalls, memory and time.

``python -m benchmarks.bulk`` starts its own registry, and its own Docker and Podman as the tests do.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aioruntime as ar
from aioruntime.demo.images import BuiltImage, build_tool_image
from aioruntime.demo.registry import LocalRegistry
from aioruntime.tasks import in_thread
from benchmarks.meters import loop_stall, resident_memory
from tests.support.engines import Engine, start_docker, start_podman

if TYPE_CHECKING:
    from aioruntime.demo.blobs import Compression

STALL_LIMIT = 0.050
GROWTH_LIMIT = 100 * 2**20
PACKAGE = "python3-scipy"


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run measured: seconds, seconds of the longest stall, bytes of growth."""

    fetch: float
    whole: float
    stall: float
    growth: int
    skopeo: float


async def measure(engine: Engine, reference: str, work: Path) -> Figures:
    """Pull once with an empty store into an engine that lacks the image; then the same with skopeo."""
    store = work / "store"
    async with ar.connect(engine.url, store=store) as runtime:
        image = await runtime.resolve(reference)
        with resident_memory() as memory:
            async with loop_stall() as stall:
                started = time.perf_counter()
                await runtime.ensure_layers(image.layers, image=image.reference)
                fetched = time.perf_counter()
                await runtime.assemble_image(image.reference, image.layers)
                ended = time.perf_counter()
        await runtime.remove_image(image.reference)
    skopeo = await in_thread(copy_with_skopeo, reference, work / "copy")
    await in_thread(shutil.rmtree, store)
    return Figures(fetched - started, ended - started, stall.longest, memory.growth, skopeo)


def copy_with_skopeo(reference: str, target: Path) -> float:
    """Copy all blobs to a directory and return the seconds that it took."""
    started = time.perf_counter()
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{reference}", f"dir:{target}"],
        check=True,
    )
    elapsed = time.perf_counter() - started
    shutil.rmtree(target)
    return elapsed


async def run(compression: Compression, runs: int, cache: Path) -> bool:
    """Measure both engines and print the figures; return whether they are within the limits."""
    fine = True
    with tempfile.TemporaryDirectory(prefix="aioruntime-bulk-") as name, ExitStack() as stack:
        work = Path(name)
        async with LocalRegistry() as registry:
            image = await build_tool_image(
                PACKAGE, work / "layout", cache, compression=compression, name="bulk"
            )
            reference = await registry.push(work / "layout", "bulk", "scipy:1")
            describe(image, compression)
            for start in (start_docker, start_podman):
                engine = stack.enter_context(start())
                figures = [await measure(engine, reference, work) for _ in range(runs)]
                fine = report(engine.kind, figures) and fine
    return fine


def describe(image: BuiltImage, compression: str) -> None:
    """Print what is measured."""
    size = sum(layer.size for layer in image.layers)
    print(f"{PACKAGE}: {len(image.layers)} layers, {compression}, {size / 2**20:.0f} MiB")


def report(kind: str, runs: list[Figures]) -> bool:
    """Print the figures of one engine; return whether the worst are within the limits."""
    stall = max(figures.stall for figures in runs)
    growth = max(figures.growth for figures in runs)
    fetch = statistics.median(figures.fetch for figures in runs)
    whole = statistics.median(figures.whole for figures in runs)
    skopeo = statistics.median(figures.skopeo for figures in runs)
    print(
        f"{kind:7} fetch {fetch:.2f} s, fetch and load {whole:.2f} s; "
        f"skopeo copy to a directory {skopeo:.2f} s, fetch / skopeo {fetch / skopeo:.2f}"
    )
    print(
        f"        longest stall {stall * 1000:.1f} ms (limit {STALL_LIMIT * 1000:.0f}), "
        f"memory grew by {growth / 2**20:.1f} MiB (limit {GROWTH_LIMIT / 2**20:.0f})"
    )
    return stall < STALL_LIMIT and growth < GROWTH_LIMIT


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compression", choices=["gzip", "zstd"], default="zstd")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(".pytest_cache/images"), help="built layers")
    arguments = parser.parse_args()
    sys.exit(0 if asyncio.run(run(arguments.compression, arguments.runs, arguments.cache.absolute())) else 1)


if __name__ == "__main__":
    main()
