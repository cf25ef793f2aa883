"""The runtime on Podman (L4)."""

from __future__ import annotations

__all__ = ("PodmanRuntime",)

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from aioruntime.runtime.create import podman_body
from aioruntime.runtime.engine_runtime import EngineRuntime

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.runtime.gpu import GpuRequest
    from aioruntime.runtime.spec import RunSpec


class PodmanRuntime(EngineRuntime):
    """Pulls, assembles and runs images on a Podman service; arguments as for `connect`."""

    kind: ClassVar[Literal["docker", "podman"]] = "podman"
    _libpod: ClassVar[bool] = True

    def _body(
        self, spec: RunSpec, image_id: ImageDigest, labels: dict[str, str], gpu: GpuRequest | None
    ) -> dict[str, Any]:
        return podman_body(spec, image_id, labels, gpu)
