"""Find an engine and give the runtime for it (L4)."""

from __future__ import annotations

__all__ = ("connect",)

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aioruntime.engine.discovery import open_engine
from aioruntime.runtime.docker import DockerRuntime
from aioruntime.runtime.podman import PodmanRuntime

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator

    from aioruntime.registry.client import RegistryClient
    from aioruntime.store.store import ImageStore


@asynccontextmanager
async def connect(
    url: str | None = None,
    *,
    store: ImageStore | str | os.PathLike[str] | None = None,
    registry: RegistryClient | None = None,
    connections: int = 16,
) -> AsyncIterator[DockerRuntime | PodmanRuntime]:
    """Connect to a container engine, Docker or Podman, for the time of the context.

    Without *url*, the first that answers is taken: ``DOCKER_HOST``, ``CONTAINER_HOST``, the Docker
    context, the usual sockets, and last a private Podman service, if that program is installed.

    Args:
        url: the engine's address (``unix://``, ``tcp://``, ``https://`` or ``ssh://``).
        store: the local image store, or its path; None for ``$AIORUNTIME_STORE``, else a directory
            under the user's cache directory.
        registry: a client to fetch through, which stays open; None for one of the runtime's own.
        connections: layers that are fetched at once.

    Returns:
        A context manager giving a `ContainerRuntime`.

    Raises:
        EngineUnavailable: nothing answers; the message lists what was tried and how to install an engine.
    """
    async with open_engine(url) as client:
        kind = DockerRuntime if client.capabilities.kind == "docker" else PodmanRuntime
        async with kind(store=store, registry=registry, connections=connections, client=client) as runtime:
            yield runtime
