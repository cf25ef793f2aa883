"""Signals to the command line: it cleans up, and ends as shells expect."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.cli.child import command, ended, started
from tests.support import host
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine

SCRIPT = "echo started; sleep 60"


def containers(engine: Engine) -> bytes:
    return ask(engine.socket, "GET", "/containers/json?all=1")[1].strip()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_removes_the_container(
    where: tuple[str, ...], engine: Engine, registry: LocalRegistry, number: int, status: int
) -> None:
    """Interrupted while a container runs, `run` ends with 128 + the signal and leaves no container."""
    image = f"{registry.host}/tiny:1"
    assert (await command("pull", *where, image)).status == 0
    async with started("run", *where, image, "--", "sh", "-c", SCRIPT) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"started\n"
        assert containers(engine) != b"[]"
        process.send_signal(number)
        found = await ended(process)

    assert (found.status, found.stderr) == (status, "")
    assert host.poll(lambda: containers(engine) == b"[]", 10)


async def test_an_interrupted_pull_can_go_on(
    where: tuple[str, ...], engine: Engine, registry: LocalRegistry
) -> None:
    """Interrupted while it loads or fetches, `pull` ends with 130 and no traceback; the next one succeeds."""
    image = f"{registry.host}/samtools:gzip"
    async with started("pull", *where, image) as process:
        assert process.stderr is not None
        assert (await process.stderr.readline()).startswith((b"fetching ", b"loading "))
        process.send_signal(signal.SIGINT)
        found = await ended(process)

    assert (found.status, found.stdout) == (130, "")
    assert "Traceback" not in found.stderr
    again = await command("pull", *where, image)
    assert again.status == 0
    assert ar.ImageDigest(again.stdout.strip())


async def test_an_ignored_signal_stays_ignored(
    where: tuple[str, ...], engine: Engine, registry: LocalRegistry
) -> None:
    """Under `nohup`, or as a background job of a shell, a signal that was ignored does not end the run."""
    image = f"{registry.host}/tiny:1"
    assert (await command("pull", *where, image)).status == 0
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with started("run", *where, image, "--", "sh", "-c", "echo started; read -r x") as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"started\n"
            process.send_signal(signal.SIGHUP)
            found = await ended(process)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    assert found.status == 1  # what `read` gives without input
