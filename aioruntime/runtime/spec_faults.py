"""What can't be asked for together in a `RunSpec`: pure checks (L4)."""

from __future__ import annotations

__all__ = ("terminal_faults", "together_faults")

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest
from aioruntime.runtime.networking import NETWORK_MODES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioruntime.runtime.networking import Port
    from aioruntime.runtime.spec import RunSpec


def together_faults(spec: RunSpec) -> list[str]:
    """List what of *spec* can't be carried out together; its fields were made what they are kept as."""
    return [
        *_pull_faults(spec),
        *_mount_faults(spec),
        *_memory_faults(spec),
        *_network_faults(spec),
        *_port_faults(spec.ports),
        *_repeated("ulimits: two for", (ulimit.name for ulimit in spec.ulimits)),
        *_repeated("devices: two at", (str(device.container_path) for device in spec.devices)),
        *(f"capability {name} is both added and dropped" for name in sorted(_capabilities(spec))),
        *_ending_faults(spec),
        *terminal_faults(spec.stdin, tty=spec.tty),
    ]


def terminal_faults(stdin: bool | bytes, *, tty: bool) -> list[str]:
    """List what a program with a terminal can't be given as its input."""
    if not tty or isinstance(stdin, bool):
        return []
    return ["stdin: a terminal's input has no end, as bytes have: pass True and write them, or leave tty out"]


def _repeated(what: str, names: Iterable[str]) -> list[str]:
    return [f"{what} {name}" for name, count in sorted(Counter(names).items()) if count > 1]


def _pull_faults(spec: RunSpec) -> list[str]:
    if spec.pull == "never" or not isinstance(spec.image, ImageDigest):
        return []
    return [f"pull {spec.pull}: a digest alone names no repository to pull from; give name@digest as image"]


def _mount_faults(spec: RunSpec) -> list[str]:
    return _repeated("two mounts at", (str(mount.container_path) for mount in spec.mounts))


def _memory_faults(spec: RunSpec) -> list[str]:
    swap = spec.memory_swap
    if swap is None:
        return []
    if spec.memory is None:
        return ["memory_swap is memory and swap together: it needs memory too"]
    if swap != -1 and swap < spec.memory:
        return [f"memory_swap {swap} is memory and swap together: it can't be less than memory {spec.memory}"]
    return []


def _network_faults(spec: RunSpec) -> list[str]:
    names = [network.name for network in spec.networks]
    faults = _repeated("networks: twice", names)
    for network in spec.networks:
        if network.name not in NETWORK_MODES:
            continue
        if len(names) > 1:
            faults.append(f"network {network.name} can't be joined with others; leave it or them out")
        if network.aliases:
            faults.append(f"network {network.name} knows no aliases; make a network of your own for them")
        if network.name == "bridge":
            continue
        if spec.ports:
            faults.append(f"ports can't be published from network {network.name}; leave out one of both")
        if network.name == "host":
            faults += [
                f"sysctl {name} would change the machine's own network; leave out it or network host"
                for name in spec.sysctls
                if str(name).replace("/", ".").startswith("net.")
            ]
    return faults


def _port_faults(ports: Iterable[Port]) -> list[str]:
    faults: list[str] = []
    seen: dict[tuple[str, int], set[str]] = {}
    for port in ports:
        if port.host_port is None:
            continue
        taken = seen.setdefault((port.protocol, port.host_port), set())
        address = ipaddress.ip_address(port.host_ip)
        every = "::" if address.version == 6 else "0.0.0.0"
        same_family = {ip for ip in taken if ipaddress.ip_address(ip).version == address.version}
        if port.host_ip in taken or every in taken or (port.host_ip == every and same_family):
            faults.append(f"two ports at the machine's {port.host_port}/{port.protocol}")
        taken.add(port.host_ip)
    return faults


def _capabilities(spec: RunSpec) -> set[str]:
    added, dropped = (
        {name.upper().removeprefix("CAP_") for name in names} for names in (spec.cap_add, spec.cap_drop)
    )
    return added & dropped


def _ending_faults(spec: RunSpec) -> list[str]:
    if spec.restart is None or spec.restart.name == "no":
        return []
    faults = []
    if spec.timeout is not None:
        faults.append(f"restart {spec.restart.name} and timeout: one starts it again, the other ends it")
    if isinstance(spec.stdin, bytes):
        faults.append(f"restart {spec.restart.name} and stdin: what is sent would reach the first start only")
    return faults
