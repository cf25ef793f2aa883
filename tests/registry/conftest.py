"""Fixtures for the tests of the registry client."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.demo.registry import LocalRegistry
from tests.support.layouts import write_layout
from tests.support.registries import DOORS, Guarded, guarded_registry
from tests.support.scripted import ScriptedServer
from tests.support.served_image import make_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAMES_UNDER = ".example"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A registry on loopback that answers what the test tells it to."""
    async with ScriptedServer() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[ScriptedServer]:
    """Another server, on another port."""
    async with ScriptedServer() as running:
        yield running


@pytest.fixture
def example_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every name under `.example` lead to 127.0.0.1, as if it were a host somewhere else."""
    real = socket.getaddrinfo

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        local = isinstance(host, str) and host.endswith(NAMES_UNDER)
        return real("127.0.0.1" if local else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.fixture(scope="session")
def pushed_layers() -> list[bytes]:
    """The layers of the image `org/tool:1` that `guarded` has."""
    return [os.urandom(1 << 20), os.urandom(1000)]


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory, pushed_layers: list[bytes]) -> Path:
    """The storage of a registry that has `org/tool:1`; copy it."""
    if not (shutil.which("docker-registry") and shutil.which("skopeo")):
        pytest.skip("needs Debian's docker-registry and skopeo")
    layout, storage = tmp_path_factory.mktemp("layout"), tmp_path_factory.mktemp("storage")
    write_layout(layout, make_image("org/tool", "1", pushed_layers))

    async def push() -> None:
        async with LocalRegistry(storage) as registry:
            await registry.push(layout, "tool", "org/tool:1")

    asyncio.run(push())
    return storage


@pytest.fixture(params=DOORS)
async def guarded(
    request: pytest.FixtureRequest, pushed: Path, tmp_path: Path, clean_environ: Path
) -> AsyncIterator[Guarded]:
    """A real registry behind each kind of door in turn; it has `org/tool:1`, and takes what is pushed."""
    storage = shutil.copytree(pushed, tmp_path / "storage")
    async with guarded_registry(request.param, storage, tmp_path, clean_environ) as running:
        yield running
