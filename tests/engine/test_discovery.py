from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine.discovery import open_engine
from aioruntime.engine.install import install_command
from aioruntime.errors import EngineUnavailable
from tests.support.proxy import UnixProxy

if TYPE_CHECKING:
    from tests.support.engines import Engine


_HAS_ENGINE = any(Path(p).exists() for p in ("/var/run/docker.sock", "/run/podman/podman.sock"))


async def test_url_and_environment(engine: Engine, tmp_path: Path) -> None:
    """An engine is found by its address, given or in DOCKER_HOST, and its kind is seen."""
    async with open_engine(engine.url) as client:
        assert client.capabilities.kind == engine.kind
    async with open_engine(environ={"DOCKER_HOST": engine.url}, home=tmp_path) as client:
        assert client.endpoint.source == "DOCKER_HOST"


async def test_configured_address_must_answer(engine: Engine, tmp_path: Path) -> None:
    """A configured address that does not answer is an error, whatever else there is."""
    environ = {"DOCKER_HOST": f"unix://{tmp_path}/none", "CONTAINER_HOST": engine.url}
    with pytest.raises(EngineUnavailable, match="DOCKER_HOST"):
        async with open_engine(environ=environ, home=tmp_path):
            pass


async def test_socket_that_is_there(engine: Engine, tmp_path: Path) -> None:
    """A usual socket that answers is taken, by whichever path it is reached."""
    (tmp_path / "docker.sock").symlink_to(engine.socket)
    async with open_engine(environ={"XDG_RUNTIME_DIR": str(tmp_path)}, home=tmp_path) as client:
        assert client.endpoint.url == f"unix://{tmp_path}/docker.sock"


async def test_wrong_kind(docker_engine: Engine) -> None:
    """An address of the other kind of engine is told, not used."""
    with pytest.raises(EngineUnavailable, match="is docker, not podman"):
        async with open_engine(docker_engine.url, kind="podman"):
            pass


@pytest.mark.skipif(_HAS_ENGINE, reason="this machine has an engine of its own")
async def test_nothing_found(tmp_path: Path) -> None:
    """Where nothing is found, the message lists each place and how to install an engine."""
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with pytest.raises(EngineUnavailable) as caught:
        async with open_engine(environ=environ, home=tmp_path, embedded=False):
            pass
    for place in ("/var/run/docker.sock", f"{tmp_path}/docker.sock", "/run/podman/podman.sock", "install"):
        assert place in str(caught.value)


@pytest.mark.skipif(_HAS_ENGINE, reason="this machine has an engine of its own")
@pytest.mark.parametrize(
    ("trap", "reason"),
    [
        ("socket of another user", "belongs to user 4711"),
        ("directory of another user", "which belongs to user 4711"),
        ("directory open to all", "where anybody can replace it"),
        ("link into a directory open to all", "where anybody can replace it"),
    ],
)
async def test_socket_that_could_be_a_trap(
    docker_engine: Engine, tmp_path: Path, trap: str, reason: str
) -> None:
    """E12: a socket that another user has, or could put there, is used only if it was asked for."""
    place, real = tmp_path / "run", tmp_path / "real"
    place.mkdir()
    real.mkdir()
    socket = place / "docker.sock"
    async with UnixProxy(
        real / "docker.sock" if trap.startswith("link") else socket, docker_engine.socket
    ) as proxy:
        if trap.startswith("link"):
            socket.symlink_to(proxy.path)
            real.chmod(0o777)
        elif trap.startswith("socket"):
            os.chown(socket, 4711, -1)
        elif trap == "directory of another user":
            os.chown(place, 4711, -1)
        else:
            place.chmod(0o777)

        environ = {"XDG_RUNTIME_DIR": str(place)}
        with pytest.raises(EngineUnavailable, match=f"{socket}.*{reason}, not used unless asked for"):
            async with open_engine(environ=environ, home=tmp_path, embedded=False):
                pass
        assert proxy.connections == []

        async with open_engine(f"unix://{socket}") as client:
            assert client.capabilities.kind == "docker"
        async with open_engine(environ={"DOCKER_HOST": f"unix://{socket}"}, home=tmp_path) as client:
            assert client.capabilities.kind == "docker"


async def test_socket_in_a_sticky_directory(docker_engine: Engine, tmp_path: Path) -> None:
    """E12: in a directory like /tmp nobody can replace our socket, so it is used."""
    place = tmp_path / "run"
    place.mkdir()
    place.chmod(0o1777)
    (tmp_path / "link").symlink_to(place)
    async with UnixProxy(place / "docker.sock", docker_engine.socket):
        environ = {"XDG_RUNTIME_DIR": str(tmp_path / "link")}
        async with open_engine(environ=environ, home=tmp_path) as client:
            assert client.endpoint.socket == f"{tmp_path}/link/docker.sock"


@pytest.mark.parametrize(
    ("release", "command"),
    [
        ('ID=debian\nVERSION_ID="12"', "apt-get install podman"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', "apt-get install podman"),
        ('ID="fedora"', "dnf install podman"),
        ("ID=alpine", "apk add podman"),
        ("ID=manjaro\nID_LIKE=arch", "pacman -S podman"),
        ("ID=other", None),
        ("", None),
    ],
)
def test_install_command(release: str, command: str | None) -> None:
    """The command is that of the system's own package manager."""
    assert install_command(release) == command
