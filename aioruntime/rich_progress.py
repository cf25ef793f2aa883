"""Progress on a terminal: one bar for the whole, one for each layer in flight; needs rich (L0)."""

from __future__ import annotations

__all__ = ("RichProgress",)

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from rich.console import Console
    from rich.progress import Progress, TaskID

_DIGEST_SHOWN = len("sha256:") + 12


class RichProgress:
    """Draws progress with rich, on standard error, while something is going on.

    It clears its bars at each `finish`, so it can be given to one operation after another. Where
    standard error is not a terminal, only the closing lines are written.

    Args:
        console: where to draw; None for standard error.

    Raises:
        ImportError: rich is not installed; ``pip install 'aioruntime[cli]'`` brings it.
    """

    def __init__(self, console: Console | None = None) -> None:
        try:
            from rich.console import Console
        except ImportError as exc:
            raise ImportError("RichProgress needs rich: pip install 'aioruntime[cli]'") from exc
        self._console = console or Console(stderr=True)
        self._bars: Progress | None = None
        self._steps: dict[str, TaskID] = {}
        self._layers: dict[str, TaskID] = {}
        self._paused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._clear()

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        """Move the bar of the step called *message*."""
        bars = self._drawn()
        if message not in self._steps:
            self._steps[message] = bars.add_task(message, total=total)
        bars.update(self._steps[message], completed=current or 0, total=total)

    def layer(self, digest: str, current: int, total: int) -> None:
        """Move the bar of a layer; it goes when the layer is done."""
        bars = self._drawn()
        if current >= total:
            if (task := self._layers.pop(digest, None)) is not None:
                bars.remove_task(task)
            return
        if digest not in self._layers:
            self._layers[digest] = bars.add_task(f"  {digest[:_DIGEST_SHOWN]}", total=total)
        bars.update(self._layers[digest], completed=current)

    def finish(self, message: str) -> None:
        """Clear the bars and write *message*, if there is one."""
        self._clear()
        if message:
            self._console.print(message, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Draw nothing within the context."""
        self._paused = True
        if self._bars is not None:
            self._bars.stop()
        try:
            yield
        finally:
            self._paused = False
            if self._bars is not None:
                self._bars.start()

    def _drawn(self) -> Progress:
        if self._bars is None:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
            )
            self._bars = Progress(
                *columns,
                console=self._console,
                transient=True,
                disable=not self._console.is_terminal,
                # What the program around us prints goes where it always goes.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            if not self._paused:
                self._bars.start()
        return self._bars

    def _clear(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._steps, self._layers = None, {}, {}
