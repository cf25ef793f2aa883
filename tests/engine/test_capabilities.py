from __future__ import annotations

from typing import Any

import pytest

from aioruntime.engine.capabilities import describe
from aioruntime.errors import EngineError
from tests.engine import documents

Documents = tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (documents.DOCKER_20, ("docker", "20.10.24+dfsg1", "1.41", "graph", "overlay2", False, 125)),
        (documents.DOCKER_26_OVERLAY2, ("docker", "26.1.5+dfsg1", "1.45", "graph", "overlay2", True, 125)),
        (
            documents.DOCKER_26_CONTAINERD,
            ("docker", "26.1.5+dfsg1", "1.45", "containerd", "overlayfs", True, None),
        ),
        (documents.PODMAN_4, ("podman", "4.3.1", "1.41", "containers-storage", "overlay", True, 125)),
        (documents.PODMAN_5, ("podman", "5.4.2", "1.41", "containers-storage", "overlay", True, None)),
    ],
)
def test_recorded_engines(recorded: Documents, expected: tuple[object, ...]) -> None:
    """What real engines say of themselves is read as what they are."""
    found = describe(*recorded)
    assert (
        found.kind,
        found.version,
        found.api_version,
        found.image_store,
        found.storage_driver,
        found.reads_zstd,
        found.max_layers,
    ) == expected
    assert str(found.platform) == "linux/amd64"
    assert found.cgroup_version in ("1", "2")
    assert "runc" in found.runtimes
    assert found.cpus > 0 < found.memory
    assert all(isinstance(value, str) for value in found.as_text().values())


def test_podman_is_known_by_its_storage() -> None:
    """Podman's engine ID stays when its /info.ID changes, and changes with the storage."""
    version, info, libpod = documents.PODMAN_4
    assert libpod is not None
    same = describe(version, {**info, "ID": "another"}, libpod)
    other = {**libpod, "store": {**libpod["store"], "graphRoot": "/elsewhere"}}
    assert describe(version, info, libpod).engine_id == same.engine_id
    assert describe(version, info, other).engine_id != same.engine_id


def test_docker_is_known_by_its_id() -> None:
    """Docker's engine ID is the one it keeps on disk."""
    version, info, _ = documents.DOCKER_20
    assert describe(version, info).engine_id == info["ID"]


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


def test_cdi_and_rootless() -> None:
    """CDI devices are listed without devices of other kinds, and a rootless Docker is seen."""
    about, info, _ = documents.DOCKER_26_CONTAINERD
    devices = [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}, {"Source": "other", "ID": "x"}]
    options = ["name=seccomp,profile=builtin", "name=rootless"]
    found = describe(about, {**info, "DiscoveredDevices": devices, "SecurityOptions": options})
    assert found.cdi_devices == ("nvidia.com/gpu=all",)
    assert found.security == ("seccomp", "rootless")
    assert found.rootless


@pytest.mark.parametrize("broken", [{"Version": 1}, {"ApiVersion": None}, {"Arch": "a/b"}])
def test_unknown_documents(broken: dict[str, Any]) -> None:
    """A document that no engine writes raises and names the field or value."""
    about, info, _ = documents.DOCKER_20
    with pytest.raises(EngineError, match="describes itself"):
        describe({**about, **broken}, info)
