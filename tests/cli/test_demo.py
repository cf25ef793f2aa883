"""`aioruntime demo` as a whole: a registry, images from Debian packages, an engine, and nothing left."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.child import Ended, started
from tests.engine.embedded import surroundings
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engine.embedded import Surroundings
    from tests.support.engines import Engine

SECONDS = 150
_HAS_ENGINE = any(Path(p).exists() for p in ("/var/run/docker.sock", "/run/podman/podman.sock"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS + 30),
    pytest.mark.skipif(
        not any(Path("/var/lib/apt/lists").glob("*_Packages*")), reason="apt has no package lists"
    ),
]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    with surroundings(monkeypatch) as made:
        yield made


async def demo() -> Ended:
    async with started("demo") as process:
        stdout, stderr = await asyncio.wait_for(process.communicate(), SECONDS)
        assert process.returncode is not None
        return Ended(process.returncode, stdout.decode(), stderr.decode())


def assert_shown(found: Ended, engine: str) -> None:
    """It printed the tools' versions and how much was shared: all but one layer, and then all of them."""
    assert found.status == 0, found.stderr
    assert re.findall(r"^(?:samtools|bcftools) \S+$", found.stdout, re.M) == [
        "samtools 1.16.1",
        "bcftools 1.16",
        "samtools 1.16.1",
    ]
    pulled = re.findall(
        r"^pulled +(\w+): (\d+) of (\d+) layers were already here; (\d+) blobs, ([0-9.]+) MiB",
        found.stdout,
        re.M,
    )
    assert [line[:3] for line in pulled] == [
        ("samtools", "0", "56"),
        ("bcftools", "54", "55"),
        ("samtools", "56", "56"),
    ]
    # Its layers and its config; only what differs; nothing.
    assert [int(line[3]) for line in pulled] == [57, 2, 0]
    first, second, third = (float(line[4]) for line in pulled)
    assert first > 10 * second > 100 * third
    assert engine in found.stdout
    assert "Traceback" not in found.stderr


@pytest.mark.skipif(shutil.which("podman") is None, reason="apt-get install podman")
@pytest.mark.skipif(_HAS_ENGINE, reason="this machine has an engine of its own")
async def test_with_the_embedded_default(machine: Surroundings) -> None:
    """Where no engine runs, it brings its own, and leaves no process, mount, container, image or file."""
    found = await demo()

    assert_shown(found, "private podman service")
    assert machine.left() == []


async def test_with_docker(
    machine: Surroundings, docker_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DOCKER_HOST it uses that engine, and leaves in it what was there before."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    before = held(docker_engine)

    found = await demo()

    assert_shown(found, f"DOCKER_HOST, {docker_engine.url}")
    assert held(docker_engine) == before
    assert machine.left() == []


def held(engine: Engine) -> list[bytes]:
    """The engine's images and containers, as it lists them."""
    return [ask(engine.socket, "GET", path)[1] for path in ("/images/json?all=1", "/containers/json?all=1")]
