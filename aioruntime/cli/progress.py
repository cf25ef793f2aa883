"""Progress as plain lines, for logs and pipes (L5)."""

from __future__ import annotations

__all__ = ("PlainProgress", "reporter")

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from aioruntime.rich_progress import RichProgress

if TYPE_CHECKING:
    from aioruntime.progress import ProgressReporter


class PlainProgress:
    """Writes a line when a step begins and when the operation is over."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        """Write *message* when it is a new one."""
        if message not in self._told:
            self._told.add(message)
            print(
                f"{message}…" if total is None else f"{message} ({total} bytes)…", file=sys.stderr, flush=True
            )

    def finish(self, message: str) -> None:
        """Write *message*, if there is one."""
        self._told.clear()
        if message:
            print(message, file=sys.stderr, flush=True)

    def pause(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: lines disturb nobody."""
        return nullcontext()


def reporter() -> ProgressReporter:
    """Return live bars where standard error is a terminal, plain lines otherwise."""
    return RichProgress() if sys.stderr.isatty() else PlainProgress()
