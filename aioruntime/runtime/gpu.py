"""Decide how a container gets the GPU: by CDI name or by capability (L4)."""

from __future__ import annotations

__all__ = ("GpuRequest", "gpu_request")

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioruntime.engine.capabilities import EngineCapabilities
    from aioruntime.runtime.spec import GpuProfile

_CDI_KIND = "nvidia.com/gpu"
_CDI_ALL = "nvidia.com/gpu=all"  # the name that `nvidia-ctk cdi generate` gives to all GPUs together


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """A wish for all GPUs: as CDI device names, or by capability where there are none."""

    cdi: tuple[str, ...] = ()


def gpu_request(profile: GpuProfile, capabilities: EngineCapabilities) -> GpuRequest | None:
    """Decide what to ask the engine for; None for no GPU.

    Docker lists CDI devices since API 1.50; before, it is asked by capability, which its ``nvidia``
    runtime serves. Podman knows CDI names only. A GPU that is not required is asked for only where the
    engine is known to have one.
    """
    if profile.spec is None:
        return None
    listed = [name for name in capabilities.cdi_devices if name.startswith(f"{_CDI_KIND}=")]
    if _CDI_ALL in listed:
        return GpuRequest((_CDI_ALL,))
    if listed:
        return GpuRequest(tuple(listed))
    if not profile.spec.required and "nvidia" not in capabilities.runtimes:
        return None
    return GpuRequest((_CDI_ALL,)) if capabilities.kind == "podman" else GpuRequest()
