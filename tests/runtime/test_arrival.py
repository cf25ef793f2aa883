"""That what a specification says arrives in the container, on engines of every generation."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.engine.frames import FrameDecoder
from aioruntime.runtime.docker_body import docker_body, later_networks
from aioruntime.runtime.podman_body import podman_body
from tests.runtime.test_gpu import engine_with
from tests.support.rootfs import import_image, program_tar
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engines import Engine

FILES = (
    *("/proc/1/cmdline", "/proc/self/status", "/proc/self/mountinfo", "/etc/resolv.conf", "/etc/hosts"),
    *("/proc/sys/kernel/hostname", "/proc/sys/net/core/somaxconn", "/ro/file", "/v/file"),
    # cgroup v1, then v2
    *("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max"),
    *("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpuset/cpuset.cpus"),
    *("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max"),
    *("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpuset.cpus"),
)
COMMANDS = {
    "soft": "ulimit -Sn",
    "hard": "ulimit -Hn",
    "group": "id -g",
    "directory": "pwd",
    "variable": 'echo "$A"',
    "writes to its root": "echo x > /file && echo yes",
    "writes to what is read-only": "echo x > /ro/other && echo yes",
    "writes to its volume": "echo kept > /v/file && echo yes",
    "opens its device to write": ": > /dev/n && echo yes",
    "opens its device to read": ": < /dev/n && echo yes",
    "tmpfs": "ls -ld /t",
    "input": "cat",
}
SCRIPT = "; ".join(
    [
        *(f'echo; echo "== {name}"; ( {command} ) 2>/dev/null' for name, command in COMMANDS.items()),
        *(f'echo; echo "== {name}"; cat {name} 2>/dev/null' for name in FILES),
    ]
)


@pytest.fixture
def image(every_engine: Engine) -> Iterator[str]:
    """An image with a shell; with all containers it is gone afterwards."""
    name = import_image(every_engine, "arrival", program_tar("sh", "cat", "ls", "id", "sleep"))
    yield name
    every_engine.remove_containers()
    for rest in ("volumes/arrival", "networks/arrival-front", "networks/arrival-back"):
        ask(every_engine.socket, "DELETE", f"/v1.40/{rest}")
    call(every_engine, "DELETE", f"images/{name}?force=1")


def call(engine: Engine, method: str, target: str, document: Any = None) -> Any:
    """Ask Docker's API, or Podman's own; the answer's document."""
    version = "v4.0.0/libpod" if target.startswith("libpod/") else "v1.40"
    body = None if document is None else json.dumps(document).encode()
    headers = {"Content-Type": "application/json"}
    path = f"/{version}/{target.removeprefix('libpod/')}"
    status, answer = ask(engine.socket, method, path, body=body, headers=headers)
    assert status < 300, f"{method} {target}: {status} {answer!r}"
    return json.loads(answer) if answer.strip().startswith((b"{", b"[")) else answer


def create(engine: Engine, spec: ar.RunSpec) -> str:
    docker = engine.kind == "docker"
    body = (docker_body if docker else podman_body)(spec, str(spec.image), {"aioruntime.test": "1"}, None)
    answer = call(engine, "POST", ("" if docker else "libpod/") + "containers/create", body)
    return str(answer["Id"])


def run(engine: Engine, spec: ar.RunSpec) -> str:
    """Run a container to its end; what it wrote to standard output."""
    container = create(engine, spec)
    call(engine, "POST", f"containers/{container}/start")
    call(engine, "POST", f"containers/{container}/wait")
    decoder = FrameDecoder()
    pieces = decoder.feed(call(engine, "GET", f"containers/{container}/logs?stdout=1"))
    return b"".join(piece.data for piece in pieces).decode()


@contextmanager
def running(engine: Engine, spec: ar.RunSpec) -> Iterator[dict[str, Any]]:
    """A container that runs; what the engine tells of it."""
    container = create(engine, spec)
    call(engine, "POST", f"containers/{container}/start")
    yield call(engine, "GET", f"containers/{container}/json")


