"""What a process did to the store, in a file that outlives it; and what the store owes for that.

A deed is promised once the call has returned. What undoes it counts from before its call on, since nobody
knows how far a killed process came; it counts no longer than its process lived.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Journal:
    """Lines of JSON, each there to stay when the call returns, whatever becomes of the process."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._numbers = itertools.count()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)

    @contextmanager
    def deed(self, kind: str, name: str = "") -> Iterator[None]:
        """Note that something is done, and when it was; one that raises is forgotten, as it did nothing."""
        number = next(self._numbers)
        self._write(number, kind, name)
        ending = "failed"
        try:
            yield
            ending = "done"
        finally:
            self._write(number, ending)

    def death(self) -> None:
        """Note that the process is dead."""
        self._write(-1, "dead")

    def _write(self, number: int, kind: str, name: str = "") -> None:
        os.write(self._fd, json.dumps([number, kind, name, time.monotonic()]).encode() + b"\n")


@dataclass(slots=True)
class Deed:
    """Something that was done between two moments, or was being done when its process died."""

    kind: str
    name: str
    begin: float
    end: float = math.inf
    done: bool = False


def deeds(paths: Iterable[Path]) -> list[Deed]:
    """Read journals."""
    return [deed for path in paths for deed in _read(path)]


def _read(path: Path) -> list[Deed]:
    found: dict[int, Deed] = {}
    open_deeds: set[int] = set()
    for line in path.read_text().splitlines():
        number, kind, name, when = json.loads(line)
        if kind == "dead":
            for each in open_deeds:
                found[each].end = when
        elif kind in ("done", "failed"):
            open_deeds.discard(number)
            found[number].end, found[number].done = when, kind == "done"
            if kind == "failed":
                del found[number]
        else:
            found[number] = Deed(kind, name, when)
            open_deeds.add(number)
    return list(found.values())


def owed(history: Iterable[Deed]) -> set[str]:
    """Return the names that have to be in the store.

    Those that were set, and that nobody has removed since, or begun to, nor squeezed out; and those that were
    pinned, and that nobody has unpinned since.
    """
    history = list(history)
    names: set[str] = set()
    for kept_by, undone_by in (("set", ("remove", "squeeze")), ("pin", ("unpin",))):
        undone: dict[str, float] = {}
        for deed in history:
            if deed.kind in undone_by:
                undone[deed.name] = max(undone.get(deed.name, -math.inf), deed.end)
        for deed in history:
            last = max(undone.get(deed.name, -math.inf), undone.get("", -math.inf))
            if deed.kind == kept_by and deed.done and deed.begin >= last:
                names.add(deed.name)
    return names
