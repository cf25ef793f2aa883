"""What a store promised before its process or its machine went, as a log outside of it tells."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class PromiseLog:
    """Written by who uses the store: before and after each call that promises something.

    A subject is what the promise is about, such as "name x"; its value what the store has for it from then
    on, None for nothing. One subject is changed by one task at a time.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def promise(self, subject: str, value: Any) -> Iterator[None]:
        """Note the promise before and, if it was given, after the call."""
        self.intend(subject, value)
        yield
        self._write("did", subject, value)

    def intend(self, subject: str, value: Any) -> None:
        """Note what may be found from now on, but is not promised."""
        self._write("will", subject, value)

    def _write(self, *entry: Any) -> None:
        os.write(self._fd, json.dumps(entry).encode() + b"\n")  # appended in one piece


@dataclass(slots=True)
class Promised:
    """What may be found for a subject: what was promised last, or what was being done after that."""

    values: list[Any] = field(default_factory=lambda: [None])


def read_promises(before: bytes, meanwhile: bytes = b"") -> dict[str, Promised]:
    """Return what is promised for each subject.

    Args:
        before: what had been written of the log before the cut.
        meanwhile: what was added while the power was being cut: it may be found, but needs not.
    """
    found: dict[str, Promised] = {}
    lines = [(line, True) for line in before.splitlines()] + [
        (line, False) for line in meanwhile.splitlines()
    ]
    for line, sure in lines:
        kind, subject, value = json.loads(line)
        promised = found.setdefault(subject, Promised())
        promised.values = [value] if kind == "did" and sure else [*promised.values, value]
    return found
