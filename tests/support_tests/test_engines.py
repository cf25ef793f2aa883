"""Private engines start, run containers, survive what tests do to them, and leave nothing behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests import conftest
from tests.support import engines, host
from tests.support.guard import Spec
from tests.support.rootfs import import_image, program_tar, run_image
from tests.support.scripted import ScriptedServer
from tests.support.served_image import make_image, serve_image
from tests.support.unixhttp import ask

REPOSITORY = Path(__file__).resolve().parents[2]
MARKER = "of-the-image"
every_flavor = pytest.mark.parametrize("own_engine", list(engines.FLAVORS), indirect=True)


class Footprint:
    """What one engine has on the machine: processes, mounts, directories, its bridge."""

    def __init__(self, engine: engines.Engine) -> None:
        self.pids = [engine.process.pid, *host.descendants(engine.process.pid)]
        self.names = {host.name_of(pid) for pid in self.pids}
        self._cgroups = host.cgroups_of(self.pids) - host.cgroups_of([os.getpid()])
        self._root = engine.root

    def left(self) -> list[str]:
        """What of it is still there."""
        return [
            *(f"process {pid} {host.name_of(pid)}" for pid in self.pids if host.alive(pid)),
            *(f"cgroup {path}" for path in self._cgroups if path.name != "conmon" and path.exists()),
            *host.mounts_below(self._root),
            *(str(path) for path in (self._root, self._bridge()) if path.exists()),
        ]

    def _bridge(self) -> Path:
        return Path("/sys/class/net", f"ai{self._root.name[-8:]}")


@pytest.fixture(scope="module")
def sleeper() -> bytes:
    return program_tar("sleep", "true")


@pytest.fixture
def running(own_engine: engines.Engine, sleeper: bytes) -> engines.Engine:
    """An engine with a container that sleeps and ignores SIGTERM, as first processes do."""
    run_image(own_engine, import_image(own_engine, "sleeper", sleeper), "sleep", "10000")
    guard = own_engine.process.pid
    # The engine answers when runc has begun to exec; the program's name shows when it is done.
    assert host.poll(lambda: "sleep" in {host.name_of(pid) for pid in host.descendants(guard)}, 10)
    return own_engine


def containers(engine: engines.Engine) -> list[str]:
    found: list[dict[str, str]] = json.loads(ask(engine.socket, "GET", "/v1.40/containers/json?all=1")[1])
    return [each["State"] for each in found]


def marked(*programs: str) -> bytes:
    """An image's files with one that no other root directory has."""
    buffer = io.BytesIO(program_tar(*programs))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        archive.addfile(tarfile.TarInfo(MARKER))
    return buffer.getvalue()


def executed(engine: engines.Engine, container: str, *command: str) -> str:
    """What a command in a container says, on one of its streams or the other."""
    headers = {"Content-Type": "application/json"}
    wanted = json.dumps({"Cmd": command, "AttachStdout": True, "AttachStderr": True, "Tty": True}).encode()
    target = f"/v1.40/containers/{container}/exec"
    exec_id = json.loads(ask(engine.socket, "POST", target, body=wanted, headers=headers)[1])["Id"]
    status, answer = ask(
        engine.socket, "POST", f"/v1.40/exec/{exec_id}/start", body=b'{"Tty": true}', headers=headers
    )
    assert status == 200, answer
    return answer.decode()


def test_answers(engine: engines.Engine) -> None:
    """A started engine answers /version on a socket of its own, in a directory of its own."""
    assert engine.version()["ApiVersion"] >= "1.40"
    assert engine.url == f"unix://{engine.socket}"
    assert engine.socket.is_socket()
    assert engine.socket.is_relative_to(engine.root)
    assert engine.is_alive()


def test_is_the_same_for_the_session(engine: engines.Engine, request: pytest.FixtureRequest) -> None:
    """The parametrized engine is the session's one of its kind."""
    assert request.getfixturevalue(f"{engine.kind}_engine") is engine


def test_exec_is_within_the_container(every_engine: engines.Engine) -> None:
    """A program that is executed in a container sees the files of its image, and none of the host's."""
    image = import_image(every_engine, "marked", marked("sleep", "ls"))
    container = run_image(every_engine, image, "sleep", "10000")
    try:
        found = set(executed(every_engine, container, "ls", "/").split())
        outside = executed(every_engine, container, "ls", str(REPOSITORY))
    finally:
        every_engine.remove_containers()
        assert ask(every_engine.socket, "DELETE", f"/v1.40/images/{image}?force=1")[0] == 200

    assert MARKER in found
    assert not found & {"boot", "home", "media", "mnt", "opt", "root", "srv", "var"}
    assert "No such file" in outside


@every_flavor
def test_stop_leaves_nothing(running: engines.Engine) -> None:
    """Stopping with a running container ends every process and removes mounts, groups, bridge and files."""
    footprint = Footprint(running)
    assert "sleep" in footprint.names
    assert footprint.names & {"containerd-shim", "conmon"}

    running.stop()

    assert footprint.left() == []
    running.stop()


def test_stop_of_a_paused_engine(running: engines.Engine) -> None:
    """An engine that is paused accepts connections and does not answer; it can still be stopped."""
    footprint = Footprint(running)
    running.pause()
    with pytest.raises(TimeoutError):
        ask(running.socket, "GET", "/_ping", seconds=0.1)

    running.stop()

    assert footprint.left() == []


