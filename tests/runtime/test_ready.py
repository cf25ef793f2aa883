"""Waiting until a container is ready, on each generation of engine."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from tests.runtime.conftest import script
from tests.support.rootfs import import_image, program_tar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


async def test_healthy(runtime: EngineRuntime, shell: str) -> None:
    """`wait_healthy` returns once the check passes, not before; also where nothing runs Podman's checks."""
    text = "sleep 0.7; echo yes > /tmp/well; sleep 600"
    check = ar.HealthCheck("cat /tmp/well", interval=0.5, retries=30)
    began = asyncio.get_running_loop().time()
    async with runtime.start(
        script(shell, text, health_check=check, mounts=[ar.TmpfsMount("/tmp")])
    ) as container:
        await container.wait_healthy()
        assert (await container.run(["cat", "/tmp/well"])).stdout == b"yes\n"
    assert asyncio.get_running_loop().time() - began > 0.7


async def test_unhealthy(runtime: EngineRuntime, shell: str) -> None:
    """A container whose check fails as often as it may is told at once, with what the check said."""
    check = ar.HealthCheck("echo sick; exit 1", interval=0.2, retries=3)
    async with runtime.start(script(shell, "sleep 600", health_check=check)) as container:
        with pytest.raises(ar.RunError, match=r"unhealthy.*sick"):
            await container.wait_healthy()


async def test_no_health_check(runtime: EngineRuntime, shell: str) -> None:
    """Without a health check there is nothing to wait for: that is told at once, with the remedy."""
    async with runtime.start(script(shell, "sleep 600")) as container:
        with pytest.raises(ar.RunError, match=r"RunSpec\(health_check="):
            await container.wait_healthy()


async def test_it_ends_before(runtime: EngineRuntime, shell: str) -> None:
    """A container that ends is not waited for any more, whatever it is waited for."""
    check = ar.HealthCheck("exit 1", interval=60)
    spec = script(shell, "exit 4", health_check=check, ports=[8080])
    async with runtime.start(spec) as container:
        with pytest.raises(ar.RunError, match="ended with exit code 4"):
            await container.wait_healthy()
        with pytest.raises(ar.RunError, match="ended with exit code 4"):
            await container.wait_for_port(8080)
        with pytest.raises(ar.RunError, match="has ended"):
            await container.wait_for_log("never")


async def test_not_in_time(runtime: EngineRuntime, shell: str) -> None:
    """What does not come in time is a TimeoutError that names what was waited for; the container goes on."""
    async with runtime.start(script(shell, "sleep 600", ports=[8080])) as container:
        with pytest.raises(TimeoutError, match=r"no line matched 'never' within 0.5 s"):
            await container.wait_for_log("never", timeout=0.5)
        with pytest.raises(ar.RunTimeout, match=r"nothing listened on port 8080 within 1 s"):
            await container.wait_for_port(8080, timeout=1)
        assert (await container.inspect()).running


async def test_what_can_not_be_waited_for(runtime: EngineRuntime, shell: str) -> None:
    """A port, an expression or a time that is none is told at once."""
    async with runtime.start(script(shell, "sleep 600")) as container:
        ports: list[Any] = ["80", 0, 99999, None, True]
        for port in ports:
            with pytest.raises(ar.InvalidSpec, match=f"port {port!r} is not from 1 to 65535"):
                await container.wait_for_port(port)
        patterns: list[Any] = ["(", b"x", re.compile(b"x"), None]
        for pattern in patterns:
            with pytest.raises(ar.InvalidSpec, match=r"pattern .* is not a regular expression: "):
                await container.wait_for_log(pattern)
        wrong: Any = "5"
        with pytest.raises(ar.InvalidSpec, match="timeout '5' is not a number of seconds"):
            await container.wait_healthy(timeout=wrong)


async def test_a_line_of_its_log(runtime: EngineRuntime, shell: str) -> None:
    """`wait_for_log` finds the first line that matches, also one of before, and takes none of the output."""
    text = "echo starting; echo ready on port 99 >&2; head -c 3000000 /dev/zero; sleep 600"
    async with runtime.start(script(shell, text)) as container:
        line = await container.wait_for_log(r"port (\d+)")
        assert line == ar.Line("stderr", "ready on port 99")
        assert await container.wait_for_log("^starting$") == ar.Line("stdout", "starting")


LISTENER = """
socket(my $s, 2, 1, 0); bind($s, pack("S n N x8", 2, 8080, 0)) or die; listen($s, 5) or die;
print STDERR "listening\\n"; sleep 600
"""


@pytest.fixture
def perl(engine: Engine) -> str:
    """An image with a program that can listen, and one without anything else."""
    return import_image(engine, "listener", program_tar("perl", "cat", "sh", "sleep"))


async def test_a_port(runtime: EngineRuntime, perl: str) -> None:
    """`wait_for_port` returns once something in the container listens, not before, published or not."""
    spec = script(perl, f"sleep 1; exec perl -e '{LISTENER}'", ports=[8080])
    async with runtime.start(spec) as container:
        with pytest.raises(ar.RunTimeout):
            await container.wait_for_port(8080, timeout=0.3)
        await container.wait_for_port(8080)
        assert [line.text async for line in first(container.lines())] == ["listening"]
        [(host, port)] = (await container.ports())["8080/tcp"]
        assert (host, port > 0) == ("127.0.0.1", True)
    async with runtime.start(ar.RunSpec(perl, ["perl", "-e", LISTENER])) as container:
        await container.wait_for_port(8080)


async def test_nothing_to_look_with(engine: Engine, runtime: EngineRuntime) -> None:
    """Without a program to look with, a port that is not published can't be waited for: told at once."""
    bare = import_image(engine, "bare", program_tar("sleep"))
    async with runtime.start(ar.RunSpec(bare, ["sleep", "600"])) as container:
        with pytest.raises(ar.RunError, match=r"no program `cat`.*RunSpec\(ports=\[8080\]\)"):
            await container.wait_for_port(8080)


async def test_an_engine_that_goes_is_no_missing_program(
    runtime: EngineRuntime, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that goes away while a port is waited for is told as that."""

    @asynccontextmanager
    async def cut(*_: object) -> AsyncIterator[None]:
        raise ar.StreamTruncated("the engine closed the connection")
        yield

    async with runtime.start(script(shell, "sleep 600")) as container:
        monkeypatch.setattr(ar.Container, "exec", cut)
        with pytest.raises(ar.StreamTruncated):
            await container.wait_for_port(8080)


async def first(lines: AsyncIterator[ar.Line]) -> AsyncIterator[ar.Line]:
    yield await anext(lines)
