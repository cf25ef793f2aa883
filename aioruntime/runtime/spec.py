"""What to run and what came of it: values, checked when they are made (L4)."""

from __future__ import annotations

__all__ = ("GpuProfile", "GpuSpec", "Mount", "RunOutcome", "RunSpec", "RuntimeInfo")

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePath, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeAlias

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.faults import command_faults, env_faults, user_faults, working_dir_faults
from aioruntime.oci.image import ImageRef
from aioruntime.oci.reference import OciRef

# Constructors take more than they keep. The signatures below are for type checkers alone; at run time the
# dataclass takes the values as they come, and ``__post_init__`` makes them what the attributes promise.
_Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What an engine tells about itself.

    Args:
        name: ``docker`` or ``podman``.
        version: the engine's version, such as ``26.1.5``.
        extra: more by name: ``endpoint``, ``found_by``, ``api_version``, ``min_api_version``,
            ``storage_driver``, ``image_store``, ``cgroup_version``, ``os``, ``architecture``,
            ``rootless``, ``cdi_devices``.
    """

    name: str
    version: str
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of the engine's host, seen in the container.

    Args:
        host_path: absolute path on the machine that the engine runs on; it has to exist.
        container_path: absolute path in the container.
        read_only: whether the container can only read it.

    Raises:
        InvalidSpec: a path is not absolute, or has a NUL character.
    """

    host_path: PurePath
    container_path: PurePosixPath
    read_only: bool = False

    if TYPE_CHECKING:

        def __init__(self, host_path: _Path, container_path: _Path, read_only: bool = False) -> None: ...

    def __post_init__(self) -> None:
        for name, kind in (("host_path", PurePath), ("container_path", PurePosixPath)):
            path = kind(os.fspath(getattr(self, name)))
            if not path.is_absolute() or "\0" in str(path):
                raise InvalidSpec(f"mount: {name} {one_line(repr(str(path)))} is not an absolute path")
            object.__setattr__(self, name, path)


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """What a tool asks of a GPU.

    Args:
        required: whether it can't run without one.
        min_vram_gb: GiB of video memory that it needs; None if it does not say.
        cuda_version: the least CUDA version, such as ``12.1``; None if it does not say.
    """

    required: bool = False
    min_vram_gb: int | None = None
    cuda_version: str | None = None


@dataclass(frozen=True, slots=True)
class GpuProfile:
    """The GPU side of a run; without a *spec* the container gets no GPU."""

    spec: GpuSpec | None = None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A container to be run.

    Args:
        image: what to run; a string is parsed as a reference. A pinned digest decides over the tag.
        command: the program's arguments, or program and arguments if the image has no entry point;
            empty for the image's own.
        env: environment variables added to the image's.
        mounts: what of the host the container sees.
        gpu: the GPU that it gets.
        working_dir: absolute path in the container; None for the image's own.
        capture_output: True to return standard output and error in the outcome; False to pass them
            through to those of this process as they come.
        user: ``name``, ``uid`` or ``uid:gid``; None for the image's own.

    Raises:
        InvalidReference: *image* is a string that is not a reference.
        InvalidSpec: another value can't be carried out; the message tells every fault.
    """

    image: OciRef | ImageRef
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    mounts: tuple[Mount, ...] = ()
    gpu: GpuProfile = GpuProfile()
    working_dir: PurePosixPath | None = None
    capture_output: bool = False
    user: str | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            image: OciRef | ImageRef | str,
            command: Iterable[str] = (),
            env: Mapping[str, str] = ...,
            mounts: Iterable[Mount] = (),
            gpu: GpuProfile = ...,
            working_dir: _Path | None = None,
            capture_output: bool = False,
            user: str | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.image, str):
            object.__setattr__(self, "image", OciRef.parse(self.image))
        if not isinstance(self.command, str):
            object.__setattr__(self, "command", tuple(self.command))
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))
        object.__setattr__(self, "mounts", tuple(self.mounts))
        faults = [*command_faults(self.command), *env_faults(self.env)]
        if self.working_dir is not None:
            object.__setattr__(self, "working_dir", PurePosixPath(self.working_dir))
            faults += working_dir_faults(PurePosixPath(self.working_dir))
        if self.user is not None:
            faults += user_faults(self.user)
        targets = [mount.container_path for mount in self.mounts]
        doubled = sorted({str(path) for path in targets if targets.count(path) > 1})
        faults += [f"two mounts at {path}" for path in doubled]
        if faults:
            raise InvalidSpec(f"can't run {self.image}: " + "; ".join(faults))

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        # A read-only view can be neither pickled nor copied; what it shows can.
        values = (getattr(self, each.name) for each in fields(self))
        return type(self), tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a container ended.

    Args:
        exit_code: the program's exit status; 128 + n if signal n ended it.
        duration: seconds from start to end.
        stdout: what it wrote to standard output if that was captured, else empty.
        stderr: likewise for standard error.
    """

    exit_code: int
    duration: float
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
