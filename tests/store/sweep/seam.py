"""The modules by which the store reaches the file system, with a fault at one call of them."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioruntime.store import directories, files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.store.sweep.record import Record

_ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS", "EMFILE")
_SHORT = {"short-read": ("pread", "read"), "short-write": ("pwrite", "write")}
_MODULES = ("os", "filelock", "tempfile", "fcntl", "shutil")
# These ask nothing of the file system, or never fail.
_PURE = frozenset(
    (
        "access",
        "sched_getaffinity",
        "fspath",
        "fsencode",
        "fsdecode",
        "strerror",
        "urandom",
        "umask",
        "cpu_count",
        "major",
        "minor",
        "kill",
    )
)
# Linux has let go of the descriptor, whatever it reports.
_DONE_ALL_THE_SAME = ("close", "unlock_descriptor")


@dataclass(frozen=True)
class Fault:
    """What happens at a call: "kill", an error, "short-read" or "short-write"; with "+", from then on."""

    name: str

    @property
    def kind(self) -> str:
        return self.name.removesuffix("+")

    @property
    def lasting(self) -> bool:
        return self.name.endswith("+")

    @property
    def number(self) -> int | None:
        return getattr(errno, self.kind) if self.kind in _ERRORS else None

    def concerns(self, call: str) -> bool:
        return call in _SHORT.get(self.kind, (call,))


FAULTS = (
    Fault("kill"),
    *(Fault(name + lasting) for name in (*_ERRORS, *_SHORT) for lasting in ("", "+")),
)


class Seam:
    """Counts the calls; the fault comes at the one with number *at*, or never."""

    def __init__(self, record: Record, fault: Fault | None = None, at: int = 0) -> None:
        self.happened = False
        self._record = record
        self._fault = fault
        self._at = at
        self._number = 0
        self._lock = threading.Lock()

    def install(self) -> None:
        for module, name in itertools.product((files, directories), _MODULES):
            if hasattr(module, name):
                setattr(module, name, _Module(getattr(module, name), self))

    def call(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...], named: Any) -> Any:
        with self._lock:
            self._number += 1
            first = self._number == self._at
            fault = self._fault if first or (self._at and self._number > self._at) else None
        if self._fault is None:
            self._record.say("call", name)
        if fault is None or not (first or fault.lasting) or not fault.concerns(name):
            return function(*arguments, **named)
        if first:
            self.happened = True
            self._record.say("fault", name, _subject(arguments))
            self._record.say("kind", fault.kind)
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.number is None:
            return function(*_shortened(name, arguments), **named)
        if name in _DONE_ALL_THE_SAME:
            function(*arguments, **named)
        raise OSError(fault.number, os.strerror(fault.number))


class _Module:
    """A module, but for its functions."""

    def __init__(self, module: Any, seam: Seam) -> None:
        self._module = module
        self._seam = seam

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found) or isinstance(found, type) or name in _PURE or name.startswith("get"):
            return found
        return lambda *arguments, **named: self._seam.call(name, found, arguments, named)


def _subject(arguments: tuple[Any, ...]) -> str:
    """Return the path that a call is about."""
    if arguments and isinstance(arguments[0], int):
        return os.readlink(f"/proc/self/fd/{arguments[0]}")
    return str(arguments[0]) if arguments else ""


def _shortened(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Ask for half of what is to be read or written, but for one byte at least."""
    descriptor, what, *rest = arguments
    if isinstance(what, int):
        return descriptor, max(1, what // 2), *rest
    return descriptor, bytes(what[: max(1, len(what) // 2)]), *rest
