"""Networks of an engine: create, list, look at, connect, remove, prune (L2).

Podman serves the same calls of Docker's API.
"""

from __future__ import annotations

__all__ = ("Networks",)

import ipaddress
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from aioruntime.engine.client import path_part
from aioruntime.engine.network_values import WireNetwork
from aioruntime.engine.removal import Pruned, explained, filter_params, own_name, read, removing
from aioruntime.errors import EngineError, InvalidSpec, one_line
from aioruntime.oci.checks import matches
from aioruntime.tasks import to_completion

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.network_values import Network, Subnet

_CONNECT_SECONDS = 60.0
# Docker takes more for a network's name than for others.
_NAME = re.compile(r"\w[\w. -]*", re.ASCII)


class _Pruned(msgspec.Struct, rename="pascal"):
    networks_deleted: list[str] | None = None


class Networks:
    """The networks of an engine.

    Args:
        client: the engine.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def create(
        self,
        name: str | None = None,
        *,
        driver: str = "bridge",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        subnets: Iterable[Subnet] = (),
        internal: bool = False,
        ipv6: bool = False,
    ) -> Network:
        """Create a network, which stays until it is removed.

        Args:
            name: what to call it; None for a name that nothing else has.
            driver: who makes it.
            labels: to find it by.
            options: the driver's.
            subnets: its addresses; none to let the engine choose.
            internal: whether to lead to other containers only.
            ipv6: whether its containers get IPv6 addresses; some engines want a subnet of such then.

        Raises:
            InvalidSpec: the name is not one.
            EngineError: there is one by that name (status 409), or the engine refused otherwise.
        """
        name = own_name() if name is None else _checked(name)
        addresses = [
            {"Subnet": each.subnet, **({"Gateway": each.gateway} if each.gateway else {})} for each in subnets
        ]
        body = {
            "Name": name,
            "CheckDuplicate": True,  # before API 1.44 names are otherwise not unique
            "Driver": driver,
            "Internal": internal,
            "EnableIPv6": ipv6,
            "Labels": dict(labels or {}),
            "Options": dict(options or {}),
            **({"IPAM": {"Config": addresses}} if addresses else {}),
        }
        try:
            await self._client.json("POST", "/networks/create", body=body)
        except EngineError as exc:
            if exc.status in (409, 500) and await self._exists(name):
                raise EngineError(f"there is a network {one_line(name)} already", status=409) from exc
            raise
        return await self.inspect(name)

    @asynccontextmanager
    async def temporary(
        self,
        *,
        driver: str = "bridge",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        subnets: Iterable[Subnet] = (),
        internal: bool = False,
        ipv6: bool = False,
    ) -> AsyncGenerator[Network]:
        """Create a network by a name that nothing else has, and remove it at the end of the context.

        It is removed also if this task is cancelled, or the answer to its creation was lost. Containers
        that are still connected are waited for, for 10 seconds. Arguments are those of `create`.

        Raises:
            EngineError: the engine refused to create it, or (at the end) to remove it.
        """
        name = own_name()
        async with removing(lambda: self.remove(name), f"network {name}"):
            # The request is not cut off halfway: an engine would go on and create it after its removal.
            yield await to_completion(
                self.create(
                    name,
                    driver=driver,
                    labels=labels,
                    options=options,
                    subnets=subnets,
                    internal=internal,
                    ipv6=ipv6,
                )
            )

    async def list(self, filters: Mapping[str, str | Sequence[str]] | None = None) -> builtins.list[Network]:
        """List networks.

        Args:
            filters: which ones: values by name, such as ``{"label": "a=b", "driver": "bridge"}``.

        Raises:
            EngineError: the engine could not tell, or refused the filters.
        """
        answer = await self._client.json("GET", "/networks", params=filter_params(filters))
        return [each.value() for each in read(answer, list[WireNetwork])]

    async def inspect(self, name: str) -> Network:
        """Tell of one network, by name or ID.

        Raises:
            EngineError: there is no such network (status 404), or the engine could not tell.
        """
        try:
            answer = await self._client.json("GET", f"/networks/{path_part(name)}")
        except EngineError as exc:
            raise await explained(self._client, exc, "network", name) from exc
        return read(answer, WireNetwork).value()

    async def connect(
        self, name: str, container: str, *, aliases: Iterable[str] = (), ip: str | None = None
    ) -> None:
        """Connect a container to a network.

        Args:
            name: the network's name or ID.
            container: the container's name or ID.
            aliases: more names that other containers of the network find it by.
            ip: the address that it gets, IPv4 or IPv6, from a subnet of the network; None for any.

        Raises:
            InvalidSpec: *ip* is no address.
            EngineError: there is no such network or container (status 404), or the engine refused.
        """
        settings: dict[str, Any] = {"Aliases": list(aliases)}
        if ip is not None:
            settings["IPAMConfig"] = {f"IPv{_version_of(ip)}Address": ip}
        await self._post(name, "connect", {"Container": container, "EndpointConfig": settings})

    async def disconnect(self, name: str, container: str, *, force: bool = False) -> None:
        """Disconnect a container from a network; *force* does so also if it is in no state for it.

        Raises:
            EngineError: there is no such network or container (status 404), it is not connected, or the
                engine refused.
        """
        await self._post(name, "disconnect", {"Container": container, "Force": force})

    async def remove(self, name: str) -> None:
        """Remove a network, by name or ID.

        Raises:
            EngineError: there is no such network (status 404), containers are connected (409; they are
                named), or the engine refused otherwise.
        """
        try:
            await self._client.json("DELETE", f"/networks/{path_part(name)}")
        except EngineError as exc:
            raise await explained(self._client, exc, "network", name) from exc

    async def prune(self, filters: Mapping[str, str | Sequence[str]] | None = None) -> Pruned:
        """Remove all networks that no container is connected to, whoever made them.

        Args:
            filters: which ones: values by name, such as ``{"label": "a=b"}``.

        Raises:
            EngineError: the engine refused.
        """
        answer = await self._client.json("POST", "/networks/prune", params=filter_params(filters))
        return Pruned(tuple(read(answer, _Pruned).networks_deleted or ()))

    async def _exists(self, name: str) -> bool:
        return any(each.name == name for each in await self.list())

    async def _post(self, name: str, action: str, body: Mapping[str, Any]) -> None:
        """Make a call whose answer says nothing; Podman's is no JSON."""
        path = f"/networks/{path_part(name)}/{action}"
        await self._client.send("POST", path, body=body, timeout=_CONNECT_SECONDS)


def _checked(name: object) -> str:
    if isinstance(name, str) and matches(_NAME, name):
        return name
    told = one_line(repr(name))
    raise InvalidSpec(
        f"network {told} is not a network's name; give letters, digits, '_', '.', '-' and spaces"
    )


def _version_of(address: str) -> int:
    try:
        return ipaddress.ip_address(address).version
    except ValueError as exc:
        raise InvalidSpec(one_line(str(exc))) from exc
