"""Who holds a lock (L2, blocking): told to whoever waits for it, in words.

Linux tells it in ``/proc``. A process is only ever named: its ID may be another's by the time it is read,
or mean another process in another PID namespace.
"""

from __future__ import annotations

__all__ = ("holder_of",)

import time
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.errors import StoreError, one_line
from aioruntime.store import directories, files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.store.directories import Status

_PROC = Path("/proc")
_UNKNOWN = "another task or process"
_UNSEEN = "nobody who can be seen from here; perhaps a process on another machine or in another PID namespace"
# Of the processor. Whoever waits can be cancelled between two calls only, so that this one has to be short.
_SEARCH_SECONDS = 0.03
_SHOWN = 3


def holder_of(path: Path) -> str:
    """Tell who holds the lock on a file, as far as that can be seen; never fails.

    Args:
        path: the file, such as a partial or the store's lock.

    Returns:
        Such as "process 4711 (python -m aioruntime), which is stopped", to follow "held by".
    """
    try:
        status = directories.lookup(path)
        own, _, _ = _read(_PROC / "self" / "stat").partition(" ")
        if status is None or not own:
            return _UNKNOWN
        named = dict.fromkeys(_lockers(_read(_PROC / "locks"), status))
        holders = [pid for pid in named if _holds(pid, path.name, status) is not False]
        # The one that is named may have died, and left its lock to a child that it had forked.
        holders = holders or [pid for pid in _processes() if _holds(pid, path.name, status)]
        told = ["another task of this process" if pid == own else _described(pid) for pid in holders]
    except StoreError:  # such as no descriptor left to read that with
        return _UNKNOWN
    more = [f"{len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    return " and ".join(told[:_SHOWN] + more) or _UNSEEN


def _lockers(lines: str, status: Status) -> list[str]:
    """List who has a lock on the file, from ``/proc/locks`` or from what is told of a descriptor."""
    found: list[tuple[str, str]] = []
    for line in lines.splitlines():
        fields = line.split()
        if "FLOCK" in fields and "->" not in fields:  # an arrow is of one who waits
            device, _, inode = fields[-3].rpartition(":")
            if inode == str(status.inode):
                found.append((device, fields[-4]))
    # Overlays and btrfs tell another device here than they tell of the file.
    same = [pid for device, pid in found if device == status.device_name]
    return same or [pid for _, pid in found]


def _holds(pid: str, name: str, status: Status) -> bool | None:
    """Tell whether a process has the file open with its lock on it; None if we may not see that."""
    opened = _PROC / pid / "fd"
    try:
        return any(
            # Quick, and no call to a file system that may hang; the path may be another for that process.
            directories.link_target(opened / number).endswith(name)
            and _lockers(_read(_PROC / pid / "fdinfo" / number), status)
            for number in directories.names_in(opened)
        )
    except StoreError:
        return None


def _processes() -> Iterator[str]:
    """Give the IDs of all processes, children before those who forked them, as long as there is time."""
    end = time.thread_time() + _SEARCH_SECONDS
    for pid in sorted(map(int, filter(str.isdigit, directories.names_in(_PROC))), reverse=True):
        if time.thread_time() > end:
            return
        yield str(pid)


def _described(pid: str) -> str:
    name, _, state = _read(_PROC / pid / "stat").partition("(")[2].rpartition(")")
    words = _read(_PROC / pid / "cmdline").rstrip("\0").split("\0")
    stopped = ", which is stopped" if state.lstrip()[:1] in ("T", "t") else ""
    return f"process {pid} ({one_line(_program(words) or name, 80)}){stopped}"


def _program(words: list[str]) -> str:
    """Return a command line up to what it runs; options and arguments may be secrets."""
    shown = words[:3] if words[1:2] == ["-m"] else [word for word in words[:2] if not word.startswith("-")]
    return " ".join(word.rpartition("/")[2] for word in shown)


def _read(path: Path) -> str:
    file = files.open_regular(path)
    if file is None:
        return ""
    with file:
        return file.read_at(0, 2**24).decode(errors="replace")
