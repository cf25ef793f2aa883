"""Runs that meet trouble, on each generation of engine: cuts, stuck readers, dead engines."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import re
import select
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import pytest

import aioruntime as ar
from aioruntime.runtime import run as run_module
from aioruntime.runtime import stream as stream_module
from aioruntime.runtime.start import Creation
from aioruntime.tasks import in_thread
from tests.runtime.conftest import containers
from tests.support import host
from tests.support.engines import FLAVORS
from tests.support.proxy import Fault, UnixProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

ATTACH = "POST .*/attach"
HEADER = 8
PAGE = 4096
DOCKERS = [name for name, flavor in FLAVORS.items() if flavor.kind == "docker"]


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


@pytest.fixture
async def image(runtime: EngineRuntime, registry: LocalRegistry) -> ar.OciRef:
    """A small image with a shell in the engine."""
    reference = ar.OciRef.parse(f"{registry.host}/tiny:1")
    await runtime.pull(reference)
    return reference


@asynccontextmanager
async def through_proxy(runtime: EngineRuntime, path: Path) -> AsyncIterator[tuple[EngineRuntime, UnixProxy]]:
    """A second runtime on the same engine and store whose connections can be cut."""
    socket = runtime._client.endpoint.socket
    assert socket is not None
    async with (
        UnixProxy(path / "s", Path(socket)) as proxy,
        type(runtime)(proxy.url, store=runtime.store) as other,
    ):
        yield other, proxy


async def test_a_creation_that_is_refused(runtime: EngineRuntime, image: ar.OciRef) -> None:
    """What the engine answers is its last word, whatever its status: nothing is waited for or recorded."""
    spec = ar.RunSpec(image, ["true"], mounts=[ar.Mount("/does/not/exist", "/x")])
    with pytest.raises(ar.RunError, match="/does/not/exist"):
        await runtime.run(spec)
    assert runtime._open.owner.claims == set()


def script(image: ar.OciRef, text: str, *, capture_output: bool = True) -> ar.RunSpec:
    return ar.RunSpec(image, ["sh", "-c", text], capture_output=capture_output)


# The connection that carries the output.


async def test_output_cut_between_frames_is_no_end(
    runtime: EngineRuntime, image: ar.OciRef, tmp_path: Path
) -> None:
    """Output cut between two frames while the container ran is `StreamTruncated`, not less output."""
    async with through_proxy(runtime, tmp_path) as (other, proxy):
        cut = proxy.add(Fault("cut", after=HEADER + len("one\n"), request=ATTACH))

        with pytest.raises(ar.StreamTruncated, match="tiny:1: the output was cut"):
            await other.run(script(image, "echo one; sleep 2; echo two"))

        assert cut.reached.is_set()
    assert await containers(runtime) == []


@pytest.mark.parametrize("every_engine", DOCKERS, indirect=True)
async def test_output_cut_shortly_before_the_end(
    runtime: EngineRuntime, image: ar.OciRef, tmp_path: Path
) -> None:
    """Docker knows at once whether a container has ended, so that a cut just before its end is told too."""
    async with through_proxy(runtime, tmp_path) as (other, proxy):
        proxy.add(Fault("cut", after=HEADER + len("one\n"), request=ATTACH))

        with pytest.raises(ar.StreamTruncated, match="tiny:1: the output was cut"):
            await other.run(script(image, "echo one; sleep 0.4; echo two"))


@pytest.mark.parametrize("closing", ["exec >&- 2>&-", "exec >&-", "exec >/dev/null 2>&1"])
async def test_a_program_may_close_its_streams(
    runtime: EngineRuntime, image: ar.OciRef, closing: str
) -> None:
    """A program that closes its own streams and goes on runs to its end; nothing counts as cut."""
    outcome = await runtime.run(script(image, f"echo one; {closing}; sleep 1; exit 3"))

    assert (outcome.exit_code, outcome.stdout) == (3, b"one\n")
    assert outcome.duration > 0.9


async def test_output_that_does_not_end(
    runtime: EngineRuntime, image: ar.OciRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that keeps the output open after the container's end, silent, is `StreamTruncated`."""
    monkeypatch.setattr(stream_module, "_DRAIN_SECONDS", 0.2)
    async with through_proxy(runtime, tmp_path) as (other, proxy):
        proxy.add(Fault("stall", after=HEADER + len("one\n"), request=ATTACH))

        with pytest.raises(ar.StreamTruncated, match="its output did not end"):
            await other.run(script(image, "echo one; sleep 0.2; echo two"))

    assert await containers(runtime) == []


# The streams that it is passed through to.


@contextmanager
def stdout_to_a_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make this process's standard output a pipe that holds one page; gives its end to read from."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PAGE)
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb"), monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        yield reading


