"""The GPU that a run asks for: values, checked when they are made (L4)."""

from __future__ import annotations

__all__ = ("GpuProfile", "GpuSpec")

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import is_whole, items, matches

if TYPE_CHECKING:
    from collections.abc import Iterable

# Container Device Interface specification, "CDI JSON Specification": kind and device name.
_CDI_NAME = re.compile(
    r"[A-Za-z](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z](?:[\w-]*[A-Za-z0-9])?=[A-Za-z0-9](?:[\w.:-]*[A-Za-z0-9])?",
    re.ASCII,
)
_VERSION = re.compile(r"\d{1,9}(?:\.\d{1,9})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """What a tool asks of a GPU.

    Args:
        required: whether it can't run without one.
        min_vram_gb: GiB of video memory that it needs; None if it does not say.
        cuda_version: the least CUDA version, such as ``12.1``; None if it does not say.
        devices: CDI names of the devices to give it, such as ``nvidia.com/gpu=0``; empty for all of
            NVIDIA's that there are.

    Memory and CUDA version are checked where ``nvidia-smi`` on the engine's machine tells them.

    Raises:
        InvalidSpec: a value can't be what it is said to be; the message tells every fault.
    """

    required: bool = False
    min_vram_gb: int | None = None
    cuda_version: str | None = None
    devices: tuple[str, ...] = ()

    if TYPE_CHECKING:

        def __init__(
            self,
            required: bool = False,
            min_vram_gb: int | None = None,
            cuda_version: str | None = None,
            devices: Iterable[str] = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        faults: list[str] = []
        object.__setattr__(self, "devices", items("devices", self.devices, faults))
        wrong = [one_line(repr(name)) for name in self.devices if not matches(_CDI_NAME, name)]
        faults += [f"{name} is no CDI name, such as 'vendor.com/gpu=0'" for name in wrong]
        if not isinstance(self.required, bool):
            faults.append(f"required {one_line(repr(self.required))} is not True or False")
        if self.min_vram_gb is not None and not is_whole(self.min_vram_gb, 0):
            faults.append(f"min_vram_gb {one_line(repr(self.min_vram_gb))} is not a whole number of GiB")
        if self.cuda_version is not None and not matches(_VERSION, self.cuda_version):
            faults.append(f"cuda_version {one_line(repr(self.cuda_version))} is not text such as '12.1'")
        if faults:
            raise InvalidSpec(f"GPU: {'; '.join(faults)}")


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """The GPU side of a run; without a *spec* the container gets no GPU."""

    spec: GpuSpec | None = None

    def __post_init__(self) -> None:
        if not (self.spec is None or isinstance(self.spec, GpuSpec)):
            raise InvalidSpec(f"GPU: spec {one_line(repr(self.spec))} is not a GpuSpec")
