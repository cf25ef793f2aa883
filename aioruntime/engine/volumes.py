"""Volumes of an engine: create, list, look at, remove, prune (L2).

Podman serves the same calls of Docker's API. They are made by `EngineClient`: aiodocker's own do not
release an answer when they are cancelled, and can't send what ``delete`` needs.
"""

from __future__ import annotations

__all__ = ("Volume", "Volumes")

from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from aioruntime.engine.client import path_part
from aioruntime.engine.removal import Pruned, checked_name, explained, filter_params, own_name, read, removing
from aioruntime.errors import EngineError
from aioruntime.tasks import to_completion

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, Sequence

    from aioruntime.engine.client import EngineClient

# Docker Engine API, version history: since 1.42 only unnamed volumes are pruned unless all are asked for.
_PRUNES_UNNAMED = (1, 42)
_PRUNE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume.

    Attributes:
        name: what containers mount it by.
        driver: who keeps it; ``local`` for the engine itself.
        mountpoint: the directory that it is on the engine's machine; empty if the driver tells none.
        labels: as given when it was created.
        options: the driver's options, as given when it was created.
    """

    name: str
    driver: str
    mountpoint: str
    labels: Mapping[str, str] = field(hash=False)
    options: Mapping[str, str] = field(hash=False)


class _Volume(msgspec.Struct, rename="pascal"):
    name: str
    driver: str
    mountpoint: str = ""
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None


class _List(msgspec.Struct, rename="pascal"):
    volumes: list[_Volume] | None = None


class _Pruned(msgspec.Struct, rename="pascal"):
    volumes_deleted: list[str] | None = None
    space_reclaimed: int = 0


class Volumes:
    """The volumes of an engine.

    Args:
        client: the engine.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def create(
        self,
        name: str | None = None,
        *,
        driver: str = "local",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Volume:
        """Create a volume, which stays until it is removed; one that is there by that name is returned.

        Args:
            name: what to call it; None to let the engine choose a name.
            driver: who keeps it.
            labels: to find it by.
            options: the driver's, such as ``{"type": "tmpfs", "device": "tmpfs", "o": "size=64m"}``.

        Raises:
            InvalidSpec: the name is not one.
            EngineError: the engine refused.
        """
        if name is not None:
            checked_name("volume", name)
        body = {
            **({"Name": name} if name is not None else {}),
            "Driver": driver,
            "Labels": dict(labels or {}),
            "DriverOpts": dict(options or {}),
        }
        return _volume(read(await self._client.json("POST", "/volumes/create", body=body), _Volume))

    @asynccontextmanager
    async def temporary(
        self,
        *,
        driver: str = "local",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Volume]:
        """Create a volume by a name that nothing else has, and remove it at the end of the context.

        It is removed also if this task is cancelled, or the answer to its creation was lost. A container
        that still uses it is waited for, for 10 seconds.

        Raises:
            EngineError: the engine refused to create it, or (at the end) to remove it.
        """
        name = own_name()
        async with removing(lambda: self.remove(name), f"volume {name}"):
            # The request is not cut off halfway: an engine would go on and create it after its removal.
            yield await to_completion(self.create(name, driver=driver, labels=labels, options=options))

    async def list(self, filters: Mapping[str, str | Sequence[str]] | None = None) -> builtins.list[Volume]:
        """List volumes.

        Args:
            filters: which ones: values by name, such as ``{"label": "a=b", "dangling": "true"}``.

        Raises:
            EngineError: the engine could not tell, or refused the filters.
        """
        answer = await self._client.json("GET", "/volumes", params=filter_params(filters))
        return [_volume(each) for each in read(answer, _List).volumes or ()]

    async def inspect(self, name: str) -> Volume:
        """Tell of one volume.

        Raises:
            EngineError: there is none by that name (status 404), or the engine could not tell.
        """
        try:
            answer = await self._client.json("GET", f"/volumes/{path_part(name)}")
        except EngineError as exc:
            raise await explained(self._client, exc, "volume", name) from exc
        return _volume(read(answer, _Volume))

    async def remove(self, name: str) -> None:
        """Remove a volume and what is in it.

        Raises:
            EngineError: there is none by that name (status 404), containers use it (409; they are named),
                or the engine refused otherwise.
        """
        try:
            await self._client.json("DELETE", f"/volumes/{path_part(name)}")
        except EngineError as exc:
            raise await explained(self._client, exc, "volume", name) from exc

    async def prune(self, filters: Mapping[str, str | Sequence[str]] | None = None) -> Pruned:
        """Remove all volumes, named ones too, that no container uses, whoever made them.

        Docker before 23.0 leaves those that have options.

        Args:
            filters: which ones: values by name, such as ``{"label": "a=b"}``.

        Raises:
            EngineError: the engine refused.
        """
        wanted = dict(filters or {})
        if self._client.capabilities.kind == "docker" and _api(self._client) >= _PRUNES_UNNAMED:
            wanted.setdefault("all", "true")
        answer = await self._client.json(
            "POST", "/volumes/prune", params=filter_params(wanted), timeout=_PRUNE_SECONDS
        )
        told = read(answer, _Pruned)
        return Pruned(tuple(told.volumes_deleted or ()), told.space_reclaimed)


def _api(client: EngineClient) -> tuple[int, int]:
    major, _, minor = client.api_version.partition(".")
    return int(major), int(minor)


def _volume(told: _Volume) -> Volume:
    labels, options = MappingProxyType(told.labels or {}), MappingProxyType(told.options or {})
    return Volume(told.name, told.driver, told.mountpoint, labels, options)
