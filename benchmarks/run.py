"""Run ``true`` in a container: ours beside aiodocker's four calls, and beside ``docker run --rm``.

``python -m benchmarks.run`` starts its own engines as the tests do. The three take turns,
one container after the other and then many at once; what counts is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import aiodocker

import aioruntime as ar
from tests.support import engines
from tests.support.rootfs import import_image, program_tar

if TYPE_CHECKING:
    from aioruntime.runtime.engine_runtime import EngineRuntime

LIMITS = {"aiodocker": 1.05, "docker run --rm": 0.9}
# Debian's, as its Docker 20.10 is, and not whatever comes first on the PATH.
_PROGRAM = "/usr/bin/docker"
Once: TypeAlias = Callable[[], Awaitable[None]]


def ours(runtime: EngineRuntime, image: str) -> Once:
    """Run it by `run`, with its output captured."""
    spec = ar.RunSpec(image, ["true"], capture_output=True)

    async def once() -> None:
        assert (await runtime.run(spec)).exit_code == 0

    return once


def by_aiodocker(docker: aiodocker.Docker, image: str) -> Once:
    """Create, start, wait for and delete it; its output is not read."""

    async def once() -> None:
        container = await docker.containers.create({"Image": image, "Cmd": ["true"]})
        await container.start()
        assert (await container.wait())["StatusCode"] == 0
        await container.delete()

    return once


def by_program(engine: engines.Engine, image: str) -> Once:
    """Run it by Docker's own program."""

    async def once() -> None:
        call = (_PROGRAM, "-H", engine.url, "run", "--rm", image, "true")
        child = await asyncio.create_subprocess_exec(*call, env={"PATH": os.environ["PATH"], "HOME": "/"})
        assert await child.wait() == 0

    return once


async def seconds(once: Once, at_once: int, rounds: int) -> float:
    """Return the seconds that a container takes, *at_once* at a time."""
    started = time.perf_counter()
    for _ in range(rounds):
        await asyncio.gather(*(once() for _ in range(at_once)))
    return (time.perf_counter() - started) / rounds / at_once


async def measure(flavor: str, engine: engines.Engine, runs: int, many: int, work: Path) -> bool:
    """Print one engine's figures; return whether the ratios are within their limits."""
    image = import_image(engine, "true", program_tar("true"))
    fine = True
    async with (
        ar.connect(engine.url, store=work / flavor) as runtime,
        aiodocker.Docker(url=engine.url) as docker,
    ):
        ways = {"aiodocker": by_aiodocker(docker, image), "ours": ours(runtime, image)}
        if runtime.kind == "docker":
            ways["docker run --rm"] = by_program(engine, image)
        for once in ways.values():
            await once()
        for at_once, turns in ((1, runs), (many, max(runs // 8, 3))):
            taken: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(turns):
                # Each goes first as often as the others.
                for place in range(len(ways)):
                    way = list(ways)[(turn + place) % len(ways)]
                    taken[way].append(await seconds(ways[way], at_once, 3 if at_once == 1 else 1))
            medians = {way: statistics.median(values) for way, values in taken.items()}
            for way, limit in LIMITS.items():
                if way in medians:
                    ratio = medians["ours"] / medians[way]
                    fine = fine and ratio <= limit
                    print(
                        f"{flavor:23} {at_once:3} at once: ours {medians['ours'] * 1000:6.1f} ms, "
                        f"{way} {medians[way] * 1000:6.1f} ms, ratio {ratio:.2f} (limit {limit})",
                        flush=True,
                    )
    return fine


async def run(flavors: list[str], runs: int, many: int) -> bool:
    """Measure the engines one after the other; return whether all are within the limits."""
    fine = True
    with tempfile.TemporaryDirectory(prefix="aioruntime-run-", dir="/dev/shm") as name:
        for flavor in flavors:
            with engines.start(engines.FLAVORS[flavor]) as engine:
                fine = await measure(flavor, engine, runs, many, Path(name)) and fine
    return fine


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=24, help="turns (default: %(default)s)")
    parser.add_argument("--many", type=int, default=32, help="containers at once (default: %(default)s)")
    parser.add_argument("flavors", nargs="*", help=f"of {', '.join(engines.FLAVORS)}; all if none is named")
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(run(given.flavors or list(engines.FLAVORS), given.runs, given.many)) else 1)


if __name__ == "__main__":
    main()