def test_each_setting_arrives(every_engine: Engine, image: str, tmp_path: Path) -> None:
    """A container sees each thing that was said of it: limits, rights, files, names and mounts."""
    (tmp_path / "file").write_text("of the host")
    # Not one of those that every container has.
    device = next(path for path in ("/dev/fuse", "/dev/net/tun", "/dev/kmsg") if Path(path).exists())
    spec = ar.RunSpec(
        image,
        ["-c", SCRIPT],
        {"A": "x=y"},
        [
            ar.Mount(tmp_path, "/ro", read_only=True),
            ar.VolumeMount("arrival", "/v"),
            ar.TmpfsMount("/t", "1m", 0o700),
        ],
        working_dir="/proc",
        user="0:100",
        entrypoint="sh",
        hostname="box",
        dns=["9.9.9.9"],
        extra_hosts={"db": "10.0.0.1"},
        memory="64m",
        memory_swap="64m",
        cpus=0.5,
        cpuset="0",
        pids_limit=50,
        # Podman 4.3 raises the second to a million unless told, which not every machine lets it.
        ulimits=["nofile=100:200", "nproc=1000"],
        shm_size="2m",
        read_only=True,
        cap_add=["CHOWN"],
        cap_drop=["ALL"],
        security_opt=["no-new-privileges", "seccomp=unconfined"],
        devices=[f"{device}:/dev/n:r"],
        sysctls={"net.core.somaxconn": "99"},
        init=True,
    )

    parts = (part.partition("\n") for part in run(every_engine, spec).split("\n== ")[1:])

    said = {name: text.strip() for name, _, text in parts}
    assert (said["soft"], said["hard"], said["group"], said["variable"]) == ("100", "200", "100", "x=y")
    assert (said["directory"], said["/proc/sys/kernel/hostname"]) == ("/proc", "box")
    assert (said["/ro/file"], said["/v/file"]) == ("of the host", "kept")
    assert said["writes to its volume"] == "yes"
    assert (said["writes to its root"], said["writes to what is read-only"]) == ("", "")
    assert (said["opens its device to read"], said["opens its device to write"]) == ("yes", "")
    assert said["/proc/sys/net/core/somaxconn"] == "99"
    assert re.search(r"init|tini", said["/proc/1/cmdline"].split("\0")[0])
    assert "nameserver 9.9.9.9" in said["/etc/resolv.conf"]
    assert re.search(r"^10\.0\.0\.1\s+db", said["/etc/hosts"], re.MULTILINE)
    status = dict(re.findall(r"^(\w+):\s*(.*)$", said["/proc/self/status"], re.MULTILINE))
    assert (int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (1, "1", "0")
    assert status["Cpus_allowed_list"] == "0"
    assert said["tmpfs"].startswith("drwx------")
    mounts = said["/proc/self/mountinfo"]
    assert re.search(r" /t .* - tmpfs .*size=1024k", mounts)
    assert re.search(r" /dev/shm .* - tmpfs .*size=2048k", mounts)
    v1 = said["/sys/fs/cgroup/memory/memory.limit_in_bytes"]
    names = ("memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.cfs_quota_us", "cpuset/cpuset.cpus")
    if not v1:
        names = ("memory.max", "pids.max", "cpu.max", "cpuset.cpus")
    limits = [said[f"/sys/fs/cgroup/{name}"].split()[0] for name in names]
    assert limits == [str(64 << 20), "50", "50000", "0"]


def test_what_the_engine_tells_of_it(every_engine: Engine, image: str) -> None:
    """Ports, health check, restarts, how it is stopped, and labels are what the engine then tells."""
    spec = ar.RunSpec(
        image,
        ["sleep", "60"],
        ports=[80, ar.Port(81, 18081, "udp", "0.0.0.0")],
        health_check=ar.HealthCheck(["true"], 7, 6, 5, 4),
        restart="on-failure:3",
        stop_signal="SIGUSR1",
        stop_timeout=9,
        labels={"a": "b"},
        tty=True,
        stdin=True,
        networks=["bridge"],
    )

    with running(every_engine, spec) as told:
        ports = told["NetworkSettings"]["Ports"]
    config, host = told["Config"], told["HostConfig"]

    [port] = ports["80/tcp"]
    assert (port["HostIp"], int(port["HostPort"]) > 0) == ("127.0.0.1", True)
    assert [each["HostPort"] for each in ports["81/udp"]][:1] == ["18081"]
    check = config["Healthcheck"]
    seconds = [check[name] // 10**9 for name in ("Interval", "Timeout", "StartPeriod")]
    assert (check["Test"], seconds, check["Retries"]) == (["CMD", "true"], [7, 6, 4], 5)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert (config["StopSignal"], config["StopTimeout"]) in (("SIGUSR1", 9), ("10", 9))
    assert (config["Tty"], config["OpenStdin"]) == (True, True)
    assert {"a": "b", "aioruntime.test": "1"}.items() <= config["Labels"].items()


def test_networks_and_aliases(every_engine: Engine, image: str) -> None:
    """A container is in each network that was said, those later joined among them, by its aliases."""
    for name in ("arrival-front", "arrival-back"):
        if every_engine.kind == "docker":
            call(every_engine, "POST", "networks/create", {"Name": name})
        else:  # what answers names there is one more package, and without it Podman 5 can't remove them
            call(every_engine, "POST", "libpod/networks/create", {"name": name, "dns_enabled": False})
    back = ar.NetworkAttachment("arrival-back", ["db"])
    front = ar.NetworkAttachment("arrival-front", ["web", "www"])
    spec = ar.RunSpec(image, ["sleep", "60"], networks=[front, back])

    container = create(every_engine, spec)
    for network in later_networks(spec, engine_with(every_engine.kind, (), ())):
        joined = {"Container": container, "EndpointConfig": {"Aliases": list(network.aliases)}}
        call(every_engine, "POST", f"networks/{network.name}/connect", joined)
    call(every_engine, "POST", f"containers/{container}/start")

    networks = call(every_engine, "GET", f"containers/{container}/json")["NetworkSettings"]["Networks"]
    assert set(networks) == {"arrival-front", "arrival-back"}
    assert {"web", "www"} <= set(networks["arrival-front"]["Aliases"])
    assert "db" in networks["arrival-back"]["Aliases"]


@pytest.mark.parametrize(("network", "interfaces"), [("none", {"lo"}), ("host", set())])
def test_network_modes(every_engine: Engine, image: str, network: str, interfaces: set[str]) -> None:
    """Without a network there is the loopback alone; with the machine's all of it, and still a name."""
    script = "cat /proc/net/dev; echo name=$(cat /proc/sys/kernel/hostname)"
    said = run(every_engine, ar.RunSpec(image, ["sh", "-c", script], networks=[network], hostname="box"))

    seen = set(re.findall(r"^\s*(\S+):", said, re.MULTILINE))
    assert seen == interfaces if interfaces else len(seen) > 1
    assert "name=box" in said


def test_an_entry_point_is_dropped(every_engine: Engine, image: str) -> None:
    """An empty entry point runs the command alone, whatever the image says."""
    changes = "changes=ENTRYPOINT+%5B%22cat%22%5D&repo=localhost/arrival-entry"
    base = create(every_engine, ar.RunSpec(image, ["true"]))
    call(every_engine, "POST", f"commit?container={base}&{changes}", {})

    entered = "localhost/arrival-entry:latest"
    assert run(every_engine, ar.RunSpec(entered, ["sh", "-c", "echo plain"], entrypoint="")) == "plain\n"
    assert run(every_engine, ar.RunSpec(entered, ["-c", "echo other"], entrypoint=["sh"])) == "other\n"
    every_engine.remove_containers()
    call(every_engine, "DELETE", f"images/{entered}?force=1")


@pytest.mark.parametrize("every_engine", ["podman-4.3", "podman-5.4"], indirect=True)
def test_an_image_is_mounted_by_podman(every_engine: Engine, image: str) -> None:
    """The files of another image are seen, and can't be changed."""
    mount = ar.ImageMount(image, "/i")
    script = "ls /i/bin; echo x > /i/other && echo changed"

    said = run(every_engine, ar.RunSpec(image, ["sh", "-c", script], mounts=[mount])).split()

    assert "cat" in said
    assert "changed" not in said
