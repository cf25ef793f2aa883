"""What an engine is and can do, read from its own documents (L2).

Capability decides what is done, never the text of an error.
"""

from __future__ import annotations

__all__ = ("EngineCapabilities", "ImageStoreKind", "SparseKind", "describe", "is_podman")

import hashlib
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from aioruntime.errors import EngineError, InvalidSpec, one_line
from aioruntime.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

ImageStoreKind: TypeAlias = Literal["graph", "containerd", "containers-storage"]
SparseKind: TypeAlias = Literal["prefix", "any"]
"""Which blobs that an engine holds an archive may leave out: the first of the chain, or any."""

# moby, layer/layer_store.go: maxLayerDepth.
_GRAPH_DRIVER_LAYERS = 125
# podman, RELEASE_NOTES.md: CDI since 3.2.0.
_PODMAN_CDI = (3, 2)
_CONTAINERD_STORE = ["driver-type", "io.containerd.snapshotter.v1"]


@dataclass(frozen=True, slots=True)
class EngineCapabilities:
    """What one engine is and can do.

    Attributes:
        kind: whose engine it is.
        version: the engine's version, such as ``20.10.24+dfsg1``.
        api_version: newest version of the Docker API that it speaks.
        min_api_version: oldest one.
        engine_id: names the engine's image store: the same as long as the store is the same.
        platform: what its containers run on.
        image_store: how it keeps images, which decides what its image IDs are.
        storage_driver: such as ``overlay2``.
        sparse: which layers that it holds a load may leave out.
        reads_layout: whether it loads an OCI image layout that has no ``manifest.json`` beside it.
        reads_zstd: whether it takes layers compressed with zstd.
        max_layers: most layers that an image may have; None for no known limit.
        loads_directory: whether it loads an image layout by path, if it is on this machine.
        local: whether it is reached by a unix socket, and so most likely is on this machine; one in a
            virtual machine or behind a forwarded socket does not see this machine's files all the same.
        cgroup_version: ``1`` or ``2``; None if it does not say.
        rootless: whether it runs without root's rights.
        cdi: whether a container can be given CDI devices.
        cdi_devices: CDI devices that it lists, such as ``nvidia.com/gpu=all``; Podman lists none.
        runtimes: names of the OCI runtimes that it can use.
        default_runtime: the one that it uses unless told otherwise.
        security: security features, such as ``seccomp`` or ``selinux``.
        cpus: processors of the engine's machine.
        memory: its memory in bytes.
        parts: what it consists of, names and versions, such as ``runc 1.1.5``.
        data_root: the directory on its machine that it keeps images in; empty if it does not say.
    """

    kind: Literal["docker", "podman"]
    version: str
    api_version: str
    min_api_version: str
    engine_id: str
    platform: Platform
    image_store: ImageStoreKind
    storage_driver: str
    sparse: SparseKind
    reads_layout: bool
    reads_zstd: bool
    max_layers: int | None
    loads_directory: bool = False
    local: bool = False
    cgroup_version: str | None = None
    rootless: bool = False
    cdi: bool = False
    cdi_devices: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    default_runtime: str = ""
    security: tuple[str, ...] = ()
    cpus: int = 0
    memory: int = 0
    parts: tuple[str, ...] = ()
    data_root: str = ""

    def as_text(self) -> dict[str, str]:
        """Return every attribute but the kind and version as text, lists joined by commas."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"os": self.platform.os, "architecture": self.platform.architecture}
        return {
            name: ",".join(value) if isinstance(value, tuple) else str(value)
            for name, value in values.items()
            if name not in ("kind", "version") and value is not None
        }

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor number of `version`; of an unreleased build, greater than any release."""
        return _release(self.version)


class _Component(msgspec.Struct, rename="pascal"):
    name: str = ""
    version: str = ""


class _Version(msgspec.Struct, rename="pascal"):
    version: str
    api_version: str
    min_api_version: str = msgspec.field(default="", name="MinAPIVersion")
    os: str = "linux"
    arch: str = "amd64"
    components: list[_Component] | None = None


class _CdiDevice(msgspec.Struct, rename="pascal"):
    source: str = ""
    id: str = msgspec.field(default="", name="ID")


