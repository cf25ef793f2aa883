"""Processes that run a role of `tests.store.crowd.roles`, started fast, so that they can die often."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from multiprocessing.connection import Connection

_CONTEXT = multiprocessing.get_context("forkserver")
# What children would else import each time; pytest, since its script is their main module.
_CONTEXT.set_forkserver_preload(["pytest", "tests.store.crowd.roles"])


class Failed(AssertionError):
    """A process failed by itself."""


class Link:
    """A process's end of the line to the test."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def say(self, word: str) -> None:
        """Tell the test a word."""
        self._connection.send(word)

    async def told(self) -> None:
        """Wait until the test tells us to go on."""
        await asyncio.to_thread(self._connection.recv)

    @property
    def stopped(self) -> bool:
        """Whether the test has told us something."""
        return self._connection.poll()


class Member:
    """A process with a role, running when made; it is killed when the context is left."""

    def __init__(self, role: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        self._line, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_live, args=(theirs, role, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.join()
        self._line.close()

    def tell(self, word: str = "go") -> None:
        """Have it go on."""
        with suppress(BrokenPipeError):  # it has ended, and its last word tells why
            self._line.send(word)

    async def heard(self) -> str:
        """Wait for its next word; "end" is the last.

        Raises:
            Failed: it failed.
        """
        try:
            word: str = await asyncio.to_thread(self._line.recv)
        except EOFError:
            await asyncio.to_thread(self.process.join)
            raise Failed(f"ended with {self.process.exitcode} and no word") from None
        if word.startswith("Traceback"):
            raise Failed(word)
        return word

    async def killed(self) -> None:
        """Kill it with SIGKILL.

        Raises:
            Failed: it had ended by itself.
        """
        self.process.kill()
        await asyncio.to_thread(self.process.join)
        try:
            word = self._line.recv()
        except EOFError:
            word = ""
        if word or self.process.exitcode != -signal.SIGKILL:
            raise Failed(f"ended with {self.process.exitcode}: {word}")


def _live(
    connection: Connection, role: Callable[..., Coroutine[Any, Any, None]], arguments: tuple[object, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the test ends us
    try:
        asyncio.run(role(Link(connection), *arguments))
    except Exception:
        connection.send(traceback.format_exc())
    else:
        connection.send("end")
