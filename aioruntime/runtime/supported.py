"""Whether an engine can do what a `RunSpec` asks, told by what it is (L4, no I/O)."""

from __future__ import annotations

__all__ = ("check_supported",)

import re
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.runtime.mounts import ImageMount

if TYPE_CHECKING:
    from aioruntime.engine.capabilities import EngineCapabilities
    from aioruntime.runtime.spec import RunSpec

# moby, api/swagger.yaml: mounts of type "image" since 1.48.
_DOCKER_IMAGE_MOUNTS = (1, 48)
# docker, 20.10: host-gateway. podman, RELEASE_NOTES.md: since 4.7.0.
_DOCKER_HOST_GATEWAY = (1, 41)
_PODMAN_HOST_GATEWAY = (4, 7)


def check_supported(spec: RunSpec, capabilities: EngineCapabilities) -> None:
    """Check that the engine can do what *spec* asks, before anything is created.

    Raises:
        InvalidSpec: it can't; the message tells all that it lacks, and what can be done.
    """
    faults = [
        *_mount_faults(spec, capabilities),
        *_host_faults(spec, capabilities),
        *_seccomp_faults(spec, capabilities),
        *_limit_faults(spec, capabilities),
    ]
    if faults:
        engine = f"{capabilities.kind} {one_line(capabilities.version)}"
        raise InvalidSpec(f"can't run {spec.image} on {engine}: " + "; ".join(faults))


def _mount_faults(spec: RunSpec, engine: EngineCapabilities) -> list[str]:
    if engine.kind == "podman" or _numbers(engine.api_version) >= _DOCKER_IMAGE_MOUNTS:
        return []
    return [
        f"it can't mount the image {mount.image}: that needs Docker 28 (API 1.48) or Podman"
        for mount in spec.mounts
        if isinstance(mount, ImageMount)
    ]


def _host_faults(spec: RunSpec, engine: EngineCapabilities) -> list[str]:
    if engine.kind == "podman":
        knows = _numbers(engine.version) >= _PODMAN_HOST_GATEWAY
    else:
        knows = _numbers(engine.api_version) >= _DOCKER_HOST_GATEWAY
    if knows or "host-gateway" not in spec.extra_hosts.values():
        return []
    return [
        "it does not know host-gateway in extra_hosts: give an address, or use Docker 20.10 or Podman 4.7"
    ]


def _seccomp_faults(spec: RunSpec, engine: EngineCapabilities) -> list[str]:
    """Tell the profiles in the other engine's form: Docker takes the text of one, Podman its path."""
    profiles = [option.partition("=")[2] for option in spec.security_opt if option.startswith("seccomp=")]
    faults = []
    for profile in profiles:
        is_text = profile.lstrip().startswith("{")
        if profile == "unconfined" or is_text == (engine.kind == "docker"):
            continue
        wanted = "the path of a file on its machine" if is_text else "the text of a profile, not a path"
        faults.append(f"security_opt seccomp={one_line(profile, 60)}: it takes {wanted}")
    return faults


def _limit_faults(spec: RunSpec, engine: EngineCapabilities) -> list[str]:
    """Tell the limits that it would leave out without a word."""
    if not engine.rootless or engine.cgroup_version != "1":
        return []
    limits = [name for name in ("memory", "cpus", "cpuset", "pids_limit") if getattr(spec, name) is not None]
    return [
        f"without root's rights it limits {', '.join(limits)} only on cgroup v2: boot the machine with that"
    ] * bool(limits)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version, re.ASCII)[:2])