class _Info(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(default="", name="ID")
    driver: str = ""
    driver_status: list[list[str]] | None = None
    cgroup_version: str | None = None
    runtimes: dict[str, Any] | None = None
    default_runtime: str = ""
    security_options: list[str] | None = None
    cdi_spec_dirs: list[str] | None = msgspec.field(default=None, name="CDISpecDirs")
    discovered_devices: list[_CdiDevice] | None = None
    rootless: bool = False
    n_cpu: int = msgspec.field(default=0, name="NCPU")
    mem_total: int = 0
    docker_root_dir: str = ""
    name: str = ""


class _PodmanStore(msgspec.Struct, rename="camel"):
    graph_root: str = ""
    graph_driver_name: str = ""


class _PodmanHost(msgspec.Struct, rename="camel"):
    hostname: str = ""
    cgroup_version: str = ""


class _PodmanInfo(msgspec.Struct):
    store: _PodmanStore
    host: _PodmanHost


def _part(component: _Component) -> str:
    """Return a part's name and version as others write them; Podman tells what its programs print."""
    name = re.sub(r"OCI Runtime \((.*)\)", r"\1", component.name).lower().removesuffix(" engine")
    found = re.search(r"\d\S*", component.version.split("\n", 1)[0], re.ASCII)
    return one_line(f"{name} {found[0].rstrip(',') if found else '0'}")


def describe(
    version: Mapping[str, Any],
    info: Mapping[str, Any],
    libpod_info: Mapping[str, Any] | None = None,
    *,
    local: bool = False,
) -> EngineCapabilities:
    """Tell what the engine is that answered these documents.

    Args:
        version: the answer to ``/version``.
        info: the answer to ``/info``.
        libpod_info: on Podman, the answer to ``/libpod/info``.
        local: whether it was asked by a unix socket.

    Raises:
        EngineError: a document lacks what every engine tells; the message names the field.
    """
    try:
        about = msgspec.convert(version, _Version)
        state = msgspec.convert(info, _Info)
        podman = None if libpod_info is None else msgspec.convert(libpod_info, _PodmanInfo)
        platform = Platform(about.os, about.arch)
    except (msgspec.ValidationError, InvalidSpec) as exc:
        raise EngineError(f"the engine describes itself in an unknown way: {one_line(str(exc))}") from exc
    podman_engine = is_podman(version)
    store: ImageStoreKind = "graph"
    if podman_engine:
        store = "containers-storage"
    elif _CONTAINERD_STORE in (state.driver_status or ()):
        store = "containerd"
    release = _release(about.version)
    security = tuple(_option_name(option) for option in state.security_options or ())
    return EngineCapabilities(
        kind="podman" if podman_engine else "docker",
        version=about.version,
        api_version=about.api_version,
        min_api_version=about.min_api_version or about.api_version,
        engine_id=_podman_id(state, podman) if podman_engine else _docker_id(state),
        platform=platform,
        image_store=store,
        storage_driver=state.driver,
        sparse="prefix" if store == "graph" else "any",
        reads_layout=store != "graph",
        reads_zstd=store != "graph" or release >= (23, 0),
        max_layers=_GRAPH_DRIVER_LAYERS if store == "graph" or (podman_engine and release < (5, 0)) else None,
        loads_directory=podman_engine and release >= (5, 7),
        local=local,
        cgroup_version=state.cgroup_version or (podman.host.cgroup_version.lstrip("v") if podman else None),
        rootless=state.rootless or "rootless" in security,
        parts=tuple(_part(component) for component in about.components or ()),
        # Docker lists no directory where CDI is off; Podman has no switch for it.
        cdi=release >= _PODMAN_CDI if podman_engine else bool(state.cdi_spec_dirs),
        cdi_devices=tuple(d.id for d in state.discovered_devices or () if d.source == "cdi"),
        runtimes=tuple(sorted(state.runtimes or ())),
        default_runtime=state.default_runtime,
        security=security,
        cpus=state.n_cpu,
        memory=state.mem_total,
        data_root=podman.store.graph_root if podman else state.docker_root_dir,
    )


def is_podman(version: Mapping[str, Any]) -> bool:
    """Tell whether a ``/version`` document is Podman's."""
    components = version.get("Components")
    return isinstance(components, list) and any(
        isinstance(c, dict) and c.get("Name") == "Podman Engine" for c in components
    )


def _docker_id(info: _Info) -> str:
    """Name Docker's image store: daemons of a machine share an ID before 23.0, stores of a daemon later."""
    return _named("docker", info.id, info.docker_root_dir, info.driver)


def _podman_id(info: _Info, podman: _PodmanInfo | None) -> str:
    """Name Podman's storage: its own ``/info.ID`` is a random UUID, new with every answer."""
    host = podman.host.hostname if podman else info.name
    root = podman.store.graph_root if podman else info.docker_root_dir
    driver = podman.store.graph_driver_name if podman else info.driver
    return _named("podman", host, root, driver)


def _named(kind: str, *parts: str) -> str:
    return f"{kind}-" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"v?(\d+)\.(\d+)", version, re.ASCII)
    return (int(found[1]), int(found[2])) if found and int(found[1]) else (9999, 0)


def _option_name(option: str) -> str:
    """Take ``seccomp`` out of ``name=seccomp,profile=default``."""
    return option.partition(",")[0].removeprefix("name=")
