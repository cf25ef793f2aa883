"""Pull an image of 2 GiB into each engine: how much our memory grows, and how long the loop stalls.

``python -m benchmarks.memory`` makes the image, and starts its own registry and engines as the tests do.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import shutil
import sys
import tarfile
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aioruntime as ar
from aioruntime.demo.blobs import CHUNK, Compression, Layer, LayerWriter
from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import write_image
from aioruntime.demo.registry import LocalRegistry
from aioruntime.tasks import in_thread
from benchmarks.meters import Stall, loop_stall, resident_memory
from tests.support import engines
from tests.support.tools import remove_images, tiny_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.assembly.plan import Layering

STALL_LIMIT = 0.050
GROWTH_LIMIT = 64 * 2**20
LAYERS = 3
_BLOCKS = 64
_IDLE = """
import asyncio, sys
from benchmarks.meters import loop_stall
async def main():
    async with loop_stall() as stall:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    print(stall.longest)
asyncio.run(main())
"""
_LAYERINGS: tuple[Layering, ...] = ("keep", "merge")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one pull took: seconds, seconds of the longest stall, bytes of growth.

    `idle` is the longest stall of a process beside ours that did nothing: what the machine itself does.
    """

    seconds: float
    stall: float
    idle: float
    growth: int

    @property
    def fine(self) -> bool:
        """Whether they are within the limits."""
        return self.stall < STALL_LIMIT and self.growth < GROWTH_LIMIT


class _Blocks(io.RawIOBase):
    """A file of random blocks, which come again too late for a compressor to notice."""

    def __init__(self, seed: int) -> None:
        self._blocks = [random.Random(f"{seed} {number}").randbytes(CHUNK) for number in range(_BLOCKS)]
        self._next = 0

    def read(self, size: int = -1) -> bytes:
        block = self._blocks[self._next % _BLOCKS]
        self._next += 1
        return block[:size]


def write_large_image(layout: Path, name: str, size: int, compression: Compression) -> None:
    """Write an image of a shell and *size* bytes in files, one a layer."""
    layers = [
        large_layer(layout.with_suffix(f".{number}"), number, size // LAYERS, compression)
        for number in range(LAYERS)
    ]
    config = ImageConfig(env=("PATH=/bin",))
    write_image(layout, name, [tiny_files(), *layers], config, compression=compression)


def large_layer(path: Path, number: int, size: int, compression: Compression) -> Layer:
    """Write a layer of one incompressible file of *size* bytes to *path*; *number* is its seed."""
    with path.open("wb") as out:
        writer = LayerWriter(out, compression)
        with writer.open_tar() as tar:
            member = tarfile.TarInfo(f"data/{number}")
            member.size = size // CHUNK * CHUNK
            tar.copybufsize = CHUNK  # type: ignore[attr-defined]
            tar.addfile(member, _Blocks(number))
        return writer.finish(path)


@asynccontextmanager
async def idle_process() -> AsyncIterator[Stall]:
    """Watch the loop of another process, which does nothing else, for the time of the context."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _IDLE), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    stall = Stall()
    try:
        yield stall
    finally:
        told, _ = await process.communicate(b"")
        stall.longest = float(told)


async def measure(url: str, reference: str, store: Path, layering: Layering) -> Figures:
    """Pull into an engine that lacks the image, with an empty store; see that it runs; remove it all."""
    async with ar.connect(url, store=store) as runtime:
        with resident_memory() as memory:
            async with idle_process() as idle, loop_stall() as stall:
                started = time.perf_counter()
                await runtime.pull(reference, layering=layering)
                seconds = time.perf_counter() - started
        spec = ar.RunSpec(ar.OciRef.parse(reference), ["ls", "/data"], capture_output=True)
        listed = (await runtime.run(spec)).stdout.split()
        assert len(listed) == LAYERS
        await remove_images(runtime)
    await in_thread(shutil.rmtree, store)
    return Figures(seconds, stall.longest, idle.longest, memory.growth)


async def run(flavors: list[str], compression: Compression, size: int) -> bool:
    """Measure the engines one after the other; return whether all are within the limits."""
    fine = True
    with tempfile.TemporaryDirectory(prefix="aioruntime-memory-", dir="/var/tmp") as name:
        work = Path(name)
        await in_thread(write_large_image, work / "layout", "large", size, compression)
        async with LocalRegistry(work / "registry") as registry:
            reference = await registry.push(work / "layout", "large", "large:1")
            await in_thread(shutil.rmtree, work / "layout")
            for flavor in flavors:
                for layering in _LAYERINGS:
                    with engines.start(engines.FLAVORS[flavor]) as engine:
                        found = await measure(engine.url, reference, work / "store", layering)
                    report(flavor, layering, found)
                    fine = found.fine and fine
    return fine


def report(flavor: str, layering: Layering, found: Figures) -> None:
    """Print the figures of one pull."""
    print(
        f"{flavor:23} {layering:5} {found.seconds:6.1f} s, memory grew by {found.growth / 2**20:5.1f} MiB "
        f"(limit {GROWTH_LIMIT / 2**20:.0f}), longest stall {found.stall * 1000:5.1f} ms "
        f"(limit {STALL_LIMIT * 1000:.0f}; an idle process {found.idle * 1000:.1f})"
        f"{'' if found.fine else '  <-- beyond the limit'}",
        flush=True,
    )


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compression", choices=["gzip", "zstd", "none"], default="gzip")
    parser.add_argument("--mib", type=int, default=2048, help="size of the image")
    parser.add_argument("flavors", nargs="*", help=f"of {', '.join(engines.FLAVORS)}; all if none is named")
    given = parser.parse_args()
    flavors = given.flavors or list(engines.FLAVORS)
    sys.exit(0 if asyncio.run(run(flavors, given.compression, given.mib << 20)) else 1)


if __name__ == "__main__":
    main()
