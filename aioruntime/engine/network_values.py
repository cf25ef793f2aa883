"""A network of an engine, and its addresses, as values (L2, no I/O)."""

from __future__ import annotations

__all__ = ("Network", "Subnet", "WireNetwork")

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from aioruntime.errors import InvalidSpec, one_line


@dataclass(frozen=True, slots=True)
class Subnet:
    """Addresses of a network.

    Args:
        subnet: such as ``10.89.0.0/24`` or ``fd00:7::/64``.
        gateway: the address in it of the engine's machine; None to let the engine choose.

    Raises:
        InvalidSpec: these are no such addresses, or the gateway is not in the subnet.
    """

    subnet: str
    gateway: str | None = None

    def __post_init__(self) -> None:
        try:
            addresses = ipaddress.ip_network(self.subnet, strict=False)
            if self.gateway is not None and ipaddress.ip_address(self.gateway) not in addresses:
                raise InvalidSpec(f"gateway {self.gateway} is not in subnet {self.subnet}")
        except ValueError as exc:
            if isinstance(exc, InvalidSpec):
                raise
            raise InvalidSpec(f"subnet {one_line(repr(self.subnet))}: {one_line(str(exc))}") from exc


@dataclass(frozen=True, slots=True)
class Network:
    """A network.

    Attributes:
        id: the engine's ID of it.
        name: what containers join it by.
        driver: who makes it, such as ``bridge``.
        internal: whether it leads to other containers only, not out of the engine's machine.
        ipv6: whether its containers get IPv6 addresses.
        labels: as given when it was created.
        options: the driver's options.
        subnets: its addresses.
    """

    id: str
    name: str
    driver: str
    internal: bool
    ipv6: bool
    labels: Mapping[str, str] = field(hash=False)
    options: Mapping[str, str] = field(hash=False)
    subnets: tuple[Subnet, ...] = ()


class _Config(msgspec.Struct, rename="pascal"):
    subnet: str = ""
    gateway: str = ""


class _Ipam(msgspec.Struct, rename="pascal"):
    config: list[_Config] | None = None


class WireNetwork(msgspec.Struct, rename="pascal"):
    """A network as the engine tells it."""

    id: str
    name: str
    driver: str = ""
    internal: bool = False
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    ipam: _Ipam | None = msgspec.field(default=None, name="IPAM")

    def value(self) -> Network:
        """Return it as a value."""
        configs = (self.ipam and self.ipam.config) or ()
        return Network(
            id=self.id,
            name=self.name,
            driver=self.driver,
            internal=self.internal,
            ipv6=self.enable_ipv6,
            labels=MappingProxyType(self.labels or {}),
            options=MappingProxyType(self.options or {}),
            subnets=tuple(Subnet(each.subnet, each.gateway or None) for each in configs if each.subnet),
        )
