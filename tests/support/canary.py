"""Look for a secret wherever a program shows itself: errors with their frames' locals, and its children."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import host

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("shown_by", "shown_by_children")

_TESTS = str(Path(__file__).parents[1])


def shown_by(exc: BaseException) -> str:
    """All that a report of *exc* may have, of what it came from too, and of what was hidden from it.

    The frames of the tests themselves, which have to know the secret, are left out.
    """
    return "\n".join(line for each in _chain(exc) for line in _lines(each))


def shown_by_children() -> str:
    """Arguments and environment of every process that descends from this one."""
    texts = []
    for pid in sorted(host.descendants(os.getpid())):
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                texts.append(Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace"))
    return "\n".join(texts)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    todo, seen = [exc], set[int]()
    while todo:
        each = todo.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            todo += [other for other in (each.__cause__, each.__context__) if other is not None]
            todo += each.exceptions if isinstance(each, BaseExceptionGroup) else ()


def _lines(exc: BaseException) -> Iterator[str]:
    yield f"{exc} {exc!r} {getattr(exc, '__notes__', '')}"
    summary = traceback.TracebackException(type(exc), exc, exc.__traceback__, capture_locals=True)
    for frame in summary.stack:
        if not frame.filename.startswith(_TESTS):
            yield f"{frame.filename}:{frame.lineno} {frame.locals}"
