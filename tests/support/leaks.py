"""Tell what a piece of code left behind: open files, child processes, asyncio tasks."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import host


class Leaked(AssertionError):
    """Something was left behind; the message lists it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is open, running and scheduled at one moment."""

    files: frozenset[tuple[int, str]]
    children: frozenset[tuple[int, str]]
    tasks: frozenset[asyncio.Task[Any]]

    def new_since(self, before: Snapshot) -> list[str]:
        """Describe what is here and was not before."""
        # Engines have children of their own: whatever descends from what was there before is not ours.
        parents, known = host.parents(), {pid for pid, _ in before.children}
        new = {child for child in self.children - before.children if _is_ours(child[0], parents, known)}
        tasks = (repr(task) for task in self.tasks - before.tasks if not task.done())
        return [
            *(f"file {fd} -> {target}" for fd, target in sorted(self.files - before.files)),
            *(f"process {pid} {name}" for pid, name in sorted(new)),
            *sorted(tasks),
        ]


def snapshot() -> Snapshot:
    """Take stock now; the tasks are those of the running loop without the current one."""
    tasks: set[asyncio.Task[Any]] = set()
    with suppress(RuntimeError):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
    children = frozenset((pid, host.name_of(pid)) for pid in host.descendants(os.getpid()))
    return Snapshot(_open_files(), children, frozenset(tasks))


def assert_nothing_new(before: Snapshot) -> None:
    """Raise `Leaked` if anything is open, running or scheduled that was not before."""
    gc.collect()
    found = snapshot().new_since(before)
    if found:
        raise Leaked("left behind:\n  " + "\n  ".join(found))


async def assert_settles(before: Snapshot, seconds: float = 20.0) -> None:
    """As `assert_nothing_new`, but first give transports and tasks that are ending up to `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    # Nobody tells when a descriptor is closed or a process is gone.
    while snapshot().new_since(before) and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert_nothing_new(before)


def running_with(text: str) -> list[str]:
    """Describe the processes of the whole machine that have *text* in their arguments or environment.

    A snapshot can't see an orphan, whose parent is process 1. Give what may start one a TMPDIR of its own,
    and look for that: children inherit it.
    """
    found = []
    for pid in sorted(host.parents().keys() - {os.getpid()}):
        with suppress(OSError):
            told = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
            if text.encode() in b"\0".join(told):
                found.append(f"process {pid} {host.name_of(pid)}")
    return found


def _is_ours(pid: int, parents: dict[int, int], known: set[int]) -> bool:
    """Tell whether a process still lives and descends from this one by nothing that was there before."""
    while pid in parents and pid not in known:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def _open_files() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the descriptor of the listing itself is closed by now
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return frozenset(found)
