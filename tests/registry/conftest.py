"""Fixtures for the tests of the registry client."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted import ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
