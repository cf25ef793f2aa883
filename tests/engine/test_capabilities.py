"""What an engine says of itself is read as what it is and can do: recorded, running and made-up ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.engine.capabilities import describe
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.errors import EngineError
from tests.engine import documents

if TYPE_CHECKING:
    from tests.support.engines import Engine

Documents = tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]


RECORDED: dict[str, tuple[Documents, dict[str, object]]] = {
    "docker-20.10": (
        documents.DOCKER_20,
        {
            "kind": "docker",
            "version": "20.10.24+dfsg1",
            "min_api_version": "1.12",
            "api_version": "1.41",
            "image_store": "graph",
            "storage_driver": "overlay2",
            "sparse": "prefix",
            "reads_layout": False,
            "reads_zstd": False,
            "max_layers": 125,
        },
    ),
    "docker-26.1": (
        documents.DOCKER_26_OVERLAY2,
        {
            "kind": "docker",
            "version": "26.1.5+dfsg1",
            "min_api_version": "1.24",
            "api_version": "1.45",
            "image_store": "graph",
            "storage_driver": "overlay2",
            "sparse": "prefix",
            "reads_layout": False,
            "reads_zstd": True,
            "max_layers": 125,
            "cdi": True,
        },
    ),
    "docker-26.1-containerd": (
        documents.DOCKER_26_CONTAINERD,
        {
            "kind": "docker",
            "version": "26.1.5+dfsg1",
            "min_api_version": "1.24",
            "api_version": "1.45",
            "image_store": "containerd",
            "storage_driver": "overlayfs",
            "sparse": "any",
            "reads_layout": True,
            "reads_zstd": True,
            "max_layers": None,
            "cdi": True,
        },
    ),
    "podman-4.3": (
        documents.PODMAN_4,
        {
            "kind": "podman",
            "version": "4.3.1",
            "min_api_version": "1.24",
            "api_version": "1.41",
            "image_store": "containers-storage",
            "storage_driver": "overlay",
            "sparse": "any",
            "reads_layout": True,
            "reads_zstd": True,
            "max_layers": 125,
            "cdi": True,
        },
    ),
    "podman-5.4": (
        documents.PODMAN_5,
        {
            "kind": "podman",
            "version": "5.4.2",
            "min_api_version": "1.24",
            "api_version": "1.41",
            "image_store": "containers-storage",
            "storage_driver": "overlay",
            "sparse": "any",
            "reads_layout": True,
            "reads_zstd": True,
            "max_layers": None,
            "cdi": True,
        },
    ),
}
# What none of the recorded engines is or has.
USUAL = {"rootless": False, "cdi": False, "cdi_devices": (), "loads_directory": False}


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_engines(name: str, local: bool) -> None:
    """What real engines say of themselves is read as what they are."""
    recorded, expected = RECORDED[name]
    found = describe(*recorded, local=local)

    expected = {**USUAL, **expected, "local": local}
    assert {field: getattr(found, field) for field in expected} == expected
    assert str(found.platform) == "linux/amd64"
    assert found.cgroup_version in ("1", "2")
    assert "runc" in found.runtimes
    assert found.cpus > 0 < found.memory
    assert all(isinstance(value, str) for value in found.as_text().values())


async def test_running_engines_are_the_recorded_ones(every_engine: Engine) -> None:
    """Each engine, asked now over its socket, is read as the recorded one of its generation."""
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as client:
        found = client.capabilities

    expected = next(
        expected
        for _, expected in RECORDED.values()
        if (expected["version"], expected["image_store"]) == (found.version, found.image_store)
    )
    expected = {**USUAL, **expected, "local": True}
    assert {field: getattr(found, field) for field in expected} == expected


def test_podman_is_known_by_its_storage() -> None:
    """Podman's engine ID stays when its /info.ID changes, and changes with the storage."""
    version, info, libpod = documents.PODMAN_4
    assert libpod is not None
    same = describe(version, {**info, "ID": "another"}, libpod)
    other = {**libpod, "store": {**libpod["store"], "graphRoot": "/elsewhere"}}
    assert describe(version, info, libpod).engine_id == same.engine_id
    assert describe(version, info, other).engine_id != same.engine_id


@pytest.mark.parametrize(
    "other", [{"ID": "another"}, {"DockerRootDir": "/elsewhere"}, {"Driver": "overlayfs"}, {"Name": "host"}]
)
def test_docker_is_known_by_its_store(other: dict[str, str]) -> None:
    """Two daemons with one ID, as before 23.0 all of a machine have, and two stores of one are told apart."""
    version, info, _ = documents.DOCKER_20
    same = other.get("Name") == info["Name"]
    assert (describe(version, info).engine_id == describe(version, {**info, **other}).engine_id) is same


