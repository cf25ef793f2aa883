"""The request bodies that create a container, made from a specification by pure functions (L4).

Docker: ``ContainerCreate`` of the Docker Engine API. Podman: ``SpecGenerator`` of its libpod API, since
Podman before 5.4 takes no CDI device through the Docker one.
"""

from __future__ import annotations

__all__ = ("docker_body", "podman_body")

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.spec import Mount, RunSpec


def docker_body(
    spec: RunSpec, image_id: str, labels: Mapping[str, str], gpu: GpuRequest | None
) -> dict[str, Any]:
    """Make the body of Docker's ``POST /containers/create``.

    Args:
        spec: what to run.
        image_id: the engine's ID of the image, so that a moved tag changes nothing.
        labels: labels of ours.
        gpu: the GPU to ask for; None for none.
    """
    host: dict[str, Any] = {"Mounts": [_docker_mount(mount) for mount in spec.mounts]}
    if gpu is not None:
        by_capability = {"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}
        by_name = {"Driver": "cdi", "DeviceIDs": list(gpu.cdi)}
        host["DeviceRequests"] = [by_name if gpu.cdi else by_capability]
    body: dict[str, Any] = {
        "Image": image_id,
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": dict(labels),
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "HostConfig": host,
    }
    if spec.command:
        body["Cmd"] = list(spec.command)
    if spec.working_dir is not None:
        body["WorkingDir"] = str(spec.working_dir)
    if spec.user is not None:
        body["User"] = spec.user
    return body


def _docker_mount(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(mount.host_path),
        "Target": str(mount.container_path),
        "ReadOnly": mount.read_only,
    }


def podman_body(
    spec: RunSpec, image_id: str, labels: Mapping[str, str], gpu: GpuRequest | None
) -> dict[str, Any]:
    """Make the body of Podman's ``POST /libpod/containers/create``; arguments as for `docker_body`."""
    body: dict[str, Any] = {
        "image": image_id,
        "env": dict(spec.env),
        "labels": dict(labels),
        "mounts": [_podman_mount(mount) for mount in spec.mounts],
        "terminal": False,
        "stdin": False,
        # A forced removal sends SIGTERM and waits this long; Docker's kills at once.
        "stop_timeout": 0,
    }
    if gpu is not None:
        body["devices"] = [{"path": name} for name in gpu.cdi]
    if spec.command:
        body["command"] = list(spec.command)
    if spec.working_dir is not None:
        body["work_dir"] = str(spec.working_dir)
    if spec.user is not None:
        body["user"] = spec.user
    return body


def _podman_mount(mount: Mount) -> dict[str, Any]:
    return {
        "type": "bind",
        "source": str(mount.host_path),
        "destination": str(mount.container_path),
        "options": ["rbind", "ro" if mount.read_only else "rw"],
    }
