"""Streams under load, on each generation of engine: much output to a slow reader, many at once."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.runtime.conftest import newer_in_full, script
from tests.support.memory import resident
from tests.support.rootfs import import_image, program_tar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]

MIB = 1 << 20
BLOCK = 4096
BLOCKS = 12_800  # on each stream: 100 MiB in all
PROGRAM = r"""
my ($size, $blocks) = @ARGV;
for my $n (1..$blocks) {
    for my $out (\*STDOUT, \*STDERR) {
        my $left = sprintf("%012d", $n) . "." x ($size - 12);
        while (length $left) { substr($left, 0, syswrite($out, $left)) = ""; }
    }
}
"""
FOLLOWED, INSPECTED = 64, 200


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


def expected() -> Iterator[bytes]:
    for number in range(1, BLOCKS + 1):
        yield b"%012d" % number + b"." * (BLOCK - 12)


@newer_in_full
async def test_a_hundred_megabytes_to_a_slow_reader(runtime: EngineRuntime, engine: Engine) -> None:
    """100 MiB of both streams in turn reach a reader that pauses: every byte, in order, in bounded memory.

    Neither stream is far ahead of the other: what came in is handed on as it came.
    """
    wanted = hashlib.sha256()
    for block in expected():
        wanted.update(block)
    image = import_image(engine, "perl", program_tar("perl"))
    digests = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
    sizes = {"stdout": 0, "stderr": 0}
    apart = grown = pauses = 0

    async with runtime.start(
        ar.RunSpec(image, ["/bin/perl", "-e", PROGRAM, str(BLOCK), str(BLOCKS)])
    ) as container:
        before = 0
        async for piece in container.output():
            digests[piece.stream].update(piece.data)
            sizes[piece.stream] += len(piece.data)
            apart = max(apart, abs(sizes["stdout"] - sizes["stderr"]))
            total = sum(sizes.values())
            if total > MIB:
                before = before or resident()
                grown = max(grown, resident() - before)
            if total // (4 * MIB) > pauses:
                pauses = total // (4 * MIB)
                await asyncio.sleep(0.1)
        assert (await container.wait()).exit_code == 0

    print(f"{engine.kind}: memory grew by {grown / MIB:.1f} MiB, streams were {apart / 1024:.0f} KiB apart")
    assert sizes == dict.fromkeys(sizes, BLOCKS * BLOCK)
    assert {digest.digest() for digest in digests.values()} == {wanted.digest()}
    assert pauses >= 24
    assert grown < 16 * MIB
    assert apart < 4 * MIB


@newer_in_full
async def test_control_beside_followed_streams(runtime: EngineRuntime, shell: str) -> None:
    """With 64 containers followed at once, 200 inspections are made, and none waits for a stream."""
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(16)
    heard = dict.fromkeys(range(FOLLOWED), 0)
    times: list[float] = []

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:

        async def begin() -> ar.Container:
            async with slots:
                context = runtime.start(script(shell, "echo here; cat", stdin=True))
                container = await context.__aenter__()
            stack.push_async_exit(context)
            return container

        async def follow(number: int, container: ar.Container) -> None:
            async for piece in container.output():
                heard[number] += len(piece.data)

        async def inspect(container: ar.Container) -> None:
            async with slots:
                began = loop.time()
                assert (await container.inspect()).running
                times.append(loop.time() - began)

        found = await asyncio.gather(*(begin() for _ in range(FOLLOWED)))
        followers = [group.create_task(follow(n, container)) for n, container in enumerate(found)]
        await asyncio.gather(*(inspect(found[n % FOLLOWED]) for n in range(INSPECTED)))
        assert not any(follower.done() for follower in followers)
        for container in found:
            await container.stdin.write(b"more\n")
            await container.stdin.close()
        await asyncio.gather(*followers)

    mean = sum(times) / len(times)
    print(f"{runtime.kind}: an inspection took {max(times):.2f} s at most, {mean:.3f} s on average")
    assert len(times) == INSPECTED
    assert max(times) < 5
    assert set(heard.values()) == {len("here\nmore\n")}