@pytest.mark.parametrize(
    ("version", "release", "zstd", "by_path"),
    [("22.9.9", (22, 9), False, False), ("23.0.0", (23, 0), True, False), ("dev", (9999, 0), True, False)],
)
def test_docker_versions(version: str, release: tuple[int, int], zstd: bool, by_path: bool) -> None:
    """Docker reads zstd layers from 23.0 on; an unreleased build counts as newest."""
    about, info, _ = documents.DOCKER_20
    found = describe({**about, "Version": version}, info)
    assert (found.release, found.reads_zstd, found.loads_directory) == (release, zstd, by_path)


@pytest.mark.parametrize(("version", "by_path"), [("5.6.9", False), ("5.7.0-rc1", True), ("6.0.0", True)])
def test_podman_loads_directories(version: str, by_path: bool) -> None:
    """Podman loads a directory by path from 5.7 on."""
    about, info, libpod = documents.PODMAN_5
    assert describe({**about, "Version": version}, info, libpod).loads_directory is by_path


@pytest.mark.parametrize(("version", "deepest"), [("4.9.9", 125), ("5.0.0", None), ("5.8.6", None)])
def test_podman_depth(version: str, deepest: int | None) -> None:
    """Podman runs images of any depth from 5.0 on."""
    about, info, libpod = documents.PODMAN_5
    assert describe({**about, "Version": version}, info, libpod).max_layers == deepest


@pytest.mark.parametrize(
    ("recorded", "changes", "cdi"),
    [
        (documents.DOCKER_26_OVERLAY2, {"CDISpecDirs": ["/etc/cdi", "/var/run/cdi"]}, True),
        (documents.DOCKER_26_OVERLAY2, {"CDISpecDirs": []}, False),
        (documents.DOCKER_26_OVERLAY2, {"CDISpecDirs": None}, False),
        (documents.PODMAN_5, {"Version": "3.1.2"}, False),
        (documents.PODMAN_5, {"Version": "3.2.0"}, True),
    ],
)
def test_cdi(recorded: Documents, changes: dict[str, Any], cdi: bool) -> None:
    """Docker takes CDI devices if it looks for them in some directory, Podman from 3.2 on."""
    about, info, libpod = recorded
    assert describe({**about, **changes}, {**info, **changes}, libpod).cdi is cdi


@pytest.mark.parametrize(
    ("recorded", "changes", "rootless"),
    [
        (documents.DOCKER_26_CONTAINERD, {"SecurityOptions": ["name=seccomp", "name=rootless"]}, True),
        (documents.DOCKER_26_CONTAINERD, {"SecurityOptions": ["name=seccomp"]}, False),
        (documents.PODMAN_5, {"Rootless": True}, True),
    ],
)
def test_rootless(recorded: Documents, changes: dict[str, Any], rootless: bool) -> None:
    """A rootless Docker is known by its security options, a rootless Podman says it."""
    about, info, libpod = recorded
    assert describe(about, {**info, **changes}, libpod).rootless is rootless


@pytest.mark.parametrize("driver", ["overlay2", "btrfs", "zfs", "fuse-overlayfs", "vfs"])
def test_any_graph_driver(driver: str) -> None:
    """Every graph driver is spared a prefix only; a snapshotter of whatever name is no graph driver."""
    about, info, _ = documents.DOCKER_26_OVERLAY2
    graph = describe(about, {**info, "Driver": driver})
    snapshotter = {"Driver": driver, "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    containerd = describe(about, {**info, **snapshotter})

    assert (graph.sparse, graph.reads_layout, graph.max_layers) == ("prefix", False, 125)
    assert (containerd.sparse, containerd.reads_layout, containerd.max_layers) == ("any", True, None)


def test_cdi_devices() -> None:
    """CDI devices are listed without devices of other kinds."""
    about, info, _ = documents.DOCKER_26_CONTAINERD
    devices = [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}, {"Source": "other", "ID": "x"}]
    found = describe(about, {**info, "DiscoveredDevices": devices})
    assert found.cdi_devices == ("nvidia.com/gpu=all",)


@pytest.mark.parametrize("broken", [{"Version": 1}, {"ApiVersion": None}, {"Arch": "a/b"}])
def test_unknown_documents(broken: dict[str, Any]) -> None:
    """A document that no engine writes raises and names the field or value."""
    about, info, _ = documents.DOCKER_20
    with pytest.raises(EngineError, match="describes itself"):
        describe({**about, **broken}, info)
