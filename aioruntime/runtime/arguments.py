"""The command-line arguments that say the same as a GPU profile or mounts, to show and to copy (L4)."""

from __future__ import annotations

__all__ = ("gpu_arguments", "mount_arguments")

import csv
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.spec import Mount


def mount_arguments(mounts: Iterable[Mount]) -> list[str]:
    """Return ``--mount`` arguments, right for paths with ``:``, ``,`` and quotes in them.

    Both programs read the value as one CSV record (RFC 4180).
    """
    arguments: list[str] = []
    for mount in mounts:
        fields = ["type=bind", f"source={mount.host_path}", f"target={mount.container_path}"]
        if mount.read_only:
            fields.append("readonly")
        record = io.StringIO()
        csv.writer(record, lineterminator="").writerow(fields)
        arguments += ["--mount", record.getvalue()]
    return arguments


def gpu_arguments(gpu: GpuRequest | None) -> list[str]:
    """Return the arguments that give a container the GPU: ``--device`` for each CDI name, else ``--gpus``."""
    if gpu is None:
        return []
    return [argument for name in gpu.cdi for argument in ("--device", name)] or ["--gpus", "all"]
