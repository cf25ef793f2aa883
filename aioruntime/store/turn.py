"""The right to do what only one may do at a time, in all tasks and processes (L2, blocking)."""

from __future__ import annotations

__all__ = ("Turn",)

from typing import TYPE_CHECKING

from aioruntime.store import files

if TYPE_CHECKING:
    from aioruntime.store.layout import Layout


class Turn:
    """A lock that goes with its holder, however that ends.

    Args:
        layout: the store's paths.
        name: what is to be done.

    Attributes:
        waited: whether somebody else had it first.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        self.waited = False
        self._layout = layout
        self._path = layout.turn(name)
        self._file: files.File | None = None

    def take(self) -> bool | None:
        """Take the lock; None if it is held by another and we must wait.

        In a store that may only be read there is none.
        """
        if self._layout.read_only:
            return True
        if self._layout.prepare():
            self._file = files.open_locked(self._path)
        if self._file is None:
            self.waited = True
            return None
        return True

    def give_back(self) -> None:
        """Release the lock and remove its file; harmless if it was not taken."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.unlink()
            finally:
                file.close()
