"""The request that creates a container on Docker: ``ContainerCreate`` of its Engine API (L4, no I/O)."""

from __future__ import annotations

__all__ = ("docker_body", "later_networks")

from typing import TYPE_CHECKING, Any

from aioruntime.assembly.load import engine_name
from aioruntime.runtime.bodies import nanoseconds, said
from aioruntime.runtime.mounts import Mount, TmpfsMount, VolumeMount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioruntime.engine.capabilities import EngineCapabilities
    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.lifecycle import HealthCheck
    from aioruntime.runtime.mounts import AnyMount
    from aioruntime.runtime.networking import NetworkAttachment, Port
    from aioruntime.runtime.resources import Device
    from aioruntime.runtime.spec import RunSpec


def docker_body(
    spec: RunSpec, image_id: str, labels: Mapping[str, str], gpu: GpuRequest | None
) -> dict[str, Any]:
    """Make the body of Docker's ``POST /containers/create``.

    Name and platform are no part of it, nor any network but the first: see `later_networks`.

    Args:
        spec: what to run.
        image_id: the engine's ID of the image, so that a moved tag changes nothing.
        labels: labels of ours.
        gpu: the GPU to ask for; None for none.
    """
    open_stdin = spec.stdin is not False
    given: dict[str, Any] = {
        "Cmd": list(spec.command),
        # An empty list keeps the image's command; this drops it too, as `docker run --entrypoint ""` does.
        "Entrypoint": None if spec.entrypoint is None else list(spec.entrypoint) or [""],
        "WorkingDir": spec.working_dir and str(spec.working_dir),
        "User": spec.user,
        "Hostname": spec.hostname,
        "ExposedPorts": {_container_port(port): {} for port in spec.ports},
        "OpenStdin": open_stdin,
        "StdinOnce": open_stdin,
        "StopSignal": spec.stop_signal,
        "StopTimeout": spec.stop_timeout,
        "Healthcheck": spec.health_check and _health_check(spec.health_check),
        "NetworkingConfig": _first_network(spec.networks),
    }
    return {
        "Image": image_id,
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": {**spec.labels, **labels},
        "AttachStdin": open_stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": spec.tty,
        **said(given),
        "HostConfig": _host_config(spec, gpu),
    }


def later_networks(spec: RunSpec, capabilities: EngineCapabilities) -> tuple[NetworkAttachment, ...]:
    """List the networks to connect a container to between its creation and its start.

    Docker before API 1.44 takes but one network at the creation, and later versions connect in the same way.
    """
    return spec.networks[1:] if capabilities.kind == "docker" else ()


def _host_config(spec: RunSpec, gpu: GpuRequest | None) -> dict[str, Any]:
    given = {
        "NetworkMode": spec.networks[0].name if spec.networks else None,
        "PortBindings": _port_bindings(spec.ports),
        "Dns": list(spec.dns),
        "ExtraHosts": [f"{host}:{ip}" for host, ip in spec.extra_hosts.items()],
        "Memory": spec.memory,
        "MemorySwap": spec.memory_swap,
        "NanoCpus": nanoseconds(spec.cpus),
        "CpusetCpus": spec.cpuset,
        "PidsLimit": spec.pids_limit,
        "Ulimits": [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in spec.ulimits],
        "ShmSize": spec.shm_size,
        "ReadonlyRootfs": spec.read_only,
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "SecurityOpt": list(spec.security_opt),
        "Devices": [_device(device) for device in spec.devices],
        "Sysctls": dict(spec.sysctls),
        "Init": spec.init,
        "RestartPolicy": spec.restart
        and said({"Name": spec.restart.name, "MaximumRetryCount": spec.restart.max_retries}),
        "DeviceRequests": [] if gpu is None else [_gpu(gpu)],
    }
    return {"Mounts": [_mount(mount) for mount in spec.mounts], **said(given)}


def _gpu(gpu: GpuRequest) -> dict[str, Any]:
    if gpu.cdi:
        return {"Driver": "cdi", "DeviceIDs": list(gpu.cdi)}
    return {"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}


def _mount(mount: AnyMount) -> dict[str, Any]:
    target = {"Target": str(mount.container_path)}
    if isinstance(mount, Mount):
        return {"Type": "bind", "Source": str(mount.host_path), **target, "ReadOnly": mount.read_only}
    if isinstance(mount, VolumeMount):
        return {"Type": "volume", "Source": mount.volume, **target, "ReadOnly": mount.read_only}
    if isinstance(mount, TmpfsMount):
        options = said({"SizeBytes": mount.size, "Mode": mount.mode})
        return {"Type": "tmpfs", **target, **said({"TmpfsOptions": options})}
    return {"Type": "image", "Source": engine_name(mount.image), **target}


def _device(device: Device) -> dict[str, str]:
    return {
        "PathOnHost": str(device.path),
        "PathInContainer": str(device.container_path),
        "CgroupPermissions": device.permissions,
    }


def _container_port(port: Port) -> str:
    return f"{port.container_port}/{port.protocol}"


def _port_bindings(ports: Iterable[Port]) -> dict[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        binding = {"HostIp": port.host_ip, "HostPort": str(port.host_port or "")}
        bindings.setdefault(_container_port(port), []).append(binding)
    return bindings


def _health_check(check: HealthCheck) -> dict[str, Any]:
    given = {
        "Test": list(check.test),
        "Interval": nanoseconds(check.interval),
        "Timeout": nanoseconds(check.timeout),
        "Retries": check.retries,
        "StartPeriod": nanoseconds(check.start_period),
    }
    return said(given)


def _first_network(networks: tuple[NetworkAttachment, ...]) -> dict[str, Any]:
    if not networks or not networks[0].aliases:
        return {}
    return {"EndpointsConfig": {networks[0].name: {"Aliases": list(networks[0].aliases)}}}
