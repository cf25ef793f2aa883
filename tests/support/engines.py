"""Start private Docker and Podman daemons with data and sockets of their own; end them without a trace."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.support import host, podman_files
from tests.support.guard import Spec
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

Kind = Literal["docker", "podman"]

TRIXIE = Path("/var/cache/aioruntime-tests/trixie")
"""A Debian of its own, with newer engines, that `tests/bootstrap.sh` makes."""


@dataclass(frozen=True, slots=True)
class Flavor:
    """An engine that can be started: whose, from which Debian, and with which image store."""

    kind: Kind
    tree: Path | None = None
    containerd: bool = False


FLAVORS = {
    "docker-20.10": Flavor("docker"),
    "podman-4.3": Flavor("podman"),
    "docker-26.1": Flavor("docker", TRIXIE),
    "docker-26.1-containerd": Flavor("docker", TRIXIE, containerd=True),
    "podman-5.4": Flavor("podman", TRIXIE),
}

START_SECONDS = 60.0
STOP_SECONDS = 45.0
_ROOMY = 8 << 30
_REPOSITORY = Path(__file__).resolve().parents[2]
_PACKAGES = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "podman": "podman",
    "conmon": "conmon",
    "runc": "runc",
}
_NEEDS: dict[Kind, tuple[str, ...]] = {
    "docker": ("dockerd", "containerd", "runc"),
    "podman": ("podman", "conmon", "runc"),
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HIDDEN: dict[Kind, tuple[str, ...]] = {
    "docker": ("/run/docker",),
    "podman": ("/run/containers", "/run/libpod", "/run/netns", "/var/lib/containers"),
}


class EngineUnavailable(Exception):
    """This machine cannot run the engine; the message says what to install or to change."""


class EngineDied(RuntimeError):
    """The daemon ended, or did not answer in time; the message ends with its log."""


@dataclass(slots=True)
class Engine:
    """A running private engine; a context manager that ends it."""

    kind: Kind
    url: str
    socket: Path
    root: Path
    data: Path
    process: subprocess.Popen[str]
    log: Path
    env: dict[str, str] = field(repr=False)
    pid: int = 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemon, or start it again after `kill()`, and wait until it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write("start\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise EngineDied(f"the guard of {self.kind} ended: {self.process.communicate()[1]}")
        self.pid = int(line)
        if not host.poll(lambda: self.answers() or not self.is_alive(), START_SECONDS) or not self.is_alive():
            raise EngineDied(f"{self.kind} did not start; its log ends:\n{self.log_tail()}")

    def stop(self) -> None:
        """End daemon, helpers and containers and remove every file and mount; may be called twice."""
        if self.process.poll() is not None and self.process.stdin and self.process.stdin.closed:
            return
        try:
            _, errors = self.process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        if self.process.wait() or errors:
            raise RuntimeError(f"{self.kind} could not be cleaned up:\n{errors}")

    def kill(self) -> None:
        """SIGKILL the daemon and its containerd, as a crash or the kernel would; containers live on."""
        pids = self.pids()
        host.signal_all(pids, signal.SIGKILL)
        # Until the guard has collected them, dockerd takes the containerd that it finds noted for alive.
        if not host.poll(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10):
            raise RuntimeError(f"{self.kind} outlived SIGKILL")

    def pause(self) -> None:
        """SIGSTOP the daemon: its socket still accepts connections, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        if not host.poll(lambda: host.stopped(self.pid), 10):
            raise RuntimeError(f"{self.kind} could not be stopped")

    def resume(self) -> None:
        """SIGCONT the daemon."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def cdi(self) -> Path:
        """The directory of device descriptions that this engine, and no other, reads at each start."""
        return self.root / "cdi"

    def pids(self) -> list[int]:
        """The daemon's process id and, with Docker, its containerd's."""
        below = host.descendants(self.process.pid)
        return [pid for pid in below if pid == self.pid or host.name_of(pid) == "containerd"]

    def is_alive(self) -> bool:
        return host.alive(self.pid)

    def answers(self) -> bool:
        """Tell whether the engine answers a ping at this moment."""
        with suppress(OSError):
            return ask(self.socket, "GET", "/_ping", seconds=5)[0] == 200
        return False

    def version(self) -> dict[str, Any]:
        """What the engine says on /version."""
        found: dict[str, Any] = json.loads(ask(self.socket, "GET", "/version")[1])
        return found

    def containers(self) -> list[str]:
        """The IDs of the containers that its directory has, also of those that do not run."""
        kept = self.data / {"docker": "containers", "podman": "overlay-containers"}[self.kind]
        return sorted(path.name for path in kept.glob("*/"))

    def remove_containers(self) -> None:
        """Remove all containers and the volumes that they brought along."""
        for container in self.containers():
            target = f"/v1.40/containers/{container}?force=1&v=1"
            if self.kind == "podman":  # it would first wait as long as the container was given to stop
                target = f"/v4.0.0/libpod/containers/{container}?force=1&volumes=1&timeout=0"
            ask(self.socket, "DELETE", target)

    def log_tail(self, lines: int = 30) -> str:
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def require(flavor: Flavor) -> None:
    """Raise `EngineUnavailable` with the remedy if this machine cannot run the engine."""
    kind = flavor.kind
    if flavor.tree is not None and not (flavor.tree / "usr/bin/podman").exists():
        raise EngineUnavailable(f"{flavor.tree} is missing: run tests/bootstrap.sh as root")
    missing = [_PACKAGES[name] for name in _NEEDS[kind] if shutil.which(name, path=_PATH) is None]
    if missing:
        raise EngineUnavailable(
            f"{kind} is not installed: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    if os.geteuid() != 0:
        raise EngineUnavailable(f"a private {kind} needs root; run the tests as root")


def start_docker(
    flavor: Flavor = FLAVORS["docker-20.10"], *, data: Path | None = None, arguments: Sequence[str] = ()
) -> Engine:
    """Start a private `dockerd` that answers; `data` names the directory that its images shall be in."""
    require(flavor)
    root, data = _directories("docker", data)
    name = _bridge(root)
    (root / "daemon.json").write_text(json.dumps(_daemon_settings(flavor)))
    argv = (
        "dockerd",
        f"--config-file={root}/daemon.json",
        f"--data-root={data}",
        f"--exec-root={root}/x",
        f"--pidfile={root}/pid",
        f"--host=unix://{root}/s",
        # A bridge of its own: the default docker0 is shared with other daemons, and --bridge=none deletes it.
        f"--bridge={name}",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-masq=false",
        "--userland-proxy=false",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent=/{name}",
        "--shutdown-timeout=1",
        *arguments,
    )
    return _start(flavor, root, data, argv, _environment(root), makes_bridge=True, cgroup=name)


def _daemon_settings(flavor: Flavor) -> dict[str, Any]:
    if flavor.tree is None:
        return {}  # Docker 20.10 knows none of these
    return {"features": {"containerd-snapshotter": flavor.containerd, "cdi": True}}


def start_podman(
    flavor: Flavor = FLAVORS["podman-4.3"],
    *,
    data: Path | None = None,
    insecure: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> Engine:
    """Start a private `podman system service` that answers.

    Plain-HTTP registries on loopback are allowed on every port; `insecure` names more (`host:port`).
    """
    require(flavor)
    root, data = _directories("podman", data)
    env = _environment(root) | podman_files.write(root, data, _bridge(root), insecure)
    argv = (
        "podman",
        f"--root={data}",
        f"--runroot={root}/run",
        f"--tmpdir={root}/t",
        *arguments,
        "system",
        "service",
        "--time=0",
        f"unix://{root}/s",
    )
    return _start(flavor, root, data, argv, env)


def start(flavor: Flavor, *, data: Path | None = None) -> Engine:
    """Start the engine of the given flavor."""
    return start_docker(flavor, data=data) if flavor.kind == "docker" else start_podman(flavor, data=data)


def _start(
    flavor: Flavor, root: Path, data: Path, argv: tuple[str, ...], env: dict[str, str], **settings: Any
) -> Engine:
    log = root / "log"
    tree = str(flavor.tree or "")
    hidden = tuple(f"{tree}{directory}" for directory in _HIDDEN[flavor.kind])
    spec = Spec(
        argv,
        env,
        str(log),
        (str(data), str(root)),
        hidden,
        _bridge(root),
        tree=tree,
        cdi=f"{root}/cdi",
        **settings,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.guard", spec.to_json()],
        cwd=_REPOSITORY,
        env={"PATH": _PATH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    engine = Engine(flavor.kind, f"unix://{root}/s", root / "s", root, data, process, log, env)
    try:
        engine.start()
    except BaseException:
        engine.stop()
        raise
    return engine


def _directories(kind: Kind, data: Path | None) -> tuple[Path, Path]:
    """A fresh short directory for the sockets, and one for the data; both are removed at the end."""
    # Sockets below it carry 64-character ids and must stay under 108 bytes: hence the short names.
    root = Path(tempfile.mkdtemp(prefix=f"ai-{kind[0]}-", dir=_base()))
    for name in ("home", "tmp", "run", "t", "cdi"):
        (root / name).mkdir(mode=0o700)
    return root, root / "data" if data is None else Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=data))


def _base() -> str:
    with suppress(OSError):
        space = os.statvfs("/dev/shm")
        if space.f_bavail * space.f_frsize >= _ROOMY:
            return "/dev/shm"
    chosen = tempfile.gettempdir()
    return chosen if len(chosen) <= 16 else "/tmp"


def _environment(root: Path) -> dict[str, str]:
    """The daemon's whole environment: nothing of the tester's own settings, proxies or credentials."""
    return {
        "PATH": _PATH,
        "HOME": f"{root}/home",
        "TMPDIR": f"{root}/tmp",
        "XDG_RUNTIME_DIR": f"{root}/run",
        "LANG": "C.UTF-8",
    }


def _bridge(root: Path) -> str:
    """Name of the engine's own bridge: at most 15 characters."""
    return f"ai{root.name[-8:]}"
