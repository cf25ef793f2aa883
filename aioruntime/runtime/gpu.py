"""Decide how a container gets the GPU, by CDI name or by capability, and tell if there is none (L4)."""

from __future__ import annotations

__all__ = ("GpuRequest", "Gpus", "gpu_fault", "gpu_request", "untold")

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from aioruntime.errors import GpuUnavailable
from aioruntime.runtime.nvidia import CDI_DIRECTORIES, HostGpus, look_for_gpus

if TYPE_CHECKING:
    from aioruntime.engine.capabilities import EngineCapabilities
    from aioruntime.engine.client import EngineClient
    from aioruntime.runtime.gpu_spec import GpuProfile, GpuSpec

_log = logging.getLogger("aioruntime")

_CDI_KIND = "nvidia.com/gpu"
_CDI_ALL = "nvidia.com/gpu=all"  # the name that `nvidia-ctk cdi generate` gives to all GPUs together
# Docker Engine API, version history: DiscoveredDevices in GET /info since 1.50.
_LISTS_DEVICES = (1, 50)
_REMEDY = {
    "docker": "install NVIDIA's driver and its container toolkit, then `nvidia-ctk runtime configure "
    "--runtime=docker` and start Docker again",
    "podman": "install NVIDIA's driver and its container toolkit, then `nvidia-ctk cdi generate "
    "--output=/etc/cdi/nvidia.yaml`",
}
_NO_CDI = {
    "docker": 'Docker can from 25.0 on, with {"features": {"cdi": true}} in its daemon.json',
    "podman": "Podman can from 3.2 on",
}


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """A wish for GPUs: CDI devices by name, or all by capability where there are none."""

    cdi: tuple[str, ...] = ()


