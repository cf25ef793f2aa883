"""Who holds a lock, in words."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import StoreBusy
from aioruntime.store import files, holders
from aioruntime.store.holders import holder_of
from aioruntime.store.threads import Threads
from tests.store.helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

# Locks a file as any program might, and says so; with "fork", a child keeps the lock and the parent ends.
_HOLD = """
import fcntl, os, signal, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
pid = os.fork() if "fork" in sys.argv else 0
if pid == 0:
    print(os.getpid(), flush=True)
    signal.alarm(60)
    signal.pause()
"""
_ASK = """
import pathlib, sys
from aioruntime.store.holders import holder_of
print(holder_of(pathlib.Path(sys.argv[1])))
"""


@contextmanager
def holding(path: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[int]:
    """Have another process hold the lock; gives the ID that it has for itself."""
    command = (*prefix, sys.executable, "-c", _HOLD, str(path), *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        if "fork" in arguments:
            process.wait()
        try:
            yield pid
        finally:
            process.kill()
            if "fork" in arguments:
                os.kill(pid, signal.SIGKILL)


def test_another_process(tmp_path: Path) -> None:
    """L10: its ID and program are told, not its arguments, which may be secrets."""
    with holding(tmp_path / "lock", "--password=s3cret") as pid:
        assert re.fullmatch(rf"process {pid} \(python[\d.]*\)", holder_of(tmp_path / "lock"))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/usr/bin/python3", "-m", "aioruntime", "pull", "s3cret"], "python3 -m aioruntime"),
        (["/usr/bin/python3", "/usr/bin/aioruntime", "s3cret"], "python3 aioruntime"),
        (["train", "--key", "s3cret"], "train"),
        ([""], ""),
    ],
)
def test_arguments_are_left_out(words: list[str], shown: str) -> None:
    """L10: of a command line, what it runs is told, and nothing that comes after."""
    assert holders._program(words) == shown


def test_a_stopped_process(tmp_path: Path) -> None:
    """L10: that the holder is stopped is told."""
    with holding(tmp_path / "lock") as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert holder_of(tmp_path / "lock").endswith("), which is stopped")


def test_ourselves(tmp_path: Path) -> None:
    """L10: our own lock is another task's."""
    held = files.open_locked(tmp_path / "lock")
    assert held is not None
    with held:
        assert holder_of(tmp_path / "lock") == "another task of this process"


def test_a_child_that_outlived_who_took_the_lock(tmp_path: Path) -> None:
    """L10: not the dead process is told, whose ID the system still names, but the child that has its lock."""
    with holding(tmp_path / "lock", "fork") as pid:
        assert files.open_locked(tmp_path / "lock") is None
        assert holder_of(tmp_path / "lock").startswith(f"process {pid} (python")


def test_a_process_in_a_pid_namespace_below(tmp_path: Path) -> None:
    """L10: the ID told is the one that means something here, not the one that the holder has for itself."""
    with holding(tmp_path / "lock", prefix=("unshare", "--pid", "--fork", "--kill-child")) as pid:
        told = holder_of(tmp_path / "lock")
    assert pid == 1
    found = re.fullmatch(r"process (\d+) \(python[\d.]*\)", told)
    assert found, told
    assert int(found[1]) > 1


def test_a_process_in_the_pid_namespace_above(tmp_path: Path) -> None:
    """L10: who can't be seen is not named."""
    with holding(tmp_path / "lock"):
        assert "on another machine or in another PID namespace" in told_in(
            ("unshare", "--pid", "--fork", "--mount-proc"), tmp_path / "lock"
        )


def test_another_user(tmp_path: Path) -> None:
    """L10: a holder of another user, whose descriptors we may not see, is named."""
    tmp_path.chmod(0o755)  # those above it may be closed, so it is looked for from within
    with holding(tmp_path / "lock") as pid:
        told = told_in(("setpriv", "--reuid=65534", "--clear-groups"), Path("lock"), cwd=tmp_path)
        assert told.startswith(f"process {pid} (python")


def test_an_overlay(tmp_path: Path) -> None:
    """L10: where the system tells another device of the lock than of the file, the holder is found."""
    script = f"""
        mkdir lower merged upper && mount -t tmpfs none upper && mkdir upper/u upper/w
        mount -t overlay none -o lowerdir=lower,upperdir=upper/u,workdir=upper/w merged
        {sys.executable} -c "$HOLD" merged/lock >pid &
        until [ -s pid ]; do :; done
        {sys.executable} -c "$ASK" merged/lock
        kill $!
    """
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOLD": _HOLD, "ASK": _ASK}
    command = ("unshare", "--mount", "sh", "-ec", script)
    told = subprocess.run(command, cwd=tmp_path, env=environ, check=True, stdout=subprocess.PIPE).stdout
    assert told.decode().startswith(f"process {(tmp_path / 'pid').read_text().strip()} (python")


def told_in(prefix: tuple[str, ...], path: Path, cwd: Path = ROOT) -> str:
    command = (*prefix, sys.executable, "-c", _ASK, str(path))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environ, cwd=cwd, check=True, stdout=subprocess.PIPE).stdout.decode()


def test_nobody(tmp_path: Path) -> None:
    """L10: a lock that is free is not said to be anybody's."""
    (tmp_path / "lock").touch()
    assert holder_of(tmp_path / "lock").startswith("nobody who can be seen from here")


def test_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L10: a system that does not tell is no reason to fail, nor is a file that is gone."""
    assert holder_of(tmp_path / "lock") == "another task or process"
    (tmp_path / "lock").touch()
    monkeypatch.setattr(holders, "_PROC", tmp_path / "proc")
    assert holder_of(tmp_path / "lock") == "another task or process"


def test_no_descriptor_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L5: a look that fails does not end the wait."""
    (tmp_path / "lock").touch()

    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", none_left)
    assert holder_of(tmp_path / "lock") == "another task or process"


async def test_a_wait_that_is_given_up(tmp_path: Path) -> None:
    """L16: after the time that was given, who holds it and what is held is told; nothing is left."""
    threads = Threads()

    def attempt() -> bool | None:
        file = files.open_locked(tmp_path / "lock")
        if file is None:
            return None
        file.close()
        return True

    with holding(tmp_path / "lock") as pid:
        for seconds in (0, 0.1):
            begin = time.monotonic()
            with pytest.raises(StoreBusy, match=rf"the store is held by process {pid} \(python"):
                await threads.poll(attempt, "the store", tmp_path / "lock", give_up=seconds)
            assert seconds <= time.monotonic() - begin < seconds + 30
        waiting = asyncio.create_task(threads.poll(attempt, "it", tmp_path / "lock", give_up=60))
        assert await asyncio.wait([waiting], timeout=0.05) == (set(), {waiting})
    async with asyncio.timeout(30):
        assert await waiting
