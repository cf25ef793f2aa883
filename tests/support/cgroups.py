"""Limit the memory of a child process, its share of the page cache included, by a control group (root)."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/sys/fs/cgroup")
_ENTER = 'echo $$ > "$0" && exec "$@"'


class NoMemoryLimit(Exception):
    """No control group can be made here."""


@contextmanager
def memory_limit(size: int) -> Iterator[tuple[str, ...]]:
    """Make a group within our own that may have so many bytes; give the words to put before a command.

    Raises:
        NoMemoryLimit: we may not.
    """
    where, limit = _own_group()
    group = where / f"aioruntime-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        raise NoMemoryLimit(str(exc)) from exc
    try:
        try:
            (group / limit).write_text(str(size))
        except OSError as exc:  # of version 2: our own group does not hand its memory on to others
            raise NoMemoryLimit(str(exc)) from exc
        yield ("sh", "-c", _ENTER, str(group / "cgroup.procs"))
    finally:
        group.rmdir()


def _own_group() -> tuple[Path, str]:
    """Return the directory of our own group, and the name of the limit in it."""
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            return _ROOT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    return _ROOT / groups[-1][2].lstrip("/"), "memory.max"