class Gpus:
    """Decides what one runtime asks its engine for; looks at this machine once, when it first has to."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._host: HostGpus | None = None

    async def request(self, client: EngineClient, profile: GpuProfile) -> GpuRequest | None:
        """Return what to ask the engine for; None for no GPU.

        A GPU that is not required, and known not to be had, is left out and logged.

        Raises:
            GpuUnavailable: it is required, and the engine has none, or none such; the message tells what
                was looked for.
            EngineError: the engine could not be asked what it has.
        """
        spec = profile.spec
        if spec is None:
            return None
        host = await self._look() if client.capabilities.local else None
        fault = self._fault(client.capabilities, profile, host)
        if fault is not None:  # devices may have come since the engine was asked
            fault = self._fault(await client.probe(), profile, host)
        if fault is not None and spec.required:
            raise GpuUnavailable(fault)
        if fault is not None:
            _log.warning("the container gets no GPU, which it does not require: %s", fault)
            return None
        request = gpu_request(profile, client.capabilities)
        if request is not None and (unknown := untold(spec, host)):
            _log.info("whether the GPU has what is asked for is not known: %s", ", ".join(unknown))
        return request

    async def _look(self) -> HostGpus:
        async with self._lock:
            if self._host is None:
                self._host = await look_for_gpus()
            return self._host

    def _fault(
        self, capabilities: EngineCapabilities, profile: GpuProfile, host: HostGpus | None
    ) -> str | None:
        request = gpu_request(profile, capabilities)
        if profile.spec is None or request is None:
            return None
        return gpu_fault(profile.spec, request, capabilities, host)


def gpu_request(profile: GpuProfile, capabilities: EngineCapabilities) -> GpuRequest | None:
    """Decide what to ask the engine for; None for no GPU.

    Docker lists CDI devices since API 1.50; before, it is asked by capability, which its ``nvidia``
    runtime serves. Podman knows CDI names only. A GPU that is not required is asked for only where the
    engine is known to have one, or by the names that the caller knows.
    """
    if profile.spec is None:
        return None
    if profile.spec.devices:
        return GpuRequest(profile.spec.devices)
    listed = _listed(capabilities)
    if _CDI_ALL in listed:
        return GpuRequest((_CDI_ALL,))
    if listed:
        return GpuRequest(listed)
    if not profile.spec.required and "nvidia" not in capabilities.runtimes:
        return None
    return GpuRequest((_CDI_ALL,)) if capabilities.kind == "podman" else GpuRequest()


def gpu_fault(
    spec: GpuSpec, request: GpuRequest, capabilities: EngineCapabilities, host: HostGpus | None
) -> str | None:
    """Tell why *request* can't be what *spec* asks for; None if nothing known speaks against it.

    Args:
        spec: what is wanted.
        request: what the engine would be asked for.
        capabilities: what the engine says of itself.
        host: what its machine tells; None if it is another one than this.
    """
    engine = f"{capabilities.kind.capitalize()} {capabilities.version}"
    if request.cdi and not capabilities.cdi:
        return f"{engine} can't give a container CDI devices; {_NO_CDI[capabilities.kind]}"
    absent = [name for name in spec.devices if name not in capabilities.cdi_devices]
    if absent and _lists_devices(capabilities):
        have = ", ".join(capabilities.cdi_devices) or "none"
        return f"{engine} has no CDI device {', '.join(absent)}; it lists {have}"
    if not spec.devices and _nothing_known(capabilities, host):
        return _looked_for(engine, capabilities, host)
    return None if host is None or not _is_nvidia(request) else _too_small(spec, host)


def untold(spec: GpuSpec, host: HostGpus | None) -> list[str]:
    """Tell what *spec* asks of a GPU that nothing here tells of."""
    memory = f"{spec.min_vram_gb} GiB of video memory" if spec.min_vram_gb is not None else None
    cuda = f"CUDA {spec.cuda_version}" if spec.cuda_version is not None else None
    known = (bool(host and host.memory), bool(host and host.cuda))
    return [what for what, told in zip((memory, cuda), known, strict=True) if what and not told]


def _listed(capabilities: EngineCapabilities) -> tuple[str, ...]:
    return tuple(name for name in capabilities.cdi_devices if name.startswith(f"{_CDI_KIND}="))


def _lists_devices(capabilities: EngineCapabilities) -> bool:
    major, _, minor = capabilities.api_version.partition(".")
    return capabilities.kind == "docker" and (int(major), int(minor)) >= _LISTS_DEVICES


def _is_nvidia(request: GpuRequest) -> bool:
    return all(name.startswith(f"{_CDI_KIND}=") for name in request.cdi)


def _nothing_known(capabilities: EngineCapabilities, host: HostGpus | None) -> bool:
    """Whether there is no sign of a GPU; of another machine we can't see what its engine does not list."""
    if host is None or _listed(capabilities) or "nvidia" in capabilities.runtimes:
        return False
    return not (host.memory or (host.described if capabilities.kind == "podman" else host.hook))


def _looked_for(engine: str, capabilities: EngineCapabilities, host: HostGpus | None) -> str:
    runtimes = ", ".join(capabilities.runtimes) or "none told"
    seen = [
        f"it lists no CDI device {_CDI_KIND}",
        f"it has no runtime nvidia (but: {runtimes})",
        f"nothing in {' and '.join(CDI_DIRECTORIES)} describes {_CDI_KIND}",
        host.smi if host else "",
    ]
    return (
        f"{engine} has no GPU: {'; '.join(seen)}. If there is one, {_REMEDY[capabilities.kind]}; "
        "one of another make is asked for by its CDI name: GpuSpec(devices=[...])"
    )


def _too_small(spec: GpuSpec, host: HostGpus) -> str | None:
    # Of what is on the box, the driver keeps a little for itself: a card of 80 GiB tells of 79.6.
    largest = round(max(host.memory, default=0) / 1024)
    if spec.min_vram_gb is not None and host.memory and largest < spec.min_vram_gb:
        return f"{spec.min_vram_gb} GiB of video memory are needed; nvidia-smi tells of {largest} at most"
    if spec.cuda_version is not None and host.cuda and _numbers(host.cuda) < _numbers(spec.cuda_version):
        return f"CUDA {spec.cuda_version} is needed; nvidia-smi tells of {host.cuda}: update NVIDIA's driver"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
