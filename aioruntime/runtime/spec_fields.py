"""Make each field of a `RunSpec` what it is kept as, and tell what is wrong with it: pure functions (L4)."""

from __future__ import annotations

__all__ = ("RESERVED_LABELS", "Faults", "normalised")

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeAlias, get_args

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import is_ip, is_number, is_whole, items, mapping, matches
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.faults import command_faults, env_faults, label_faults, user_faults, working_dir
from aioruntime.oci.image import ImageRef
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from aioruntime.runtime.gpu_spec import GpuProfile, GpuSpec
from aioruntime.runtime.lifecycle import HealthCheck, RestartPolicy, signal_name
from aioruntime.runtime.mounts import AnyMount
from aioruntime.runtime.networking import NetworkAttachment, Port
from aioruntime.runtime.resources import Device, Ulimit, byte_count

Faults: TypeAlias = list[str]
Normaliser: TypeAlias = Callable[[str, Any, Faults], Any]
"""Takes a field's name, its value and the faults found so far; returns what is kept."""

RESERVED_LABELS = "aioruntime."
"""How the names of the labels begin that only this library gives."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_HOST = re.compile(r"[a-zA-Z0-9_](?:[a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_])?")
_HOSTNAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?")
_CPUS = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", re.ASCII)
_CAPABILITY = re.compile(r"(CAP_)?[A-Z_]+", re.IGNORECASE | re.ASCII)
_TEXT = re.compile(r"[^\0]*")
_SYSCTL = re.compile(r"[a-zA-Z0-9_./-]+", re.ASCII)
# What both engines know, each in words of its own.
_SECURITY = re.compile(r"no-new-privileges(=(true|false))?|(seccomp|apparmor|label)=.+", re.DOTALL)


class _Parsed(Protocol):
    @classmethod
    def parse(cls, text: str, /) -> Any: ...


def _image(name: str, value: Any, faults: Faults) -> Any:
    if not isinstance(value, (OciRef, ImageRef, ImageDigest)):
        faults.append(f"{name} {one_line(repr(value))} is not an image; give its reference or digest as text")
    return value


def _gpu(name: str, value: Any, faults: Faults) -> GpuProfile:
    if value is None or isinstance(value, GpuSpec):
        return GpuProfile(value)
    if isinstance(value, GpuProfile):
        return value
    faults.append(f"{name} {one_line(repr(value))} is not a GPU; give GpuSpec(required=True), or None")
    return GpuProfile()


def _command(name: str, value: Any, faults: Faults) -> tuple[str, ...]:
    if isinstance(value, str):
        faults += command_faults(value, name)
        return ()
    command = items(name, value, faults)
    faults += command_faults(command, name)
    return command


def _entrypoint(name: str, value: Any, faults: Faults) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,) if value else ()
    return _command(name, value, faults)


def _mapping(check: Callable[[Mapping[str, str]], Faults]) -> Normaliser:
    def normalise(name: str, value: Any, faults: Faults) -> Mapping[str, str]:
        kept = mapping(name, value, faults)
        faults += check(kept)
        return kept

    return normalise


def _labels(labels: Mapping[str, str]) -> Faults:
    return label_faults(labels) + [
        f"label {one_line(repr(name))} is reserved; choose a name that does not begin with {RESERVED_LABELS}"
        for name in labels
        if str(name).startswith(RESERVED_LABELS)
    ]


def _extra_hosts(hosts: Mapping[str, str]) -> Faults:
    faults = [
        f"extra_hosts: {one_line(repr(host))} is not a host name"
        for host in hosts
        if not matches(_HOST, host)
    ]
    return faults + [
        f"extra_hosts: {one_line(repr(ip))} is not an IP address (or host-gateway)"
        for ip in hosts.values()
        if ip != "host-gateway" and not is_ip(ip)
    ]


def _sysctls(sysctls: Mapping[str, str]) -> Faults:
    faults = [
        f"sysctls: {one_line(repr(name))} is not a name such as net.core.somaxconn"
        for name in sysctls
        if not matches(_SYSCTL, name)
    ]
    return faults + [
        f"sysctls: the value of {one_line(str(name))} is {one_line(repr(value))}; give text, such as '1024'"
        for name, value in sysctls.items()
        if not matches(_TEXT, value)
    ]


def _mounts(name: str, value: Any, faults: Faults) -> tuple[AnyMount, ...]:
    mounts = items(name, value, faults)
    faults += [
        f"mounts: {one_line(repr(mount))} is none; give Mount, VolumeMount, TmpfsMount or ImageMount"
        for mount in mounts
        if not isinstance(mount, get_args(AnyMount))
    ]
    return tuple(mount for mount in mounts if isinstance(mount, get_args(AnyMount)))


def _each(kind: type[_Parsed]) -> Normaliser:
    """Make a tuple of *kind*; its strings, and numbers, are parsed."""

    def normalise(name: str, value: Any, faults: Faults) -> tuple[Any, ...]:
        made = (_parsed(kind)(name, item, faults) for item in items(name, value, faults))
        return tuple(item for item in made if item is not None)

    return normalise


def _parsed(kind: type[_Parsed]) -> Normaliser:
    """Take a *kind*, or parse it from a string or a number."""

    def normalise(name: str, value: Any, faults: Faults) -> Any:
        if isinstance(value, kind):
            return value
        try:
            if isinstance(value, (str, int)) and not isinstance(value, bool):
                return kind.parse(str(value))
        except InvalidSpec as exc:
            faults.append(str(exc))
        else:
            faults.append(f"{name}: {one_line(repr(value))} is not a {kind.__name__}")
        return None

    return normalise


def _strings(fits: Callable[[Any], bool], what: str) -> Normaliser:
    def normalise(name: str, value: Any, faults: Faults) -> tuple[str, ...]:
        values = items(name, value, faults)
        faults += [f"{name}: {one_line(repr(each))} is not {what}" for each in values if not fits(each)]
        return tuple(each for each in values if fits(each))

    return normalise


def _stdin(name: str, value: Any, faults: Faults) -> Any:
    if not isinstance(value, (bool, bytes)):
        # What it is, is not told: it may be a password.
        faults.append(f"{name} is a {type(value).__name__}, not True, False or the bytes to send")
    return value


def _single(fits: Callable[[Any], bool], what: str) -> Normaliser:
    def normalise(name: str, value: Any, faults: Faults) -> Any:
        if not fits(value):
            faults.append(f"{name} {one_line(repr(value))} is not {what}")
        return value

    return normalise


def _caught(make: Callable[[Any, str], Any], instead: Any = None) -> Normaliser:
    def normalise(name: str, value: Any, faults: Faults) -> Any:
        try:
            return make(value, name)
        except InvalidSpec as exc:
            faults.append(str(exc))
            return instead

    return normalise


def _user(name: str, value: Any, faults: Faults) -> Any:
    faults += user_faults(value)
    return value


def _is_cpuset(value: Any) -> bool:
    if not matches(_CPUS, value):
        return False
    ranges = ([int(number) for number in part.split("-")] for part in value.split(","))
    return all(part[0] <= part[-1] for part in ranges)


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: matches(pattern, value)


def _unlimited(make: Callable[[Any, str], int]) -> Callable[[Any, str], int]:
    return lambda value, name: -1 if value in (-1, "-1") else make(value, name)


_FLAG = _single(lambda value: isinstance(value, bool), "True or False")

_NORMALISERS: Mapping[str, Normaliser] = {
    "image": _image,
    "gpu": _gpu,
    "command": _command,
    "env": _mapping(env_faults),
    "mounts": _mounts,
    "working_dir": lambda _, value, faults: working_dir(value, faults),
    "capture_output": _FLAG,
    "user": _user,
    "name": _single(_matches(_NAME), "a container's name: two or more letters, digits, '_', '.' or '-'"),
    "entrypoint": _entrypoint,
    "hostname": _single(_matches(_HOSTNAME), "a host name of at most 63 characters"),
    "labels": _mapping(_labels),
    "ports": _each(Port),
    "networks": _each(NetworkAttachment),
    "dns": _strings(is_ip, "an IP address"),
    "extra_hosts": _mapping(_extra_hosts),
    "memory": _caught(byte_count, 0),  # it was given: what needs it has no fault of its own
    "memory_swap": _caught(_unlimited(byte_count)),
    "cpus": _single(lambda value: is_number(value, 0.01, 1 << 20), "a number of processors, 0.01 or more"),
    "cpuset": _single(_is_cpuset, "a list of processors, such as '0-3,5'"),
    "pids_limit": _single(
        lambda value: value == -1 or is_whole(value, 1), "a count of processes above 0, or -1 for no limit"
    ),
    "ulimits": _each(Ulimit),
    "shm_size": _caught(byte_count),
    "read_only": _FLAG,
    "cap_add": _strings(_matches(_CAPABILITY), "a capability, such as 'NET_ADMIN', or 'ALL'"),
    "cap_drop": _strings(_matches(_CAPABILITY), "a capability, such as 'NET_RAW', or 'ALL'"),
    "security_opt": _strings(
        _matches(_SECURITY), "no-new-privileges, seccomp=..., apparmor=... or label=..., which engines know"
    ),
    "devices": _each(Device),
    "sysctls": _mapping(_sysctls),
    "init": _FLAG,
    "stop_signal": _caught(lambda value, name: signal_name(value)),
    "stop_timeout": _single(lambda value: is_whole(value, 0), "a whole number of seconds"),
    "stdin": _stdin,
    "tty": _FLAG,
    "health_check": _single(lambda value: isinstance(value, HealthCheck), "a HealthCheck"),
    "restart": _parsed(RestartPolicy),
    "platform": _parsed(Platform),
    "pull": _single(lambda value: value in ("never", "missing", "always"), "'never', 'missing' or 'always'"),
    "timeout": _single(lambda value: is_number(value, 0) and value > 0, "a number of seconds above 0"),
}


def normalised(values: Mapping[str, Any], faults: Faults, optional: Collection[str] = ()) -> dict[str, Any]:
    """Return what *values*, by a `RunSpec`'s field, are kept as; what is wrong is added to *faults*.

    None stays what it is in fields that are *optional*.
    """
    return {
        name: None if value is None and name in optional else _NORMALISERS[name](name, value, faults)
        for name, value in values.items()
    }
