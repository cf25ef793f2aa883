"""The request that creates a container on Podman: ``SpecGenerator`` of its own API (L4, no I/O).

Its names are those of ``pkg/specgen`` in Podman's source, alike from 4.3 to 5. It is used since Podman before
5.4 takes no CDI device through Docker's API.
"""

from __future__ import annotations

__all__ = ("podman_body",)

from typing import TYPE_CHECKING, Any

from aioruntime.assembly.load import engine_name
from aioruntime.runtime.bodies import nanoseconds, said
from aioruntime.runtime.lifecycle import signal_number
from aioruntime.runtime.mounts import ImageMount, Mount, TmpfsMount, VolumeMount
from aioruntime.runtime.networking import NETWORK_MODES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.lifecycle import HealthCheck
    from aioruntime.runtime.networking import NetworkAttachment, Port
    from aioruntime.runtime.spec import RunSpec

_CPU_PERIOD = 100_000  # microseconds; what `podman run --cpus` counts in
_NO_LIMIT = (1 << 64) - 1
# What `podman run --health-cmd` sends; a check that lacks them would run without a pause.
_HEALTH_SECONDS = 30.0
_HEALTH_RETRIES = 3


def podman_body(
    spec: RunSpec, image_id: str, labels: Mapping[str, str], gpu: GpuRequest | None
) -> dict[str, Any]:
    """Make the body of Podman's ``POST /libpod/containers/create``; arguments as for `docker_body`.

    Name and platform are no part of it.
    """
    given = {
        "command": list(spec.command),
        # An empty list is the image's own; this is none, and drops the image's command too.
        "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint) or [""],
        "work_dir": spec.working_dir and str(spec.working_dir),
        "user": spec.user,
        "hostname": spec.hostname,
        **_mounts(spec),
        **_network(spec.networks),
        "portmappings": [_port(port) for port in spec.ports],
        "dns_server": list(spec.dns),
        "hostadd": [f"{host}:{ip}" for host, ip in spec.extra_hosts.items()],
        "resource_limits": _resource_limits(spec),
        "r_limits": [
            {"type": each.name, "soft": _limit(each.soft), "hard": _limit(each.hard)} for each in spec.ulimits
        ],
        "shm_size": spec.shm_size,
        "read_only_filesystem": spec.read_only,
        "cap_add": list(spec.cap_add),
        "cap_drop": list(spec.cap_drop),
        **_security(spec.security_opt),
        "devices": _devices(spec, gpu),
        "sysctl": dict(spec.sysctls),
        "init": spec.init,
        "stop_signal": spec.stop_signal and signal_number(spec.stop_signal),
        "healthconfig": spec.health_check and _health_check(spec.health_check),
        "restart_policy": spec.restart and spec.restart.name,
        "restart_tries": spec.restart and spec.restart.max_retries,
    }
    return {
        "image": image_id,
        "env": dict(spec.env),
        "labels": {**spec.labels, **labels},
        "mounts": [],
        "terminal": spec.tty,
        "stdin": spec.stdin is not False,
        # A forced removal sends SIGTERM and waits this long; Docker's kills at once.
        "stop_timeout": spec.stop_timeout or 0,
        **said(given),
    }


def _mounts(spec: RunSpec) -> dict[str, Any]:
    """Say the mounts; each kind of them has a list of its own."""
    mounts: list[dict[str, Any]] = []
    for mount in spec.mounts:
        place = {"destination": str(mount.container_path)}
        if isinstance(mount, Mount):
            options = ["rbind", "ro" if mount.read_only else "rw"]
            mounts.append({"type": "bind", "source": str(mount.host_path), **place, "options": options})
        elif isinstance(mount, TmpfsMount):
            options = [] if mount.size is None else [f"size={mount.size}"]
            options += [] if mount.mode is None else [f"mode={mount.mode:04o}"]
            mounts.append({"type": "tmpfs", "source": "tmpfs", **place, "options": options})
    return {
        "mounts": mounts,
        "volumes": [
            said({"Name": m.volume, "Dest": str(m.container_path), "Options": ["ro"] if m.read_only else []})
            for m in spec.mounts
            if isinstance(m, VolumeMount)
        ],
        "image_volumes": [
            {"Source": engine_name(m.image), "Destination": str(m.container_path), "ReadWrite": False}
            for m in spec.mounts
            if isinstance(m, ImageMount)
        ],
    }


def _network(networks: tuple[NetworkAttachment, ...]) -> dict[str, Any]:
    if not networks:
        return {}
    if networks[0].name in NETWORK_MODES:
        return {"netns": {"nsmode": networks[0].name}}
    joined = {network.name: said({"aliases": list(network.aliases)}) for network in networks}
    return {"netns": {"nsmode": "bridge"}, "Networks": joined}


def _port(port: Port) -> dict[str, Any]:
    return {
        "container_port": port.container_port,
        "host_port": port.host_port or 0,
        "host_ip": port.host_ip,
        "protocol": port.protocol,
    }


def _resource_limits(spec: RunSpec) -> dict[str, Any]:
    cpu: dict[str, Any] = {"cpus": spec.cpuset}
    if spec.cpus is not None:
        cpu |= {"period": _CPU_PERIOD, "quota": round(spec.cpus * _CPU_PERIOD)}
    return said(
        {
            "memory": said({"limit": spec.memory, "swap": spec.memory_swap}),
            "cpu": said(cpu),
            "pids": said({"limit": spec.pids_limit}),
        }
    )


def _limit(value: int | None) -> int:
    return _NO_LIMIT if value is None or value < 0 else value


def _security(options: tuple[str, ...]) -> dict[str, Any]:
    said_by_name: dict[str, Any] = {"selinux_opts": []}
    for option in options:
        name, _, value = option.partition("=")
        if name == "no-new-privileges":
            said_by_name["no_new_privileges"] = value != "false"
        elif name == "seccomp":
            said_by_name["seccomp_profile_path"] = value
        elif name == "apparmor":
            said_by_name["apparmor_profile"] = value
        else:
            said_by_name["selinux_opts"].append(value)
    return said_by_name


def _devices(spec: RunSpec, gpu: GpuRequest | None) -> list[dict[str, str]]:
    paths = [f"{each.path}:{each.container_path}:{each.permissions}" for each in spec.devices]
    return [{"path": path} for path in (*paths, *(gpu.cdi if gpu else ()))]


def _health_check(check: HealthCheck) -> dict[str, Any]:
    if check.test == ("NONE",):
        return {"Test": ["NONE"]}
    given = {
        "Test": list(check.test),
        "Interval": nanoseconds(check.interval or _HEALTH_SECONDS),
        "Timeout": nanoseconds(check.timeout or _HEALTH_SECONDS),
        "Retries": check.retries or _HEALTH_RETRIES,
        "StartPeriod": nanoseconds(check.start_period),
    }
    return said(given)
