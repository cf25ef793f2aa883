"""The bodies that create containers: what each field of a specification becomes, on either engine."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import aioruntime as ar
from aioruntime.runtime.docker_body import docker_body, later_networks
from aioruntime.runtime.gpu import GpuRequest
from aioruntime.runtime.podman_body import podman_body
from tests.runtime.test_gpu import engine_with

IMAGE = "example.org/tool:1"
ID = "sha256:" + "1" * 64
LABELS = {"aioruntime.owner": "me"}
CDI = GpuRequest(("nvidia.com/gpu=0", "nvidia.com/gpu=1"))
DOCKER: dict[str, Any] = {
    "Image": ID,
    "Env": [],
    "Labels": LABELS,
    "AttachStdin": False,
    "AttachStdout": True,
    "AttachStderr": True,
    "Tty": False,
    "HostConfig": {"Mounts": []},
}
PODMAN: dict[str, Any] = {
    "image": ID,
    "env": {},
    "labels": LABELS,
    "mounts": [],
    "terminal": False,
    "stdin": False,
    "stop_timeout": 0,
}
MOUNTS = [
    ar.Mount(Path("/host/a:b,c"), PurePosixPath("/rw")),
    ar.Mount(Path("/host"), PurePosixPath("/ro"), read_only=True),
]
OTHER_MOUNTS = [
    ar.VolumeMount("kept", "/v"),
    ar.VolumeMount("kept", "/w", read_only=True),
    ar.TmpfsMount("/t", size="64m", mode=0o700),
    ar.TmpfsMount("/u"),
    ar.ImageMount("ubuntu", "/i"),
]
HEALTH = ar.HealthCheck(["true", "x"], interval=1.5, timeout=2, retries=4, start_period=0.5)
SECOND = 1_000_000_000


def host(**values: Any) -> dict[str, Any]:
    """What Docker's body has in its ``HostConfig``."""
    return {"HostConfig": {"Mounts": [], **values}}


