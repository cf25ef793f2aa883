"""Write the configuration of a private Podman: containers, storage, registries and its network."""

from __future__ import annotations

import hashlib
import json
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOOPBACKS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "localhost")


def write(root: Path, data: Path, bridge: str, insecure: Sequence[str]) -> dict[str, str]:
    """Write Podman's configuration files; return the variables that point at them."""
    nofile, nproc = _limits()
    containers = root / "containers.conf"
    containers.write_text(
        f"""[containers]
default_ulimits = ["nofile={nofile}:{nofile}", "nproc={nproc}:{nproc}"]
[engine]
runtime = "runc"
# Podman's own is one more package; this one comes with Docker.
init_path = "/usr/bin/tini-static"
cgroup_manager = "cgroupfs"
events_logger = "file"
# The default lock is one shared memory object for all of root's Podmans.
lock_type = "file"
tmp_dir = "{root}/t"
image_copy_tmp_dir = "{root}/tmp"
volume_path = "{data}/volumes"
static_dir = "{data}/libpod"
[network]
network_config_dir = "{root}/networks"
"""
    )
    storage = root / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{data}"\nrunroot = "{root}/run"\n')
    _write_network(root, bridge)
    registries = root / "registries.conf"
    # A location without a port stands for all ports of the host.
    entries = "".join(
        f'[[registry]]\nlocation = "{place}"\ninsecure = true\n' for place in (*LOOPBACKS, *insecure)
    )
    registries.write_text(f'unqualified-search-registries = []\nshort-name-mode = "disabled"\n{entries}')
    return {
        "CONTAINERS_CONF": str(containers),
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_REGISTRIES_CONF": str(registries),
        "REGISTRY_AUTH_FILE": f"{root}/home/auth.json",
    }


def _write_network(root: Path, bridge: str) -> None:
    """Give the default network a bridge and a subnet of its own; podman0 is shared by all of root's."""
    seed = hashlib.sha256(str(root).encode()).digest()
    subnet = f"10.{200 + seed[0] % 50}.{seed[1]}"
    network = {
        "name": "podman",
        "id": seed.hex(),
        "driver": "bridge",
        "network_interface": bridge,
        "created": "2020-01-01T00:00:00Z",
        "subnets": [{"subnet": f"{subnet}.0/24", "gateway": f"{subnet}.1"}],
        "ipv6_enabled": False,
        "internal": True,
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
    }
    directory = root / "networks"
    directory.mkdir()
    (directory / "podman.json").write_text(json.dumps(network))


def _limits() -> tuple[int, int]:
    """Open files and processes for a container: what this machine allows without CAP_SYS_RESOURCE."""
    unlimited = resource.RLIM_INFINITY
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    return (
        20000 if files == unlimited else min(files, 20000),
        9000 if processes == unlimited else min(processes, 9000),
    )
