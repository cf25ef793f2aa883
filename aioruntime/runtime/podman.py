"""The runtime on Podman (L4)."""

from __future__ import annotations

__all__ = ("PodmanRuntime",)

from typing import ClassVar, Literal

from aioruntime.runtime.engine_runtime import EngineRuntime


class PodmanRuntime(EngineRuntime):
    """Pulls, assembles and runs images on a Podman service; arguments as for `connect`."""

    kind: ClassVar[Literal["docker", "podman"]] = "podman"
