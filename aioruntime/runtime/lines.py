"""Output as lines of text, each stream decoded by a decoder of its own (L4)."""

from __future__ import annotations

__all__ = ("Line", "LineDecoder", "Lines")

import codecs
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from aioruntime.engine.frames import Output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """A line of what a program wrote.

    Args:
        stream: which of its streams it was written to.
        text: the line without its end; bytes that are no UTF-8 are replaced by U+FFFD.
    """

    stream: Literal["stdout", "stderr"]
    text: str


class LineDecoder:
    """Turns pieces of output into lines; a line of more than 1 MiB comes in parts."""

    def __init__(self) -> None:
        self._ended: deque[Output] = deque()
        self._begun: dict[Literal["stdout", "stderr"], bytearray] = {
            "stdout": bytearray(),
            "stderr": bytearray(),
        }

    def feed(self, output: Output) -> None:
        """Take the next piece."""
        begun = self._begun[output.stream]
        first, *rest = output.data.split(b"\n")
        begun += first
        for data in rest:
            self._end(output.stream, b"\n")
            begun += data
        if len(begun) > _LONGEST:
            _, whole = codecs.utf_8_decode(begun, "replace", False)
            tail = begun[whole:]
            del begun[whole:]
            self._end(output.stream)
            begun += tail

    def finish(self) -> None:
        """Make lines of what the output ended in the midst of."""
        for stream, begun in self._begun.items():
            if begun:
                self._end(stream)

    def take(self) -> Line | None:
        """Return the next line; None if there is none yet."""
        if not self._ended:
            return None
        line = self._ended.popleft()
        text = line.data.decode(errors="replace")
        if text.endswith("\n") or len(line.data) <= _LONGEST:  # else it is the part of a line
            text = text.removesuffix("\n").removesuffix("\r")
        return Line(line.stream, text)

    def rest(self) -> list[Output]:
        """Return what was fed and not taken, as it came, and keep nothing of it."""
        self.finish()
        rest = list(self._ended)
        self._ended.clear()
        return rest

    def _end(self, stream: Literal["stdout", "stderr"], end: bytes = b"") -> None:
        self._ended.append(Output(stream, bytes(self._begun[stream] + end)))
        self._begun[stream].clear()


class Lines:
    """The lines of a program's output, as an async iterator of `Line`, in the order they ended."""

    def __init__(self, pieces: AsyncIterator[Output], decoder: LineDecoder) -> None:
        self._pieces = pieces
        self._decoder = decoder

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Line:
        while (line := self._decoder.take()) is None:
            if (piece := await anext(self._pieces, None)) is not None:
                self._decoder.feed(piece)
                continue
            self._decoder.finish()
            if (line := self._decoder.take()) is None:
                raise StopAsyncIteration
            break
        return line
