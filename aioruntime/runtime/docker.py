"""The runtime on Docker (L4)."""

from __future__ import annotations

__all__ = ("DockerRuntime",)

from typing import ClassVar, Literal

from aioruntime.runtime.engine_runtime import EngineRuntime


class DockerRuntime(EngineRuntime):
    """Pulls, assembles and runs images on a Docker engine; arguments as for `connect`."""

    kind: ClassVar[Literal["docker", "podman"]] = "docker"
