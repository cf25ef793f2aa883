"""Progress: the protocol that long operations report through, and the reporter that says nothing (L0)."""

from __future__ import annotations

__all__ = ("LayerProgress", "NoopProgress", "ProgressReporter", "finishing")

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator


class ProgressReporter(Protocol):
    """What is told of a long operation. Called on the event loop: return at once."""

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        """Tell that *current* of *total* bytes of the step called *message* are done (None: not known)."""

    def finish(self, message: str) -> None:
        """Tell that the operation is over, in one sentence; an empty one if an exception tells why."""

    def pause(self) -> AbstractContextManager[None]:
        """Return a context in which nothing is drawn, so that others can write to the terminal."""


@runtime_checkable
class LayerProgress(Protocol):
    """A reporter that can also show each layer in flight; asked for with ``isinstance``."""

    def layer(self, digest: str, current: int, total: int) -> None:
        """Tell that *current* of *total* bytes of layer *digest* are here; equal when it is done."""


class NoopProgress:
    """A reporter that says nothing."""

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        """Say nothing."""

    def finish(self, message: str) -> None:
        """Say nothing."""

    def pause(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()


@contextmanager
def finishing(progress: ProgressReporter) -> Iterator[None]:
    """Tell *progress* that the operation within the context is over if it ends by an exception."""
    try:
        yield
    except BaseException:
        progress.finish("")
        raise
