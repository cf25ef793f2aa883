"""The runtime on Docker (L4)."""

from __future__ import annotations

__all__ = ("DockerRuntime",)

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from aioruntime.runtime.create import docker_body
from aioruntime.runtime.engine_runtime import EngineRuntime

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.spec import RunSpec


class DockerRuntime(EngineRuntime):
    """Pulls, assembles and runs images on a Docker engine; arguments as for `connect`."""

    kind: ClassVar[Literal["docker", "podman"]] = "docker"

    def _body(
        self, spec: RunSpec, image_id: ImageDigest, labels: dict[str, str], gpu: GpuRequest | None
    ) -> dict[str, Any]:
        return docker_body(spec, image_id, labels, gpu)