def test_resume(own_engine: engines.Engine) -> None:
    """A paused engine answers again when resumed."""
    own_engine.pause()
    own_engine.resume()

    assert own_engine.answers()


@every_flavor
def test_kill_spares_containers(running: engines.Engine) -> None:
    """A killed engine is gone and its container lives on; a stop then still removes everything."""
    footprint = Footprint(running)

    running.kill()

    assert not running.is_alive()
    assert not running.answers()
    assert {host.name_of(pid) for pid in footprint.pids if host.alive(pid)} & {"sleep"}
    running.stop()
    assert footprint.left() == []


@every_flavor
def test_start_after_kill(own_engine: engines.Engine, sleeper: bytes) -> None:
    """A killed engine can be started again with the data that it had."""
    image = import_image(own_engine, "sleeper", sleeper)
    own_engine.kill()

    own_engine.start()

    run_image(own_engine, image, "true")
    assert len(containers(own_engine)) == 1


async def test_pulls_from_loopback_over_http(engine: engines.Engine, sleeper: bytes) -> None:
    """An engine pulls from a plain-HTTP registry on any port of 127.0.0.1 that came up after it."""
    async with ScriptedServer() as server:
        serve_image(server, make_image("some/sleeper", "1", [sleeper]))
        target = f"/v1.40/images/create?fromImage={server.origin}/some/sleeper&tag=1"

        status, answer = await asyncio.to_thread(ask, engine.socket, "POST", target)

    assert status == 200
    assert b'"error' not in answer
    name = f"{server.origin}/some/sleeper:1"
    assert ask(engine.socket, "DELETE", f"/v1.40/images/{name}?force=1")[0] == 200


def test_dies_with_its_owner(engine: engines.Engine) -> None:
    """When the process that started an engine is killed by SIGKILL, everything goes as with a stop."""
    code = f"""
import signal
from tests import conftest
from tests.support import engines, host
from tests.support.rootfs import import_image, program_tar, run_image
engine = engines.start(engines.Flavor({engine.kind!r}))
run_image(engine, import_image(engine, "sleeper", program_tar("sleep")), "sleep", "10000")
print(engine.root, engine.process.pid, *host.descendants(engine.process.pid), flush=True)
signal.pause()
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout is not None
    root, *pids = owner.stdout.readline().split()
    assert len(pids) >= 3
    os.killpg(owner.pid, signal.SIGKILL)
    owner.communicate()

    assert host.poll(lambda: not Path(root).exists() and not any(host.alive(int(p)) for p in pids), 30)


def test_two_at_once(engine: engines.Engine, sleeper: bytes) -> None:
    """Two engines of a kind run side by side: neither sees the other's images and containers."""
    with engines.start(engines.Flavor(engine.kind)) as other:
        run_image(other, import_image(other, "only-there", sleeper), "sleep", "10000")
        assert containers(other) == ["running"]
        assert ask(engine.socket, "GET", "/v1.40/images/localhost/only-there/json")[0] == 404
        run_image(engine, import_image(engine, "sleeper", sleeper), "true")
    assert engine.answers()
    ask(engine.socket, "POST", "/v1.40/containers/prune")


def test_data_elsewhere(engine: engines.Engine, tmp_path: Path) -> None:
    """The images can be put into a directory of the test's, of which a stop leaves no more than it was."""
    with engines.start(engines.Flavor(engine.kind), data=tmp_path) as other:
        assert any(other.data.iterdir())
        assert other.data.is_relative_to(tmp_path)
    assert not other.data.exists()


def test_environment_is_its_own(engine: engines.Engine) -> None:
    """The daemon's environment has no proxy, no credentials and no directory of the tester's."""
    inherited = Path(f"/proc/{engine.pid}/environ").read_bytes().decode().split("\0")
    names = {line.partition("=")[0] for line in inherited if line}

    assert names <= {
        *("PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "LANG", "REGISTRY_AUTH_FILE"),
        *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),
        # Podman sets these for itself.
        *("XDG_CONFIG_HOME", "_CONTAINERS_USERNS_CONFIGURED", "_CONTAINERS_ROOTLESS_UID"),
    }
    assert f"HOME={engine.root}/home" in inherited


def test_a_daemon_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that does not start raises with its log, and nothing is left of it."""
    monkeypatch.setattr(engines, "_base", lambda: str(tmp_path))
    try:
        engines.require(engines.Flavor("docker"))
    except engines.EngineUnavailable as missing:
        pytest.skip(str(missing))
    with pytest.raises(engines.EngineDied, match="unknown flag: --no-such-flag"):
        engines.start_docker(arguments=["--no-such-flag"])
    assert list(tmp_path.glob("ai-*")) == []


def test_missing_program_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a program is missing, the error names the Debian package to install."""
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)

    with pytest.raises(engines.EngineUnavailable, match=r"apt-get install .* podman conmon runc"):
        engines.require(engines.Flavor("podman"))


def test_no_engine_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program a test that needs an engine is skipped with the reason."""
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(pytest.skip.Exception, match="docker is not installed: apt-get install"):
        next(conftest.started("docker-20.10"))


def test_specs_survive_their_journey() -> None:
    """What the guard reads is what the owner wrote."""
    spec = Spec(
        ("a", "b"), {"X": "ü"}, "/log", ("/d",), ("/h",), "br", makes_bridge=True, cgroup="g", tree="/t"
    )

    assert Spec.from_json(spec.to_json()) == spec
