"""What a container's own program and one that was executed in it share: output, lines, input (L4)."""

from __future__ import annotations

__all__ = ("Attached", "Stdin")

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from aioruntime.errors import EngineError, InvalidSpec, RunError
from aioruntime.runtime.lines import LineDecoder, Lines
from aioruntime.tasks import beside

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from aioruntime.engine.hijack import Attachment
    from aioruntime.runtime.stream import Chunks, OutputStream


class Stdin:
    """A program's standard input.

    Args:
        attachment: the connection to it.
        output: its output, which knows whether it runs.
        tty: whether it has a terminal.
    """

    def __init__(self, attachment: Attachment, output: OutputStream, *, tty: bool) -> None:
        self._attachment = attachment
        self._output = output
        self._tty = tty

    async def write(self, data: bytes) -> None:
        """Write *data*; returns once the engine took it, which waits while the program does not read.

        If it is cancelled, what the engine has not taken yet comes before what is written next.

        Raises:
            InvalidSpec: *data* is not bytes.
            EngineError: the program, or its input, has ended.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            what, kind = self._output.what, type(data).__name__
            raise InvalidSpec(f"{what}: a {kind} can't be its input; encode text: write(text.encode())")
        for patience in self._output.looks():
            with anyio.move_on_after(patience):
                return await self._attachment.send(data)
            data = b""  # all of it is under way
            if not await self._output.still_runs():
                raise EngineError(f"{self._output.what} has ended, and takes no more input")

    async def close(self) -> None:
        """End the input, so that the program reads to its end; its output still comes.

        Raises:
            RunError: the program has a terminal.
            EngineError: it has ended.
            EngineUnavailable: the engine does not answer any more.
        """
        if self._tty:
            raise RunError(
                f"{self._output.what}: the input from a terminal has no end of its own; the user types "
                "Control-D: write(b'\\x04')"
            )
        await self.write(b"")
        await self._attachment.close_input()

    def feeding(self, data: bytes) -> AbstractAsyncContextManager[None]:
        """Write *data* and end the input beside a block; a program that ends before it read all is fine."""
        return beside(self._feed(data))

    async def _feed(self, data: bytes) -> None:
        with suppress(EngineError):
            await self.write(data)
            await self.close()


class Attached:
    """A program with its output, and its input if that was asked for."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._stream: OutputStream | None = None
        self._stdin: Stdin | None = None
        self._decoder = LineDecoder()

    def output(self) -> Chunks:
        """Read the output in the order in which it came, as an async iterator of `Output`.

        Nothing is lost, and memory stays bounded: the program waits while the reader does. One reader can
        read at a time; a new one goes on where the last one stopped. While nobody reads, or who read last
        waits, up to 1 MiB is kept during `wait` and the like, so that the program can end; more is dropped,
        and reading then fails.

        Raises:
            RunError: the output is not carried here, since the container is detached or is restarted by the
                engine: use `logs`; or (while iterating) another reader took over.
            StreamTruncated: the output was cut, not ended (while iterating).
            EngineError: the engine can't tell whether the program runs (while iterating).
        """
        if self._stream is None:
            raise RunError(f"{self._what}: its output is not carried; follow its logs: logs(follow=True)")
        return self._stream.chunks(self._decoder.rest())

    def lines(self) -> Lines:
        """Read the output as lines of text, as an async iterator of `Line`; see `output`."""
        pieces, self._decoder = self.output(), LineDecoder()
        return Lines(pieces, self._decoder)

    @property
    def stdin(self) -> Stdin:
        """The program's standard input.

        Raises:
            RunError: it was not asked for.
        """
        if self._stdin is None:
            raise RunError(f"{self._what}: its standard input is not open; ask for it: stdin=True")
        return self._stdin