def is_full(pipe: TextIO) -> bool:
    return select.select([], [pipe], [], 0)[1] == []


async def test_cancelled_while_nobody_reads(
    runtime: EngineRuntime, image: ar.OciRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while its output fills a pipe that nobody reads, `run` ends, and the container is gone."""
    spec = script(image, "head -c 1000000 /dev/zero; sleep 60", capture_output=False)
    with stdout_to_a_pipe(monkeypatch):
        task = asyncio.create_task(runtime.run(spec))
        assert await in_thread(host.poll, lambda: is_full(sys.stdout), 30)

        task.cancel()
        await asyncio.wait({task}, timeout=60)

        assert task.cancelled()
        assert await containers(runtime) == []


class Stuck(io.StringIO):
    """A stream whose first write does not return until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.release = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.release.wait(60)
        return super().write(text)


async def test_the_container_goes_before_a_stuck_writer(
    runtime: EngineRuntime, image: ar.OciRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled `run` removes its container although a stream that replaces ours never returns."""
    monkeypatch.setattr(sys, "stdout", stream := Stuck())
    task = asyncio.create_task(runtime.run(script(image, "echo one; sleep 60", capture_output=False)))
    try:
        assert await in_thread(stream.entered.wait, 30)
        task.cancel()
        async with asyncio.timeout(60):
            while await containers(runtime):
                pass
        assert not task.done()
    finally:
        stream.release.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_slow_reader_is_waited_for(
    runtime: EngineRuntime, image: ar.OciRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader may take longer than an engine may be silent; the run still succeeds, nothing lost."""

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(2)
            return super().write(text)

    monkeypatch.setattr(stream_module, "_DRAIN_SECONDS", 1)
    monkeypatch.setattr(sys, "stdout", stream := Slow())

    outcome = await runtime.run(script(image, "echo one", capture_output=False))

    assert (outcome.exit_code, stream.getvalue()) == (0, "one\n")


async def test_output_comes_in_order_with_our_own(
    runtime: EngineRuntime, image: ar.OciRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process printed before a run, and is still buffered, comes before the container's output."""
    with (tmp_path / "out").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        print("before")
        await runtime.run(script(image, "echo during; head -c 100000 /dev/zero", capture_output=False))
        print("after")

    assert (tmp_path / "out").read_bytes() == b"before\nduring\n" + bytes(100_000) + b"after\n"


def without_a_reader() -> io.TextIOWrapper:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    ("make", "reason"),
    [(without_a_reader, "Broken pipe"), (closed, "closed file"), (lambda: None, "it is closed")],
)
async def test_output_that_nobody_takes(
    runtime: EngineRuntime,
    image: ar.OciRef,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], io.TextIOBase | None],
    reason: str,
) -> None:
    """Where this process's stream takes no more, `RunError` names it and why, and no container is left."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream := make())
        with pytest.raises(ar.RunError, match=f"tiny:1: .* stdout: .*{reason}") as caught:
            await runtime.run(script(image, "while echo y; do :; done", capture_output=False))
    if stream is not None:
        stream.close()

    assert caught.value.container_id is not None
    assert await containers(runtime) == []


# The engine.


@pytest.mark.parametrize("own_engine", list(FLAVORS), indirect=True)
async def test_an_engine_that_dies(
    own_engine: Engine,
    registry: LocalRegistry,
    store: ar.ImageStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An engine killed in mid-run is told within seconds, and that the container may be left, by its name."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    async with ar.connect(own_engine.url, store=store) as runtime:
        await runtime.pull(image)
        with stdout_to_a_pipe(monkeypatch) as pipe:
            task = asyncio.create_task(runtime.run(script(image, "echo one; sleep 60", capture_output=False)))
            assert await in_thread(os.read, pipe, PAGE) == b"one\n"
            own_engine.kill()
            await asyncio.wait({task}, timeout=60)
        assert task.done()
        with pytest.raises(ar.EngineError) as caught:
            await task

    notes = getattr(caught.value, "__notes__", [])
    assert any(re.search("container aioruntime-[0-9a-f]+ could not be removed", note) for note in notes)
    assert "could not be removed" in caplog.text


async def test_an_engine_gone_before_the_creation(runtime: EngineRuntime, tmp_path: Path) -> None:
    """An engine that can't be reached when the container is to be created is `EngineUnavailable`."""
    async with through_proxy(runtime, tmp_path) as (other, proxy):
        await proxy.__aexit__(None, None, None)
        creation = Creation(ar.RunSpec("x"), "", dict, libpod=False)
        with pytest.raises(ar.EngineUnavailable):
            await run_module.run_container(other._client, other._open.owner, creation)
