"""Reporters: what they draw, and that they give the terminal back."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from aioruntime.progress import NoopProgress, finishing
from aioruntime.rich_progress import RichProgress

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("failure", [ValueError(), asyncio.CancelledError()])
def test_a_failed_operation_gives_the_cursor_back(failure: BaseException) -> None:
    """An operation that ends by an exception clears its bars as one that succeeds does."""
    console = terminal()
    progress = RichProgress(console)
    progress.update("fetching", 1, 2)
    with pytest.raises(type(failure)), finishing(progress):
        raise failure

    assert HIDE in drawn(console)
    assert drawn(console).rindex(SHOW) > drawn(console).rindex(HIDE)


def test_print_goes_where_it_always_goes(capsys: pytest.CaptureFixture[str]) -> None:
    """What the program prints while bars are drawn is not taken from its own streams."""
    progress = RichProgress(terminal())
    progress.update("fetching", 1, 2)
    print("from the program")
    progress.finish("done")

    assert capsys.readouterr().out == "from the program\n"


@pytest.mark.parametrize("begun", [True, False])
def test_nothing_is_drawn_in_a_pause(begun: bool) -> None:
    """Within `pause` nothing is drawn, also if the bars were not there yet; after it they are."""
    console = terminal()
    progress = RichProgress(console)
    if begun:
        progress.update("fetching", 1, 9)
    with progress.pause():
        before = drawn(console)
        progress.update("fetching", 2, 9)
        progress.layer("sha256:12", 1, 2)
        assert drawn(console) == before
    progress.update("fetching", 3, 9)
    progress.finish("done")

    assert len(drawn(console)) > len(before)


def test_saying_nothing() -> None:
    """The silent reporter takes everything."""
    progress = NoopProgress()
    progress.update("fetching")
    with progress.pause():
        progress.finish("done")
