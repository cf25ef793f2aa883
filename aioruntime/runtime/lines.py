"""Output as lines of text, each stream decoded by a decoder of its own (L4)."""

from __future__ import annotations

__all__ = ("Line", "LineDecoder", "Lines")

import codecs
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from aioruntime.engine.frames import Output
    from aioruntime.runtime.stream import Chunks

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
    """Turns pieces of output into lines; a line of more than a million characters comes in parts."""

    def __init__(self) -> None:
        utf8 = codecs.getincrementaldecoder("utf-8")
        self._decoders = {"stdout": utf8(errors="replace"), "stderr": utf8(errors="replace")}
        self._begun: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._length = {"stdout": 0, "stderr": 0}

    def feed(self, output: Output) -> list[Line]:
        """Take the next piece and return the lines that are complete with it."""
        first, *rest = self._decoders[output.stream].decode(output.data).split("\n")
        self._begin(output.stream, first)
        lines = []
        for text in rest:
            lines += self._end(output.stream)
            self._begin(output.stream, text)
        if self._length[output.stream] > _LONGEST:
            lines += self._end(output.stream)
        return lines

    def finish(self) -> list[Line]:
        """Return the lines that the output ended in the midst of."""
        lines = []
        for stream in ("stdout", "stderr"):
            self._begin(stream, self._decoders[stream].decode(b"", final=True))
            if self._length[stream]:
                lines += self._end(stream)
        return lines

    def _begin(self, stream: str, text: str) -> None:
        self._begun[stream].append(text)
        self._length[stream] += len(text)

    def _end(self, stream: Literal["stdout", "stderr"]) -> list[Line]:
        text = "".join(self._begun[stream])
        self._begun[stream], self._length[stream] = [], 0
        return [Line(stream, text.removesuffix("\r"))]


class Lines:
    """The lines of a program's output, as an async iterator of `Line`, in the order they ended."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._decoder = LineDecoder()
        self._ready: deque[Line] = deque()
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Line:
        while not self._ready and not self._over:
            piece = await anext(self._chunks, None)
            self._over = piece is None
            self._ready.extend(self._decoder.finish() if piece is None else self._decoder.feed(piece))
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()