# Fields of the specification, what they change in Docker's body, and in Podman's.
FIELDS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {}, {}),
    ({"command": ["sh", "-c", "a b"]}, {"Cmd": ["sh", "-c", "a b"]}, {"command": ["sh", "-c", "a b"]}),
    ({"env": {"A": "x=y", "B": ""}}, {"Env": ["A=x=y", "B="]}, {"env": {"A": "x=y", "B": ""}}),
    ({"working_dir": "/w"}, {"WorkingDir": "/w"}, {"work_dir": "/w"}),
    ({"user": "1000:100"}, {"User": "1000:100"}, {"user": "1000:100"}),
    ({"capture_output": True}, {}, {}),
    (
        {"mounts": MOUNTS},
        host(
            Mounts=[
                {"Type": "bind", "Source": "/host/a:b,c", "Target": "/rw", "ReadOnly": False},
                {"Type": "bind", "Source": "/host", "Target": "/ro", "ReadOnly": True},
            ]
        ),
        {
            "mounts": [
                {"type": "bind", "source": "/host/a:b,c", "destination": "/rw", "options": ["rbind", "rw"]},
                {"type": "bind", "source": "/host", "destination": "/ro", "options": ["rbind", "ro"]},
            ]
        },
    ),
    (
        {"mounts": OTHER_MOUNTS},
        host(
            Mounts=[
                {"Type": "volume", "Source": "kept", "Target": "/v", "ReadOnly": False},
                {"Type": "volume", "Source": "kept", "Target": "/w", "ReadOnly": True},
                {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 64 << 20, "Mode": 0o700}},
                {"Type": "tmpfs", "Target": "/u"},
                {"Type": "image", "Source": "docker.io/library/ubuntu:latest", "Target": "/i"},
            ]
        ),
        {
            "mounts": [
                {
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "destination": "/t",
                    "options": ["size=67108864", "mode=0700"],
                },
                {"type": "tmpfs", "source": "tmpfs", "destination": "/u", "options": []},
            ],
            "volumes": [{"Name": "kept", "Dest": "/v"}, {"Name": "kept", "Dest": "/w", "Options": ["ro"]}],
            "image_volumes": [
                {"Source": "docker.io/library/ubuntu:latest", "Destination": "/i", "ReadWrite": False}
            ],
        },
    ),
    ({"name": "tool", "platform": "linux/arm64", "pull": "always", "timeout": 5}, {}, {}),
    ({"entrypoint": "/bin/sh"}, {"Entrypoint": ["/bin/sh"]}, {"entrypoint": ["/bin/sh"]}),
    ({"entrypoint": ["sh", "-c"]}, {"Entrypoint": ["sh", "-c"]}, {"entrypoint": ["sh", "-c"]}),
    ({"entrypoint": ()}, {"Entrypoint": [""]}, {"entrypoint": [""]}),
    ({"hostname": "box"}, {"Hostname": "box"}, {"hostname": "box"}),
    ({"labels": {"a": "b"}}, {"Labels": {"a": "b", **LABELS}}, {"labels": {"a": "b", **LABELS}}),
    (
        {"ports": [80, "8080:80", "0.0.0.0:53:53/udp", ar.Port(81, 81, host_ip="::1")]},
        {
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "81/tcp": {}},
            **host(
                PortBindings={
                    "80/tcp": [
                        {"HostIp": "127.0.0.1", "HostPort": ""},
                        {"HostIp": "127.0.0.1", "HostPort": "8080"},
                    ],
                    "53/udp": [{"HostIp": "0.0.0.0", "HostPort": "53"}],
                    "81/tcp": [{"HostIp": "::1", "HostPort": "81"}],
                }
            ),
        },
        {
            "portmappings": [
                {"container_port": 80, "host_port": 0, "host_ip": "127.0.0.1", "protocol": "tcp"},
                {"container_port": 80, "host_port": 8080, "host_ip": "127.0.0.1", "protocol": "tcp"},
                {"container_port": 53, "host_port": 53, "host_ip": "0.0.0.0", "protocol": "udp"},
                {"container_port": 81, "host_port": 81, "host_ip": "::1", "protocol": "tcp"},
            ]
        },
    ),
    ({"networks": ["none"]}, host(NetworkMode="none"), {"netns": {"nsmode": "none"}}),
    ({"networks": ["host"]}, host(NetworkMode="host"), {"netns": {"nsmode": "host"}}),
    ({"networks": ["bridge"]}, host(NetworkMode="bridge"), {"netns": {"nsmode": "bridge"}}),
    (
        {"networks": ["front", "back"]},
        host(NetworkMode="front"),
        {"netns": {"nsmode": "bridge"}, "Networks": {"front": {}, "back": {}}},
    ),
    (
        {"networks": [ar.NetworkAttachment("front", ["web", "www"])]},
        {
            "NetworkingConfig": {"EndpointsConfig": {"front": {"Aliases": ["web", "www"]}}},
            **host(NetworkMode="front"),
        },
        {"netns": {"nsmode": "bridge"}, "Networks": {"front": {"aliases": ["web", "www"]}}},
    ),
    ({"dns": ["9.9.9.9"]}, host(Dns=["9.9.9.9"]), {"dns_server": ["9.9.9.9"]}),
    (
        {"extra_hosts": {"db": "10.0.0.1", "six": "::1"}},
        host(ExtraHosts=["db:10.0.0.1", "six:::1"]),
        {"hostadd": ["db:10.0.0.1", "six:::1"]},
    ),
    (
        {"memory": "64m", "memory_swap": -1},
        host(Memory=64 << 20, MemorySwap=-1),
        {"resource_limits": {"memory": {"limit": 64 << 20, "swap": -1}}},
    ),
    (
        {"cpus": 1.5, "cpuset": "0,1"},
        host(NanoCpus=1_500_000_000, CpusetCpus="0,1"),
        {"resource_limits": {"cpu": {"period": 100_000, "quota": 150_000, "cpus": "0,1"}}},
    ),
    ({"pids_limit": 50}, host(PidsLimit=50), {"resource_limits": {"pids": {"limit": 50}}}),
    (
        {"ulimits": ["nofile=100:200", "core=-1"]},
        host(
            Ulimits=[{"Name": "nofile", "Soft": 100, "Hard": 200}, {"Name": "core", "Soft": -1, "Hard": -1}]
        ),
        {
            "r_limits": [
                {"type": "nofile", "soft": 100, "hard": 200},
                {"type": "core", "soft": 2**64 - 1, "hard": 2**64 - 1},
            ]
        },
    ),
    ({"shm_size": "2m"}, host(ShmSize=2 << 20), {"shm_size": 2 << 20}),
    ({"read_only": True}, host(ReadonlyRootfs=True), {"read_only_filesystem": True}),
    (
        {"cap_add": ["NET_ADMIN"], "cap_drop": ["ALL"]},
        host(CapAdd=["NET_ADMIN"], CapDrop=["ALL"]),
        {"cap_add": ["NET_ADMIN"], "cap_drop": ["ALL"]},
    ),
    (
        {"security_opt": ["no-new-privileges", "seccomp=unconfined", "apparmor=a", "label=type:t"]},
        host(SecurityOpt=["no-new-privileges", "seccomp=unconfined", "apparmor=a", "label=type:t"]),
        {
            "no_new_privileges": True,
            "seccomp_profile_path": "unconfined",
            "apparmor_profile": "a",
            "selinux_opts": ["type:t"],
        },
    ),
    (
        {"security_opt": ["no-new-privileges=false"]},
        host(SecurityOpt=["no-new-privileges=false"]),
        {},
    ),
    (
        {"devices": ["/dev/fuse", "/dev/null:/dev/n:r"]},
        host(
            Devices=[
                {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
                {"PathOnHost": "/dev/null", "PathInContainer": "/dev/n", "CgroupPermissions": "r"},
            ]
        ),
        {"devices": [{"path": "/dev/fuse:/dev/fuse:rwm"}, {"path": "/dev/null:/dev/n:r"}]},
    ),
    ({"sysctls": {"net.a": "1"}}, host(Sysctls={"net.a": "1"}), {"sysctl": {"net.a": "1"}}),
    ({"init": True}, host(Init=True), {"init": True}),
    ({"stop_signal": "int"}, {"StopSignal": "SIGINT"}, {"stop_signal": 2}),
    ({"stop_signal": "SIGRTMIN+3"}, {"StopSignal": "SIGRTMIN+3"}, {"stop_signal": 37}),
    ({"stop_timeout": 7}, {"StopTimeout": 7}, {"stop_timeout": 7}),
    ({"stop_timeout": 0}, {"StopTimeout": 0}, {"stop_timeout": 0}),
    ({"stdin": True}, {"AttachStdin": True, "OpenStdin": True, "StdinOnce": True}, {"stdin": True}),
    ({"stdin": b""}, {"AttachStdin": True, "OpenStdin": True, "StdinOnce": True}, {"stdin": True}),
    ({"tty": True}, {"Tty": True}, {"terminal": True}),
    (
        {"health_check": HEALTH},
        {
            "Healthcheck": {
                "Test": ["CMD", "true", "x"],
                "Interval": 3 * SECOND // 2,
                "Timeout": 2 * SECOND,
                "Retries": 4,
                "StartPeriod": SECOND // 2,
            }
        },
        {
            "healthconfig": {
                "Test": ["CMD", "true", "x"],
                "Interval": 3 * SECOND // 2,
                "Timeout": 2 * SECOND,
                "Retries": 4,
                "StartPeriod": SECOND // 2,
            }
        },
    ),
    (
        {"health_check": ar.HealthCheck("a | b")},
        {"Healthcheck": {"Test": ["CMD-SHELL", "a | b"]}},
        {
            "healthconfig": {
                "Test": ["CMD-SHELL", "a | b"],
                "Interval": 30 * SECOND,
                "Timeout": 30 * SECOND,
                "Retries": 3,
            }
        },
    ),
    (
        {"health_check": ar.HealthCheck(["NONE"])},
        {"Healthcheck": {"Test": ["NONE"]}},
        {"healthconfig": {"Test": ["NONE"]}},
    ),
    (
        {"restart": "on-failure:3"},
        host(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 3}),
        {"restart_policy": "on-failure", "restart_tries": 3},
    ),
    ({"restart": "always"}, host(RestartPolicy={"Name": "always"}), {"restart_policy": "always"}),
]


