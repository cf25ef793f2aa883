"""Layers fetched as several ranges at once: which, in what order, and when servers do not play along."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import anyio
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.assembly.fetch import FetchReport, fetch_layers
from aioruntime.assembly.ranges import SEGMENT, in_segments, segments_of
from aioruntime.demo.registry import LocalRegistry
from aioruntime.errors import DigestMismatch, RegistryError
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from tests.support.layouts import write_layout
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Fault, Reply, Request, ScriptedServer
from tests.support.served_image import make_image, ranged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from aioruntime.store.store import ImageStore

MIB = 2**20
DATA = os.urandom(9 * MIB + 77)
LAYER = LayerSpec(ImageDigest.of(DATA), len(DATA), "x")
PATH = f"/v2/org/tool/blobs/{LAYER.digest}"


class Recorder:
    """Notes what it is told of progress."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        assert current is not None
        assert total is not None
        self.steps.append((current, total))

    def finish(self, message: str) -> None:
        pass

    def pause(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A registry on loopback that answers what the test tells it to."""
    async with ScriptedServer() as running:
        yield running


async def fetch(
    store: ImageStore,
    host: str,
    layers: Sequence[LayerSpec] = (LAYER,),
    *,
    progress: Recorder | None = None,
    connections: int = 16,
    stall_timeout: float = 60.0,
    retry_budget: float = 120.0,
) -> FetchReport:
    async with RegistryClient(stall_timeout=stall_timeout, retry_budget=retry_budget) as client:
        return await fetch_layers(
            layers,
            image=OciRef.parse(f"{host}/org/tool:1"),
            source=client,
            store=store,
            progress=progress or Recorder(),
            connections=anyio.CapacityLimiter(connections),
        )


@pytest.mark.parametrize(
    ("rest", "expected"), [(0, False), (2 * SEGMENT, False), (2 * SEGMENT + 1, True), (40 * SEGMENT, True)]
)
def test_which_layers(rest: int, expected: bool) -> None:
    """Layers are parted, but for small ones."""
    assert in_segments(rest) is expected


@given(st.integers(0, 5 * SEGMENT), st.integers(0, 20 * SEGMENT))
def test_which_segments(offset: int, rest: int) -> None:
    """Segments follow each other without gap or overlap, to the end, none larger than others."""
    at = offset
    for start, length in segments_of(offset, offset + rest):
        assert start == at
        assert 0 < length <= SEGMENT
        at += length

    assert at == offset + rest


@pytest.mark.parametrize("kept", [0, 1, 3 * MIB])
async def test_parted(store: ImageStore, server: ScriptedServer, kept: int) -> None:
    """A layer that runs alone comes as several ranges at once, counted to the byte, from what is kept on."""
    reached = Fault("stall", 10)

    def answer(request: Request) -> Reply:
        reply = ranged(request, DATA, {})
        if len(server.requests) == 1 and not kept:
            return Reply(reply.status, reply.headers, reply.body, faults=(reached,))
        if len(server.requests) == 4:
            reached.release.set()  # others are under way while the first waits
        return reply

    if kept:
        async with store.ingest(LAYER.digest, LAYER.size) as ingest:
            assert ingest is not None
            await ingest.write(DATA[:kept])
    server.on("GET", PATH, answer)
    progress = Recorder()
    report = await fetch(store, server.origin, progress=progress)

    assert report.downloaded_bytes == LAYER.size - kept
    assert report.fetched == (LAYER.digest,)
    assert await store.read(LAYER.digest) == DATA
    asked = sorted(int(str(request.header("Range"))[6:].split("-")[0]) for request in server.requests)
    assert asked == [start for start, _ in segments_of(kept, LAYER.size)]
    assert progress.steps[-1] == (LAYER.size, LAYER.size)
    assert [step for step, _ in progress.steps] == sorted(step for step, _ in progress.steps)


async def test_no_ranges(store: ImageStore, server: ScriptedServer) -> None:
    """Of a server without ranges, one stream is read, and nothing else is asked."""
    server.on("GET", PATH, Reply(body=DATA))
    report = await fetch(store, server.origin)

    assert report.downloaded_bytes == LAYER.size
    assert len(server.requests) == 1
    assert await store.read(LAYER.digest) == DATA


async def test_ranges_end(store: ImageStore, server: ScriptedServer) -> None:
    """Where some servers behind a name know no ranges, the rest comes as one stream."""

    def answer(request: Request) -> Reply:
        return ranged(request, DATA, {}) if len(server.requests) <= 2 else Reply(body=DATA)

    server.on("GET", PATH, answer)
    progress = Recorder()
    await fetch(store, server.origin, progress=progress)

    assert await store.read(LAYER.digest) == DATA
    assert progress.steps[-1] == (LAYER.size, LAYER.size)


async def test_ranges_end_while_others_wait(
    store: ImageStore, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a range is refused while more of them, and other layers, wait for room, all of them arrive."""
    monkeypatch.setattr("aioruntime.assembly.download.SEGMENTS_KEPT", 2)
    other = os.urandom(len(DATA))
    layers = [LAYER, LayerSpec(ImageDigest.of(other), len(other), "x")]
    server.on("GET", PATH, lambda request: ranged(request, DATA, {}), Reply(body=DATA))
    path = f"/v2/org/tool/blobs/{layers[1].digest}"
    server.on("GET", path, lambda request: ranged(request, other, {}))
    progress = Recorder()
    with anyio.fail_after(60):
        await fetch(store, server.origin, layers, progress=progress)

    assert await store.read(LAYER.digest) == DATA
    assert await store.read(layers[1].digest) == other
    assert progress.steps[-1] == (2 * LAYER.size, 2 * LAYER.size)


@pytest.mark.parametrize("after", [0, 1, SEGMENT // 2, SEGMENT - 1])
async def test_ranges_end_within_a_segment(store: ImageStore, server: ScriptedServer, after: int) -> None:
    """A range that breaks off and can't be gone on with comes out of the whole that is sent instead."""
    cut: list[Request] = []

    def answer(request: Request) -> Reply:
        asked = str(request.header("Range"))
        if cut and asked == f"bytes={SEGMENT + after}-{2 * SEGMENT - 1}":
            return Reply(body=DATA)
        reply = ranged(request, DATA, {})
        if not asked.startswith(f"bytes={SEGMENT}-"):
            return reply
        cut.append(request)
        return Reply(reply.status, reply.headers, reply.body, faults=(Fault("cut", after),))

    server.on("GET", PATH, answer)
    report = await fetch(store, server.origin)

    assert await store.read(LAYER.digest) == DATA
    assert report.downloaded_bytes == LAYER.size + SEGMENT + after


async def test_wrong_together_right_alone(store: ImageStore, server: ScriptedServer) -> None:
    """THREATS R14: several answers that are not the layer together are thrown away, and one asked for."""
    evil = bytes(len(DATA))

    def answer(request: Request) -> Reply:
        odd = str(request.header("Range")).startswith(f"bytes={SEGMENT}-")
        return ranged(request, evil if odd else DATA, {})

    server.on("GET", PATH, answer)
    progress = Recorder()
    report = await fetch(store, server.origin, progress=progress)

    assert await store.read(LAYER.digest) == DATA
    assert report.downloaded_bytes == 2 * LAYER.size
    assert server.requests[-1].header("Range") is None
    assert progress.steps[-1] == (LAYER.size, LAYER.size)


async def test_wrong_bytes(store: ImageStore, server: ScriptedServer) -> None:
    """THREATS R14: right size and wrong bytes are refused with the host, and leave nothing behind."""
    server.on("GET", PATH, lambda request: ranged(request, bytes(len(DATA)), {}))
    with pytest.raises(DigestMismatch, match=server.origin):
        await fetch(store, server.origin)

    assert not await store.has(LAYER.digest, LAYER.size)
    assert list((store.path / "ingest").iterdir()) == []


@pytest.mark.parametrize("came", [0, 1, SEGMENT - 1])
async def test_what_came_is_kept(store: ImageStore, server: ScriptedServer, came: int) -> None:
    """THREATS R17: when a range can't be had, all that came of it and before is kept for the next pull."""
    start = segments_of(0, LAYER.size)[3][0]
    bad = start + came

    def cut(request: Request) -> Reply:
        reply = ranged(request, DATA, {})
        return Reply(reply.status, reply.headers, reply.body, faults=(Fault("cut", came),))

    end = start + SEGMENT - 1
    if came:
        server.on("GET", PATH, cut, requires={"Range": f"bytes={start}-{end}"}, times=1)
    lost = server.on("GET", PATH, Reply(404), requires={"Range": f"bytes={bad}-{end}"}, times=1)
    server.on("GET", PATH, lambda request: ranged(request, DATA, {}))
    before = snapshot()
    with pytest.raises(RegistryError, match="not found"):
        await fetch(store, server.origin)
    assert len(lost.hits) == 1
    await assert_settles(before)
    report = await fetch(store, server.origin)

    assert report.downloaded_bytes == LAYER.size - bad
    assert await store.read(LAYER.digest) == DATA


def cutting(
    data: bytes, chance: random.Random, cuts: int, most: int, sent: list[int]
) -> Callable[[Request], Reply]:
    """Serve ranges of *data*, the first *cuts* answers cut off at random."""
    left = [cuts]

    def answer(request: Request) -> Reply:
        reply = ranged(request, data, {})
        if not left[0]:
            sent.append(len(reply.body))
            return reply
        left[0] -= 1
        after = min(chance.randint(1, most), len(reply.body))
        sent.append(after)
        return Reply(reply.status, reply.headers, reply.body, faults=(Fault("cut", after),))

    return answer


@pytest.mark.parametrize(
    ("size", "cuts"),
    [(24 * MIB, 30), pytest.param(256 * MIB, 300, marks=pytest.mark.slow)],
    ids=["CI", "full"],
)
async def test_random_cuts(store: ImageStore, server: ScriptedServer, size: int, cuts: int) -> None:
    """THREATS R14, T12: ranges cut at random places arrive whole, with at most 1.05 times the bytes."""
    data = b"".join(random.Random(number).randbytes(MIB) for number in range(size // MIB))
    layer = LayerSpec(ImageDigest.of(data), size, "x")
    sent: list[int] = []
    server.on(
        "GET", f"/v2/org/tool/blobs/{layer.digest}", cutting(data, random.Random(2), cuts, SEGMENT, sent)
    )
    report = await fetch(store, server.origin, [layer])

    assert await store.has(layer.digest, size)
    assert sum(sent) <= 1.05 * size
    assert size <= report.downloaded_bytes <= 1.05 * size


async def test_memory_is_bounded(store: ImageStore, server: ScriptedServer) -> None:
    """While the first ranges of all layers wait, no more than 48 MiB of others are asked for."""
    layers = []
    held = Fault("stall", 10)
    asked = 0

    def serve(data: bytes) -> Callable[[Request], Reply]:
        def answer(request: Request) -> Reply:
            nonlocal asked
            reply = ranged(request, data, {})
            if str(request.header("Range")).startswith("bytes=0-"):
                return Reply(reply.status, reply.headers, reply.body, faults=(held,))
            asked += len(reply.body)
            return reply

        return answer

    for number in range(2):
        data = random.Random(number).randbytes(40 * MIB)
        layers.append(LayerSpec(ImageDigest.of(data), len(data), "x"))
        server.on("GET", f"/v2/org/tool/blobs/{layers[-1].digest}", serve(data))
    async with anyio.create_task_group() as group:
        group.start_soon(fetch, store, server.origin, layers)
        with anyio.fail_after(60):
            while asked < 48 * MIB:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await anyio.sleep(0.2)  # that nothing more comes can only be seen by waiting
        assert asked == 48 * MIB
        held.release.set()

    assert await store.missing(layers) == []


def registry_process() -> psutil.Process:
    """Find the docker-registry that this test has started."""
    return next(p for p in psutil.Process().children(recursive=True) if p.name() == "docker-registry")


async def test_a_registry_that_is_stopped(store: ImageStore, tmp_path: Path) -> None:
    """THREATS R17, T13: a registry stopped for 5 s is waited for; if it stays so, that is told."""
    async with LocalRegistry(tmp_path / "storage") as registry:
        await put(registry, tmp_path)
        process = registry_process()
        process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(RegistryError, match=registry.host):
                await fetch(store, registry.host, stall_timeout=0.5, retry_budget=2.0)
            assert time.monotonic() - started <= 20  # 2.5 s and what a busy machine takes

            async with anyio.create_task_group() as group:
                group.start_soon(continue_after, process, 5.0)
                started = time.monotonic()
                await fetch(store, registry.host, stall_timeout=2.0)
                assert time.monotonic() - started >= 4
        finally:
            process.send_signal(signal.SIGCONT)

    assert await store.read(LAYER.digest) == DATA


async def test_a_registry_stopped_in_the_middle(store: ImageStore, tmp_path: Path) -> None:
    """THREATS R17, T13: what came before a registry was stopped for ever is not fetched again."""
    async with LocalRegistry(tmp_path / "storage") as registry:
        await put(registry, tmp_path)
        process = registry_process()
        progress = Recorder()

        def stop_at_half(message: str, current: int | None = None, total: int | None = None) -> None:
            if current and total and current > total // 2 and not stopped:
                stopped.append(True)
                process.send_signal(signal.SIGSTOP)

        stopped: list[bool] = []
        progress.update = stop_at_half  # type: ignore[method-assign]
        try:
            with pytest.raises(RegistryError, match=registry.host):
                await fetch(
                    store,
                    registry.host,
                    progress=progress,
                    stall_timeout=0.5,
                    retry_budget=1.0,
                    connections=1,
                )
        finally:
            process.send_signal(signal.SIGCONT)
        report = await fetch(store, registry.host)

    assert 0 < report.downloaded_bytes < LAYER.size
    assert await store.read(LAYER.digest) == DATA


async def continue_after(process: psutil.Process, seconds: float) -> None:
    await anyio.sleep(seconds)  # how long it is stopped is what is tested
    process.send_signal(signal.SIGCONT)


async def put(registry: LocalRegistry, work: Path) -> None:

    write_layout(work / "layout", make_image("org/tool", "1", [DATA]))
    await registry.push(work / "layout", "tool", "org/tool:1")
