"""What to run and what came of it: values, checked when they are made (L4)."""

from __future__ import annotations

__all__ = ("RunOutcome", "RunSpec", "RuntimeInfo")

import os
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import ImageRef
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef, image_named
from aioruntime.runtime.gpu_spec import GpuProfile, GpuSpec
from aioruntime.runtime.lifecycle import HealthCheck, RestartPolicy
from aioruntime.runtime.mounts import AnyMount
from aioruntime.runtime.networking import NetworkAttachment, Port
from aioruntime.runtime.resources import Device, Ulimit
from aioruntime.runtime.spec_faults import together_faults
from aioruntime.runtime.spec_fields import normalised

# Constructors take more than they keep. The signatures below are for type checkers alone; at run time the
# dataclass takes the values as they come, and ``__post_init__`` makes them what the attributes promise.
_Path: TypeAlias = str | os.PathLike[str]
_NO_GPU = GpuProfile()


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
class RunSpec:
    """A container to be run; what is not given is left to the image and to the engine.

    Sizes are bytes, or text such as ``512m`` or ``1g``, as the engines' command lines read it.

    Args:
        image: what to run; a string is parsed as a reference, or as a digest or an engine's ID of an image,
            as `pull` and `commit` return it. A pinned digest decides over the tag.
        command: the program's arguments, or program and arguments if the image has no entry point;
            empty for the image's own.
        env: environment variables added to the image's.
        mounts: what the container sees beside its image's files.
        gpu: the GPU that it gets; None for none.
        working_dir: absolute path in the container; None for the image's own.
        capture_output: True to return standard output and error in the outcome; False to pass them
            through to those of this process as they come.
        user: ``name``, ``uid`` or ``uid:gid``; None for the image's own.
        name: what the engine calls the container; None for one of our making.
        entrypoint: the program, and arguments that always come first; a string is the program alone, empty
            drops the image's own. As on the command line, to give it drops the image's command too.
        hostname: the machine's name that the container sees.
        labels: kept with the container; names that begin with ``aioruntime.`` are reserved.
        ports: ports to be reached from outside, on this machine alone unless told otherwise; see `Port` for
            strings such as ``8080:80``. A number is the container's port, at one that the engine chooses.
        networks: networks to connect to, by name or as `NetworkAttachment`; or one of ``none``, ``host``
            and ``bridge``.
        dns: addresses of the name servers to ask.
        extra_hosts: addresses by host name, for its ``/etc/hosts``; ``host-gateway`` is the engine's machine.
        memory: most memory that it can use.
        memory_swap: most memory and swap together; -1 for no limit.
        cpus: how many processors' time it can use, such as 1.5.
        cpuset: the processors that it can use, such as ``0-3,5``.
        pids_limit: most processes and threads; -1 for no limit.
        ulimits: limits of each process; see `Ulimit` for strings such as ``nofile=1024:2048``.
        shm_size: size of its ``/dev/shm``.
        read_only: whether its image's files can't be written to.
        cap_add: capabilities to give, such as ``NET_ADMIN``.
        cap_drop: capabilities to take; ``ALL`` takes each that is not given.
        security_opt: ``no-new-privileges``, or ``seccomp=``, ``apparmor=`` or ``label=`` and a value.
        devices: devices of the engine's machine; see `Device` for strings such as ``/dev/fuse``.
        sysctls: settings of the kernel that are the container's own, such as ``net.core.somaxconn``.
        init: whether the engine's own small init is process 1, and collects processes that nobody waits for.
        stop_signal: the signal that asks it to end, such as ``SIGINT`` or 2.
        stop_timeout: seconds from that signal to being killed.
        stdin: what its standard input is: nothing, bytes that are sent, or True to keep it open to write to.
            Where Podman loses the connection that carries it, the program sees its end, and nobody a fault.
        tty: whether it gets a terminal; it then has one output stream, not two.
        health_check: how the engine tells whether it is well.
        restart: when the engine starts it again, such as ``on-failure:3``.
        platform: what it is to be run on, such as ``linux/arm64``; None for the engine's own.
        pull: whether the image is pulled before: ``never``, if it is ``missing``, or ``always``.
        timeout: seconds that it may run from its start on, after which it is killed.

    Raises:
        InvalidReference: *image* is a string that is neither a reference nor a digest.
        InvalidSpec: other values can't be carried out, or not together; the message tells every fault.
    """

    image: OciRef | ImageRef | ImageDigest
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    mounts: tuple[AnyMount, ...] = ()
    gpu: GpuProfile = _NO_GPU
    working_dir: PurePosixPath | None = None
    capture_output: bool = False
    user: str | None = None
    _: KW_ONLY
    name: str | None = None
    entrypoint: tuple[str, ...] | None = None
    hostname: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    ports: tuple[Port, ...] = ()
    networks: tuple[NetworkAttachment, ...] = ()
    dns: tuple[str, ...] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=dict, hash=False)
    memory: int | None = None
    memory_swap: int | None = None
    cpus: float | None = None
    cpuset: str | None = None
    pids_limit: int | None = None
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int | None = None
    read_only: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict, hash=False)
    init: bool = False
    stop_signal: str | None = None
    stop_timeout: int | None = None
    stdin: bool | bytes = field(default=False, repr=False)
    tty: bool = False
    health_check: HealthCheck | None = None
    restart: RestartPolicy | None = None
    platform: Platform | None = None
    pull: Literal["never", "missing", "always"] = "never"
    timeout: float | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            image: OciRef | ImageRef | ImageDigest | str,
            command: Iterable[str] = (),
            env: Mapping[str, str] = ...,
            mounts: Iterable[AnyMount] = (),
            gpu: GpuProfile | GpuSpec | None = ...,
            working_dir: _Path | None = None,
            capture_output: bool = False,
            user: str | None = None,
            *,
            name: str | None = None,
            entrypoint: str | Iterable[str] | None = None,
            hostname: str | None = None,
            labels: Mapping[str, str] = ...,
            ports: Iterable[Port | str | int] = (),
            networks: Iterable[NetworkAttachment | str] = (),
            dns: Iterable[str] = (),
            extra_hosts: Mapping[str, str] = ...,
            memory: int | str | None = None,
            memory_swap: int | str | None = None,
            cpus: float | None = None,
            cpuset: str | None = None,
            pids_limit: int | None = None,
            ulimits: Iterable[Ulimit | str] = (),
            shm_size: int | str | None = None,
            read_only: bool = False,
            cap_add: Iterable[str] = (),
            cap_drop: Iterable[str] = (),
            security_opt: Iterable[str] = (),
            devices: Iterable[Device | str] = (),
            sysctls: Mapping[str, str] = ...,
            init: bool = False,
            stop_signal: str | int | None = None,
            stop_timeout: int | None = None,
            stdin: bool | bytes = False,
            tty: bool = False,
            health_check: HealthCheck | None = None,
            restart: RestartPolicy | str | None = None,
            platform: Platform | str | None = None,
            pull: Literal["never", "missing", "always"] = "never",
            timeout: float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.image, str) and not isinstance(self.image, ImageDigest):
            object.__setattr__(self, "image", image_named(self.image))
        faults: list[str] = []
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        optional = {each.name for each in fields(self) if each.default is None}
        for name, value in normalised(given, faults, optional).items():
            object.__setattr__(self, name, value)
        if faults := faults + together_faults(self):
            raise InvalidSpec(f"can't run {one_line(str(self.image))}: " + "; ".join(faults))

    def __reduce__(self) -> tuple[Any, ...]:
        # A read-only view can be neither pickled nor copied; what it shows can.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        shown = {name: dict(v) if isinstance(v, MappingProxyType) else v for name, v in values.items()}
        return _made_again, (type(self), shown)


def _made_again(kind: type[RunSpec], values: dict[str, Any]) -> RunSpec:
    return kind(**values)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a container ended.

    Args:
        exit_code: the program's exit status; 128 + n if signal n ended it.
        duration: seconds from start to end.
        stdout: what it wrote to standard output if that was captured, else empty.
        stderr: likewise for standard error.
        oom_killed: whether the kernel ended it since it used more memory than it may.
    """

    exit_code: int
    duration: float
    stdout: bytes = field(default=b"", repr=False)
    stderr: bytes = field(default=b"", repr=False)
    oom_killed: bool = False
