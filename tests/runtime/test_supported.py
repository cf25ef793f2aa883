"""What an engine can't do is told by what it is, before anything is created."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.runtime.supported import check_supported
from tests.runtime.test_gpu import engine_with

if TYPE_CHECKING:
    from aioruntime.engine.capabilities import EngineCapabilities

DOCKER, PODMAN = engine_with("docker", (), ()), engine_with("podman", (), ())
DOCKER_26, DOCKER_28 = (
    replace(DOCKER, version="26.1.5", api_version="1.45"),
    replace(DOCKER, version="28.0.0", api_version="1.48"),
)
DOCKER_19 = replace(DOCKER, version="19.03.15", api_version="1.40")
PODMAN_4, PODMAN_5 = replace(PODMAN, version="4.3.1"), replace(PODMAN, version="5.4.2")
ROOTLESS = replace(PODMAN_4, rootless=True, cgroup_version="1")
IMAGE_MOUNT = {"mounts": [ar.ImageMount("tool:2", "/i")]}
GATEWAY = {"extra_hosts": {"machine": "host-gateway"}}
PATH, TEXT = {"security_opt": ["seccomp=/etc/p.json"]}, {"security_opt": ['seccomp={"defaultAction": "x"}']}
LIMITS = {"memory": "1g", "cpus": 1}


@pytest.mark.parametrize(
    ("engine", "fields", "lacks"),
    [
        (
            DOCKER_26,
            IMAGE_MOUNT,
            r"on docker 26\.1\.5: it can't mount the image .*tool:2: .*Docker 28 .*Podman",
        ),
        (DOCKER_19, GATEWAY, "host-gateway in extra_hosts: give an address"),
        (PODMAN_4, GATEWAY, r"on podman 4\.3\.1: it does not know host-gateway"),
        (DOCKER_26, PATH, "seccomp=/etc/p.json: it takes the text of a profile, not a path"),
        (PODMAN_5, TEXT, "seccomp={.*: it takes the path of a file on its machine"),
        (ROOTLESS, LIMITS, "it limits memory, cpus only on cgroup v2: boot"),
        (DOCKER_26, IMAGE_MOUNT | PATH, "mount the image .*; .*seccomp"),
    ],
)
def test_what_an_engine_lacks_is_told(engine: EngineCapabilities, fields: dict[str, Any], lacks: str) -> None:
    """What the engine would refuse, or leave out without a word, is `InvalidSpec` with a remedy."""
    with pytest.raises(
        ar.InvalidSpec, match=rf"can't run .*tool:1 {'' if lacks.startswith('on') else '.*'}{lacks}"
    ):
        check_supported(ar.RunSpec("tool:1", **fields), engine)


@pytest.mark.parametrize(
    ("engine", "fields"),
    [
        (DOCKER_26, {}),
        (PODMAN_4, {}),
        (DOCKER_28, IMAGE_MOUNT),
        (PODMAN_4, IMAGE_MOUNT),
        (DOCKER_26, GATEWAY),
        (PODMAN_5, GATEWAY),
        (DOCKER_26, TEXT),
        (PODMAN_4, PATH),
        (DOCKER_26, {"security_opt": ["seccomp=unconfined"]}),
        (PODMAN_4, {"security_opt": ["seccomp=unconfined"]}),
        (ROOTLESS, {"shm_size": "1m"}),
        (replace(ROOTLESS, cgroup_version="2"), LIMITS),
        (replace(ROOTLESS, rootless=False), LIMITS),
    ],
)
def test_what_an_engine_can_do_passes(engine: EngineCapabilities, fields: dict[str, Any]) -> None:
    """What the engine can do is not refused."""
    check_supported(ar.RunSpec("tool:1", **fields), engine)
