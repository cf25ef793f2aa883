"""The bodies that create containers: what each field of a specification becomes, on either engine."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import aioruntime as ar
from aioruntime.runtime.create import docker_body, podman_body
from aioruntime.runtime.gpu import GpuRequest

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
        {
            "HostConfig": {
                "Mounts": [
                    {"Type": "bind", "Source": "/host/a:b,c", "Target": "/rw", "ReadOnly": False},
                    {"Type": "bind", "Source": "/host", "Target": "/ro", "ReadOnly": True},
                ]
            }
        },
        {
            "mounts": [
                {"type": "bind", "source": "/host/a:b,c", "destination": "/rw", "options": ["rbind", "rw"]},
                {"type": "bind", "source": "/host", "destination": "/ro", "options": ["rbind", "ro"]},
            ]
        },
    ),
]


@pytest.mark.parametrize(("fields", "docker", "podman"), FIELDS, ids=[",".join(f[0]) or "-" for f in FIELDS])
def test_fields_reach_both_engines(
    fields: dict[str, Any], docker: dict[str, Any], podman: dict[str, Any]
) -> None:
    """Each field is said in each engine's own words; what is not given is left to the image."""
    spec = ar.RunSpec(IMAGE, **fields)

    assert docker_body(spec, ID, LABELS, None) == DOCKER | docker
    assert podman_body(spec, ID, LABELS, None) == PODMAN | podman


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
    """Podman gets one device for each CDI name."""
    body = podman_body(ar.RunSpec(IMAGE), ID, LABELS, CDI)

    assert body == PODMAN | {"devices": [{"path": "nvidia.com/gpu=0"}, {"path": "nvidia.com/gpu=1"}]}
