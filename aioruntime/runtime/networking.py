"""How a container is reached: published ports, networks and its names there (L4)."""

from __future__ import annotations

__all__ = ("NETWORK_MODES", "NetworkAttachment", "Port")

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import is_ip, is_name, is_whole, items, matches

if TYPE_CHECKING:
    from collections.abc import Iterable

NETWORK_MODES = frozenset({"none", "host", "bridge"})
"""Names that say how a container is connected, and are not networks that somebody made."""

_ALIAS = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a container that can be reached from outside.

    Args:
        container_port: the port that the program listens on.
        host_port: the port of the engine's machine; None lets the engine choose a free one.
        protocol: ``tcp``, ``udp`` or ``sctp``.
        host_ip: the machine's address that it is reached at. Unless told otherwise only the machine itself
            can; ``0.0.0.0`` or ``::`` opens it to every network that the machine is on.

    Raises:
        InvalidSpec: a value is not of its kind.
    """

    container_port: int
    host_port: int | None = None
    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    host_ip: str = "127.0.0.1"

    def __post_init__(self) -> None:
        for name, value in (("container_port", self.container_port), ("host_port", self.host_port)):
            if value is None and name == "host_port":
                continue
            if not is_whole(value, 1, 65535):
                raise InvalidSpec(f"port: {name} {one_line(repr(value))} is not from 1 to 65535")
        if self.protocol not in ("tcp", "udp", "sctp"):
            raise InvalidSpec(f"port: protocol {one_line(repr(self.protocol))} is not tcp, udp or sctp")
        if not is_ip(self.host_ip):
            raise InvalidSpec(f"port: host_ip {one_line(repr(self.host_ip))} is not an IP address")
        object.__setattr__(self, "host_ip", str(ipaddress.ip_address(self.host_ip)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``80``, ``8080:80``, ``8080:80/udp``, ``0.0.0.0:8080:80`` or ``[::1]::80``.

        Without an address it is ``127.0.0.1``, where the engines' command lines would open it to all.

        Raises:
            InvalidSpec: *text* has another form, such as a range of ports.
        """
        address, slash, protocol = text.partition("/")
        outside, _, inside = address.rpartition(":")
        host_ip, _, host_port = outside.rpartition(":")
        if not re.fullmatch("[0-9]{1,9}", inside) or not re.fullmatch("[0-9]{0,9}", host_port):
            raise InvalidSpec(
                f"port {one_line(repr(text))}: expected host:container, as 8080:80 or 8080:80/udp"
            )
        return cls(
            int(inside),
            int(host_port) if host_port else None,
            protocol if slash else "tcp",  # type: ignore[arg-type]  # checked when it is made
            host_ip.removeprefix("[").removesuffix("]") or "127.0.0.1",
        )

    def __str__(self) -> str:
        host_ip = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        return f"{host_ip}:{self.host_port or ''}:{self.container_port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """A network that a container is connected to.

    Args:
        name: the network's name; ``none``, ``host`` and ``bridge`` are the engine's own, each only alone.
        aliases: names that others in that network find the container by, beside its own.

    Raises:
        InvalidSpec: a name is not one.
    """

    name: str
    aliases: tuple[str, ...] = ()

    if TYPE_CHECKING:

        def __init__(self, name: str, aliases: str | Iterable[str] = ()) -> None: ...

    def __post_init__(self) -> None:
        given: Any = self.aliases
        faults: list[str] = []
        aliases = (given,) if isinstance(given, str) else items("aliases", given, faults)
        object.__setattr__(self, "aliases", aliases)
        wrong = [one_line(repr(alias)) for alias in aliases if not matches(_ALIAS, alias)]
        faults += [f"alias {alias} is not a host name" for alias in wrong]
        if not is_name(self.name):
            raise InvalidSpec(f"network {one_line(repr(self.name))} is not a network's name")
        if faults:
            raise InvalidSpec(f"network {self.name}: {'; '.join(faults)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a network's name."""
        return cls(text)