@pytest.mark.parametrize(("fields", "docker", "podman"), FIELDS, ids=[",".join(f[0]) or "-" for f in FIELDS])
def test_fields_reach_both_engines(
    fields: dict[str, Any], docker: dict[str, Any], podman: dict[str, Any]
) -> None:
    """Each field is said in each engine's own words; what is not given is left to the image."""
    spec = ar.RunSpec(IMAGE, **fields)

    assert docker_body(spec, ID, LABELS, None) == DOCKER | docker
    assert podman_body(spec, ID, LABELS, None) == PODMAN | podman


def test_every_field_is_in_the_table() -> None:
    """No field of a specification is left out of the table above but the image and the GPU, told below."""
    told = {name for fields, _, _ in FIELDS for name in fields}

    assert told | {"image", "gpu"} == set(ar.RunSpec.__dataclass_fields__)


def test_labels_of_ours_win() -> None:
    """THREATS I8: nobody's label takes the place of one of ours."""
    spec = ar.RunSpec(IMAGE, labels={"other": "theirs"})

    for labels in (
        docker_body(spec, ID, {"other": "ours"}, None)["Labels"],
        podman_body(spec, ID, {"other": "ours"}, None)["labels"],
    ):
        assert labels == {"other": "ours"}


def test_docker_joins_one_network_at_the_creation() -> None:
    """Docker before API 1.44 takes one network in the body: the others are joined after; Podman takes all."""
    back = ar.NetworkAttachment("back", ["db"])
    spec = ar.RunSpec(IMAGE, networks=["front", back])

    assert later_networks(spec, engine_with("docker", (), ())) == (back,)
    assert later_networks(spec, engine_with("podman", (), ())) == ()
    assert later_networks(ar.RunSpec(IMAGE), engine_with("docker", (), ())) == ()


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (GpuRequest(), {"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}),
        (CDI, {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]}),
    ],
    ids=["capability", "cdi"],
)
def test_docker_is_asked_for_the_gpu(gpu: GpuRequest, expected: dict[str, Any]) -> None:
    """Docker gets one device request: all GPUs by capability, or devices by CDI name."""
    body = docker_body(ar.RunSpec(IMAGE), ID, LABELS, gpu)

    assert body == DOCKER | {"HostConfig": {"Mounts": [], "DeviceRequests": [expected]}}


def test_podman_is_asked_for_the_gpu() -> None:
    """Podman gets one device for each CDI name, after the other devices."""
    body = podman_body(ar.RunSpec(IMAGE, devices=["/dev/fuse"]), ID, LABELS, CDI)

    paths = ["/dev/fuse:/dev/fuse:rwm", "nvidia.com/gpu=0", "nvidia.com/gpu=1"]
    assert body == PODMAN | {"devices": [{"path": path} for path in paths]}
