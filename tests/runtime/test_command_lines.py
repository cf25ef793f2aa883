"""The bodies that create containers, beside those that the `docker` and `podman` programs send."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.runtime.arguments import mount_arguments
from aioruntime.runtime.docker_body import docker_body
from aioruntime.runtime.podman_body import podman_body
from tests.support.recorder import Recorder
from tests.support.rootfs import import_image, program_tar
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aioruntime.runtime.mounts import AnyMount
    from tests.support.engines import Engine

JSON = {"Content-Type": "application/json"}
NETWORK = "command-lines"
PROGRAMS = {"docker": ["/usr/bin/docker", "--host"], "podman": ["/usr/bin/podman", "--remote", "--url"]}
MOUNTS: list[AnyMount] = [
    ar.Mount("/tmp", "/rw"),
    ar.Mount("/tmp", "/ro", read_only=True),
    ar.VolumeMount("command-lines", "/v"),
    ar.VolumeMount("command-lines", "/w", read_only=True),
    ar.TmpfsMount("/t", "1m", 0o700),
    ar.TmpfsMount("/u"),
]
# Each field, and the flags that say the same on both command lines.
FLAGS: list[tuple[dict[str, Any], str]] = [
    ({"env": {"A": "x=y"}}, "--env A=x=y"),
    ({"working_dir": "/w"}, "--workdir /w"),
    ({"user": "1000:100"}, "--user 1000:100"),
    ({"entrypoint": "/bin/true"}, "--entrypoint /bin/true"),
    ({"hostname": "box"}, "--hostname box"),
    ({"labels": {"a": "b"}}, "--label a=b"),
    ({"ports": [80, "0.0.0.0:8099:81/udp"]}, "--publish 127.0.0.1::80 --publish 0.0.0.0:8099:81/udp"),
    ({"dns": ["9.9.9.9"]}, "--dns 9.9.9.9"),
    ({"extra_hosts": {"db": "10.0.0.1"}}, "--add-host db:10.0.0.1"),
    ({"memory": "64m", "memory_swap": "0.125g"}, "--memory 64m --memory-swap 0.125g"),
    ({"cpus": 0.5, "cpuset": "0"}, "--cpus 0.5 --cpuset-cpus 0"),
    ({"pids_limit": 50}, "--pids-limit 50"),
    ({"ulimits": ["core=-1", "nofile=100:200"]}, "--ulimit core=-1 --ulimit nofile=100:200"),
    ({"shm_size": "2m"}, "--shm-size 2m"),
    ({"cap_add": ["NET_ADMIN"], "cap_drop": ["ALL"]}, "--cap-add NET_ADMIN --cap-drop ALL"),
    (
        {"security_opt": ["no-new-privileges", "seccomp=unconfined"]},
        "--security-opt no-new-privileges --security-opt seccomp=unconfined",
    ),
    ({"devices": ["/dev/null:/dev/n:r"]}, "--device /dev/null:/dev/n:r"),
    ({"sysctls": {"net.core.somaxconn": "99"}}, "--sysctl net.core.somaxconn=99"),
    ({"init": True}, "--init"),
    ({"stop_signal": "SIGINT", "stop_timeout": 7}, "--stop-signal SIGINT --stop-timeout 7"),
    ({"stdin": True, "tty": True}, "--interactive --tty"),
    ({"restart": "on-failure:3"}, "--restart on-failure:3"),
    (
        {"health_check": ar.HealthCheck("true;x", 5, 4, 2, 1)},
        "--health-cmd true;x --health-interval 5s --health-timeout 4s "
        "--health-retries 2 --health-start-period 1s",
    ),
    ({"mounts": MOUNTS}, " ".join(mount_arguments(MOUNTS))),
]
TOGETHER: tuple[dict[str, Any], list[str]] = (
    {name: value for fields, _ in FLAGS for name, value in fields.items()},
    [word for _, flags in FLAGS for word in flags.split()],
)
ALONE: list[tuple[dict[str, Any], list[str]]] = [
    ({"networks": ["none"]}, ["--network", "none"]),
    ({"networks": ["host"]}, ["--network", "host"]),
    ({"networks": ["bridge"]}, ["--network", "bridge"]),
    (
        {"networks": [ar.NetworkAttachment(NETWORK, ["web"])]},
        ["--network", NETWORK, "--network-alias", "web"],
    ),
    ({"entrypoint": ""}, ["--entrypoint", ""]),
    ({"health_check": ar.HealthCheck(["NONE"])}, ["--no-healthcheck"]),
    ({"restart": "always"}, ["--restart", "always"]),
]
# What the programs say of themselves, or in a second place for those that inspect.
OWN = ("name", "containerCreateCommand", "annotations", "raw_image_name", "image", "Image")
# What is so unless it is said, by the last part of its path.
DEFAULTS: dict[str, Any] = {"options": ["rbind", "rw"], "range": 1, "protocol": "tcp", "host_ip": "0.0.0.0"}
DEFAULTS |= dict.fromkeys(("IPPrefixLen", "GlobalIPv6PrefixLen", "major", "minor"), 0)


@pytest.fixture
def prepared(engine: Engine) -> Iterator[str]:
    """An image and a network on the engine; what was made of them is removed afterwards."""
    image = import_image(engine, "command-lines", program_tar("true"))
    document = json.dumps({"Name": NETWORK}).encode()
    assert ask(engine.socket, "POST", "/v1.40/networks/create", body=document, headers=JSON)[0] == 201
    yield image
    engine.remove_containers()
    for rest in (f"networks/{NETWORK}", "volumes/command-lines", f"images/{image}?force=1"):
        ask(engine.socket, "DELETE", f"/v1.40/{rest}")


def told(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Take a body apart into what it says, each by its path; lists but those of objects stay whole."""
    if isinstance(value, dict):
        items = {str(name): each for name, each in value.items()}
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        # `podman` says mounts in any order.
        items = {
            str(each.get("destination", each.get("Dest", number))): each for number, each in enumerate(value)
        }
    else:
        if path and isinstance(value, list) and path[-1] == "options":
            value = [each for each in value if each not in DEFAULTS["options"]]
        unsaid = value in (None, "", []) or value is False or value == DEFAULTS.get(path[-1])
        return {} if unsaid else {path: value}
    return {place: each for name, item in items.items() for place, each in told(item, (*path, name)).items()}


