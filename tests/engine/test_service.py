from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.engine import containers, service
from aioruntime.engine.client import EngineClient
from aioruntime.engine.podman_conf import merge, private_settings, read_settings, to_toml
from aioruntime.engine.service import private_podman, service_arguments
from aioruntime.errors import EngineUnavailable
from tests.support import host, killing
from tests.support.leaks import running_with

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

needs_podman = pytest.mark.skipif(shutil.which("podman") is None, reason="apt-get install podman")

_CHILD = """
import asyncio, sys
from pathlib import Path
from aioruntime.engine.service import private_podman

async def main():
    async with private_podman(root=Path(sys.argv[1]), runroot=Path(sys.argv[2])) as endpoint:
        directory = Path(endpoint.socket).parent
        print("up", directory)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def storage() -> Iterator[tuple[Path, Path]]:
    """A storage of its own for Podman, which refuses long paths."""
    with tempfile.TemporaryDirectory(prefix="art-", dir="/tmp") as directory:
        yield Path(directory, "root"), Path(directory, "run")
        host.unmount_below(Path(directory))


@pytest.fixture
def spool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short TMPDIR of its own, by which what was started is known."""
    with tempfile.TemporaryDirectory(prefix="art-", dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


@needs_podman
async def test_service_lives_with_its_context(storage: tuple[Path, Path]) -> None:
    """The service answers within its context and leaves neither process nor directory after it."""
    root, runroot = storage
    async with private_podman(root=root, runroot=runroot) as endpoint:
        assert endpoint.socket is not None
        directory = Path(endpoint.socket).parent
        assert directory.stat().st_mode & 0o777 == 0o700
        assert any("podman" in process for process in running_with(str(directory)))
        async with EngineClient.open(endpoint) as client:
            assert client.capabilities.kind == "podman"
            assert await containers.list_by_label(client, "x") == []
    assert not directory.exists()
    assert running_with(str(directory)) == []


@needs_podman
async def test_service_leaves_no_mount(storage: tuple[Path, Path]) -> None:
    """What Podman mounts for itself at its first start on a machine goes with the service."""
    root, runroot = storage
    async with private_podman(root=root, runroot=runroot) as endpoint, EngineClient.open(endpoint):
        assert host.mounts_below(root) == [str(root / "overlay")]
    assert host.mounts_below(root) == []


async def cancelled_at_its_spawn(monkeypatch: pytest.MonkeyPatch, work: Coroutine[Any, Any, None]) -> float:
    """Cancel *work* when it has just started a process; return the seconds until it has ended."""
    spawn = asyncio.create_subprocess_exec
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    spawned: list[float] = []

    async def spawning(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await spawn(*arguments, **options)
        spawned.append(loop.time())
        task.cancel()
        return process

    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", spawning)
        with pytest.raises(asyncio.CancelledError):
            await task
    return loop.time() - spawned[0]


def fake_podman(directory: Path, script: str) -> str:
    program = directory / "podman"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.slow
async def test_cancelled_right_after_the_spawn(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service whose context ends while it is being started ends at once, and nothing of it is left."""
    program = fake_podman(tmp_path, "exec sleep 600")

    async def start() -> None:
        async with private_podman(program=program):
            pass

    for _ in range(30):
        assert await cancelled_at_its_spawn(monkeypatch, start()) < 15  # starting may take 60, ending 20
        assert running_with(str(spool)) == []
        assert os.listdir(spool) == []


@pytest.mark.slow
@needs_podman
async def test_podman_cancelled_right_after_the_spawn(
    storage: tuple[Path, Path], spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with the real program, which has its own time to end in."""
    root, runroot = storage

    async def start() -> None:
        async with private_podman(root=root, runroot=runroot):
            pass

    began = time.monotonic()
    await start()
    limit = time.monotonic() - began + 15  # starting may take 60, ending 20
    for _ in range(10):
        assert await cancelled_at_its_spawn(monkeypatch, start()) < limit
        assert running_with(str(spool)) == []
        assert os.listdir(spool) == []
        assert host.mounts_below(root) == []


async def test_what_does_not_end_is_killed(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a last resort the service is killed together with the shell that watches it."""
    monkeypatch.setattr(service, "_STOP_SECONDS", 0.3)
    program = fake_podman(tmp_path, "trap '' TERM; echo up >&2; while :; do sleep 600; done")

    async def is_up(*_: object) -> None:
        assert host.poll(lambda: [log.read_text() for log in spool.glob("*/log")] == ["up\n"], 10)

    monkeypatch.setattr(service, "_until_it_answers", is_up)
    async with private_podman(program=program):
        assert len(running_with(str(spool))) > 1
    assert host.poll(lambda: running_with(str(spool)) == [], 2)
    assert os.listdir(spool) == []


@needs_podman
async def test_service_ends_when_we_are_killed(storage: tuple[Path, Path]) -> None:
    """A SIGKILL of our process ends the service and removes its directory as well."""
    program = killing.Program(code=_CHILD, arguments=tuple(map(str, storage)))
    outcome = await killing.kill_at_line(program, "^up")
    assert outcome.killed
    directory = outcome.stdout.split()[1]
    assert host.poll(lambda: not os.path.exists(directory) and not running_with(directory), 20)


async def test_program_that_ends_at_once(tmp_path: Path, spool: Path) -> None:
    """A service that does not start is told with its own words, and leaves nothing."""
    program = fake_podman(tmp_path, 'echo "no $1 today" >&2\nexit 125')
    with pytest.raises(EngineUnavailable, match=r"no --runtime today|no system today"):
        async with private_podman(program=program):
            pass
    assert os.listdir(spool) == []


async def test_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the podman program, that is what is told."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineUnavailable, match="podman is not installed"):
        async with private_podman():
            pass


def test_arguments() -> None:
    """The command names only what was chosen."""
    socket = Path("/s")
    plain = service_arguments("podman", socket, root=None, runroot=None, runtime=None)
    assert plain == ["podman", "system", "service", "--time=0", "unix:///s"]
    full = service_arguments("podman", socket, root=Path("/r"), runroot=Path("/rr"), runtime="runc")
    assert full[1:7] == ["--root", "/r", "--runroot", "/rr", "--runtime", "runc"]


def test_settings_of_the_user_are_kept(tmp_path: Path) -> None:
    """Files are merged in Podman's order, and what a user configured outlives our limits."""
    base = tmp_path / "containers.conf"
    base.write_text(
        '[engine]\nruntime="crun"\n[containers]\ndefault_ulimits=["nofile=5:5"]\nlog_size_max=1\n'
    )
    (tmp_path / "containers.conf.d").mkdir()
    (tmp_path / "containers.conf.d/1.conf").write_text('[engine]\nruntime="runc"\n')
    (tmp_path / "containers.conf.d/2.conf").write_text("broken [")
    settings = private_settings(read_settings({}, [base, tmp_path / "absent"]), 20, 30)
    assert settings == {
        "engine": {"runtime": "runc"},
        "containers": {"default_ulimits": ["nofile=5:5", "nproc=30:30"], "log_size_max": 1},
    }
    assert read_settings({"CONTAINERS_CONF": str(tmp_path / "containers.conf.d/1.conf")}, [base]) == {
        "engine": {"runtime": "runc"}
    }


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a": ["1"]}, {"a": ["2", {"append": True}]}, {"a": ["1", "2", {"append": True}]}),
    ],
)
def test_merge(base: dict[str, object], over: dict[str, object], merged: dict[str, object]) -> None:
    """Tables are merged, lists replaced unless they ask to be appended."""
    assert merge(base, over) == merged


def test_toml_is_read_back() -> None:
    """Settings are written so that they are read back the same."""
    settings = {
        "top": 1,
        "containers": {"a b": 'q"\\\x7fü😀\n', "list": ["x", {"append": True}], "on": False, "half": 0.5},
        "engine": {"runtimes": {"runc": ["/usr/bin/runc"]}, "empty": {}, "none": []},
        "machine": {},
    }
    assert tomllib.loads(to_toml(settings)) == settings
