"""Documents recorded from engines, without the fields that nothing reads."""

from __future__ import annotations

from typing import Any

DOCKER_20: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None] = (
    {
        "Version": "20.10.24+dfsg1",
        "ApiVersion": "1.41",
        "MinAPIVersion": "1.12",
        "Os": "linux",
        "Arch": "amd64",
        "Components": [{"Name": "Engine", "Version": "20.10.24+dfsg1"}],
    },
    {
        "ID": "W4ZS:4H66:5U3S:GOCX:KHVJ:SIIK:BK5Q:IZAL:IUZQ:37W3:PS6C:ZNBQ",
        "Driver": "overlay2",
        "DriverStatus": [
            ["Backing Filesystem", "extfs"],
            ["Supports d_type", "true"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        "CgroupVersion": "1",
        "Runtimes": {"io.containerd.runc.v2": {}, "io.containerd.runtime.v1.linux": {}, "runc": {}},
        "DefaultRuntime": "runc",
        "SecurityOptions": ["name=seccomp,profile=default"],
        "NCPU": 2,
        "MemTotal": 25276502016,
        "DockerRootDir": "/var/lib/docker",
        "Name": "host",
    },
    None,
)
DOCKER_26_OVERLAY2: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None] = (
    {
        "Version": "26.1.5+dfsg1",
        "ApiVersion": "1.45",
        "MinAPIVersion": "1.24",
        "Os": "linux",
        "Arch": "amd64",
        "Components": [{"Name": "Engine", "Version": "26.1.5+dfsg1"}],
    },
    {
        "ID": "99fb5fbc-7b03-4529-a87a-464e031c488e",
        "Driver": "overlay2",
        "DriverStatus": [
            ["Backing Filesystem", "extfs"],
            ["Supports d_type", "true"],
            ["Using metacopy", "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        "CgroupVersion": "1",
        "Runtimes": {"io.containerd.runc.v2": {}, "runc": {}},
        "DefaultRuntime": "runc",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "NCPU": 2,
        "MemTotal": 25276502016,
        "DockerRootDir": "/var/lib/docker",
        "Name": "host",
        "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
    },
    None,
)
DOCKER_26_CONTAINERD: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None] = (
    {
        "Version": "26.1.5+dfsg1",
        "ApiVersion": "1.45",
        "MinAPIVersion": "1.24",
        "Os": "linux",
        "Arch": "amd64",
        "Components": [{"Name": "Engine", "Version": "26.1.5+dfsg1"}],
    },
    {
        "ID": "a4b6aaf9-b6b4-4a9b-9661-eeedbd6fd667",
        "Driver": "overlayfs",
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
        "CgroupVersion": "1",
        "Runtimes": {"io.containerd.runc.v2": {}, "runc": {}},
        "DefaultRuntime": "runc",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "NCPU": 2,
        "MemTotal": 25276502016,
        "DockerRootDir": "/var/lib/docker",
        "Name": "host",
        "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"],
    },
    None,
)
PODMAN_4: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None] = (
    {
        "Version": "4.3.1",
        "ApiVersion": "1.41",
        "MinAPIVersion": "1.24",
        "Os": "linux",
        "Arch": "amd64",
        "Components": [{"Name": "Podman Engine", "Version": "4.3.1"}],
    },
    {
        "ID": "f73bfd0e-fc08-464d-8379-9a34c18c1b04",
        "Driver": "overlay",
        "DriverStatus": [
            ["Backing Filesystem", "extfs"],
            ["Supports d_type", "true"],
            ["Native Overlay Diff", "true"],
            ["Using metacopy", "false"],
        ],
        "CgroupVersion": "1",
        "Runtimes": {"crun": {}, "kata": {}, "krun": {}, "runc": {}, "runj": {}, "runsc": {}},
        "DefaultRuntime": "runc",
        "SecurityOptions": ["name=seccomp,profile=default"],
        "NCPU": 2,
        "MemTotal": 25276502016,
        "DockerRootDir": "/var/lib/containers/storage",
        "Name": "host",
        "Rootless": False,
    },
    {
        "host": {"hostname": "host", "cgroupVersion": "v1"},
        "store": {
            "graphDriverName": "overlay",
            "graphRoot": "/var/lib/containers/storage",
            "runRoot": "/run/containers/storage",
        },
    },
)
PODMAN_5: tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None] = (
    {
        "Version": "5.4.2",
        "ApiVersion": "1.41",
        "MinAPIVersion": "1.24",
        "Os": "linux",
        "Arch": "amd64",
        "Components": [{"Name": "Podman Engine", "Version": "5.4.2"}],
    },
    {
        "ID": "cce26a24-d132-495f-9332-669c501dc4fc",
        "Driver": "overlay",
        "DriverStatus": [
            ["Using metacopy", "false"],
            ["Supports shifting", "false"],
            ["Supports volatile", "true"],
            ["Backing Filesystem", "extfs"],
            ["Supports d_type", "true"],
            ["Native Overlay Diff", "true"],
        ],
        "CgroupVersion": "1",
        "Runtimes": {
            "crun": {},
            "crun-vm": {},
            "crun-wasm": {},
            "kata": {},
            "krun": {},
            "ocijail": {},
            "runc": {},
            "runj": {},
            "runsc": {},
            "youki": {},
        },
        "DefaultRuntime": "crun",
        "SecurityOptions": ["name=seccomp,profile=default"],
        "NCPU": 2,
        "MemTotal": 25276502016,
        "DockerRootDir": "/var/lib/containers/storage",
        "Name": "host",
        "Rootless": False,
        "CDISpecDirs": None,
    },
    {
        "host": {"hostname": "host", "cgroupVersion": "v1"},
        "store": {
            "graphDriverName": "overlay",
            "graphRoot": "/var/lib/containers/storage",
            "runRoot": "/run/containers/storage",
        },
    },
)