def sent_by_program(engine: Engine, image: str, flags: list[str], path: Path) -> dict[tuple[str, ...], Any]:
    with Recorder(path, engine.socket) as recorder:
        command = [*PROGRAMS[engine.kind], recorder.url, "create", *flags, image, "a", "b"]
        program = subprocess.run(command, check=False, capture_output=True, text=True)
    assert program.returncode == 0, program.stderr
    [body] = recorder.bodies("/containers/create")
    return told({name: value for name, value in body.items() if name not in OWN})


def sent_by_us(engine: Engine, fields: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    make = docker_body if engine.kind == "docker" else podman_body
    body = make(ar.RunSpec("image", ["a", "b"], **fields), "image", {}, None)
    return told({name: value for name, value in body.items() if name not in OWN})


@pytest.mark.parametrize(
    ("fields", "flags"), [TOGETHER, *ALONE], ids=["together", *map(str, range(len(ALONE)))]
)
def test_the_programs_say_the_same(
    engine: Engine, prepared: str, fields: dict[str, Any], flags: list[str], tmp_path: Path
) -> None:
    """For the same flags `docker create` and `podman create` change their bodies as we do ours."""
    theirs = sent_by_program(engine, prepared, flags, tmp_path / "with")
    unasked = sent_by_program(engine, prepared, [], tmp_path / "without")
    ours, ours_unasked = sent_by_us(engine, fields), sent_by_us(engine, {})

    assert changes(ours, ours_unasked) == changes(theirs, unasked)


def changes(body: dict[Any, Any], unasked: dict[Any, Any]) -> dict[Any, Any]:
    return {path: value for path, value in body.items() if unasked.get(path) != value}


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_docker_s_program_asks_for_a_read_only_root_as_we_do(
    engine: Engine, prepared: str, tmp_path: Path
) -> None:
    """A read-only root is asked for as `docker` does; `podman` would add three places to write to."""
    theirs = sent_by_program(engine, prepared, ["--read-only"], tmp_path / "s")

    assert (
        theirs["HostConfig", "ReadonlyRootfs"]
        is sent_by_us(engine, {"read_only": True})["HostConfig", "ReadonlyRootfs"]
    )
