"""Attach and log frames: an incremental decoder of the engines' multiplexed output (L2, no I/O).

Each frame is a header of 8 bytes (stream number, three zero bytes, payload length as a big-endian
32-bit number) and its payload; see "Stream format" under "Attach to a container" in the engine API.
"""

from __future__ import annotations

__all__ = ("FrameDecoder", "Output", "RawDecoder")

from dataclasses import dataclass
from typing import Literal

from aioruntime.errors import EngineError, StreamTruncated, one_line

_HEADER = 8
# Stream 0 is stdin's echo, which Docker also writes to stdout; 3 carries an error of the engine itself, such
# as that a line of a log can't be read.
_SYSTEM_ERROR = 3
_ERROR_LIMIT = 4096
_STREAMS: dict[int, Literal["stdout", "stderr"]] = {0: "stdout", 1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a container wrote.

    Args:
        stream: which of the container's streams it was written to.
        data: the bytes; a piece may end anywhere, also within a character.
    """

    stream: Literal["stdout", "stderr"]
    data: bytes


class FrameDecoder:
    """Turns bytes split anywhere into `Output` pieces; keeps at most one unfinished header.

    A payload is handed out as it comes, so a frame that claims 4 GiB costs no memory.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._left = 0
        self._stream: Literal["stdout", "stderr"] = "stdout"
        self._error: bytearray | None = None

    def feed(self, data: bytes) -> list[Output]:
        """Take the next bytes of the stream and return the pieces of output in them, in order.

        Raises:
            EngineError: the bytes are no frames, such as those of a container with a terminal; or the engine
                tells that it has failed.
        """
        found: list[Output] = []
        view = memoryview(data)
        while view:
            if self._left:
                piece = bytes(view[: self._left])
                self._left -= len(piece)
                view = view[len(piece) :]
                if self._error is None:
                    found.append(Output(self._stream, piece))
                else:
                    self._take_error(piece)
                continue
            missing = _HEADER - len(self._header)
            self._header += view[:missing]
            view = view[missing:]
            if len(self._header) == _HEADER:
                self._begin_frame()
        return found

    def _begin_frame(self) -> None:
        number = self._header[0]
        if number not in (*_STREAMS, _SYSTEM_ERROR) or any(self._header[1:4]):
            raise EngineError(
                f"the engine sent output that is not in frames (header {self._header.hex()}); "
                "does the container have a terminal?"
            )
        self._left = int.from_bytes(self._header[4:], "big")
        self._header.clear()
        if number == _SYSTEM_ERROR:
            self._error = bytearray()
        else:
            self._stream = _STREAMS[number]

    def _take_error(self, piece: bytes) -> None:
        assert self._error is not None
        self._error += piece[: _ERROR_LIMIT - len(self._error)]
        if not self._left or len(self._error) == _ERROR_LIMIT:
            raise EngineError(f"the engine failed: {one_line(self._error.decode(errors='replace'))}")

    def finish(self) -> None:
        """Tell that the stream has ended.

        Raises:
            StreamTruncated: it ended within a frame.
        """
        if self._left or self._header:
            where = f"{self._left} bytes of its payload" if self._left else "part of its header"
            raise StreamTruncated(f"the container's output was cut within a frame: {where} did not arrive")


class RawDecoder:
    """The same for a container with a terminal: there are no frames, all is standard output."""

    def feed(self, data: bytes) -> list[Output]:
        """Return *data* as one piece."""
        return [Output("stdout", data)] if data else []

    def finish(self) -> None:
        """Accept the end; without frames, a cut can't be seen."""
