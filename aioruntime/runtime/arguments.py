"""The command-line arguments that say the same as a GPU profile or mounts, to show and to copy (L4)."""

from __future__ import annotations

__all__ = ("gpu_arguments", "mount_arguments")

import csv
import io
from typing import TYPE_CHECKING

from aioruntime.assembly.load import engine_name
from aioruntime.runtime.mounts import Mount, TmpfsMount, VolumeMount

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.mounts import AnyMount


def mount_arguments(mounts: Iterable[AnyMount]) -> list[str]:
    """Return ``--mount`` arguments, right for paths with ``:``, ``,`` and quotes in them.

    Both programs read the value as one CSV record (RFC 4180).
    """
    arguments: list[str] = []
    for mount in mounts:
        record = io.StringIO()
        csv.writer(record, lineterminator="").writerow(_fields(mount))
        arguments += ["--mount", record.getvalue()]
    return arguments


def _fields(mount: AnyMount) -> list[str]:
    target = f"target={mount.container_path}"
    if isinstance(mount, Mount):
        readonly = ["readonly"] if mount.read_only else []
        return ["type=bind", f"source={mount.host_path}", target, *readonly]
    if isinstance(mount, VolumeMount):
        readonly = ["ro"] if mount.read_only else []  # Podman 4 knows it by this name alone
        return ["type=volume", f"source={mount.volume}", target, *readonly]
    if isinstance(mount, TmpfsMount):
        size = [] if mount.size is None else [f"tmpfs-size={mount.size}"]
        mode = [] if mount.mode is None else [f"tmpfs-mode={mount.mode:04o}"]
        return ["type=tmpfs", target, *size, *mode]
    return ["type=image", f"source={engine_name(mount.image)}", target]


def gpu_arguments(gpu: GpuRequest | None) -> list[str]:
    """Return the arguments that give a container the GPU: ``--device`` for each CDI name, else ``--gpus``."""
    if gpu is None:
        return []
    return [argument for name in gpu.cdi for argument in ("--device", name)] or ["--gpus", "all"]
