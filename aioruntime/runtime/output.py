"""Where a container's output goes: into memory, or through to this process's own streams (L4)."""

from __future__ import annotations

__all__ = ("Captured", "PassedThrough", "Sink")

import io
import os
import select
import sys
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from aioruntime.engine.frames import Output

_PATIENCE_MS = 100


class Sink(Protocol):
    """Where a container's output goes."""

    async def write(self, output: Output) -> None:
        """Take one piece.

        Raises:
            OSError: it can't be written, such as to a pipe that nobody reads any more.
            ValueError: the stream is closed.
        """


class Captured:
    """Keeps the output in memory."""

    def __init__(self) -> None:
        self.stdout = io.BytesIO()
        self.stderr = io.BytesIO()

    async def write(self, output: Output) -> None:
        """Keep one piece."""
        (self.stdout if output.stream == "stdout" else self.stderr).write(output.data)


class PassedThrough:
    """Writes the output to this process's own standard streams, off the loop: a reader can stall."""

    async def write(self, output: Output) -> None:
        """Write one piece; a cancelled call returns soon, even if nobody reads."""
        left = memoryview(output.data)
        while left:
            left = left[await in_thread(_write_some, output.stream, left) :]


def _write_some(name: Literal["stdout", "stderr"], data: memoryview) -> int:
    stream = sys.stdout if name == "stdout" else sys.stderr
    if stream is None:  # as it is when the process was started with it closed
        raise ValueError("it is closed")
    binary = getattr(stream, "buffer", None)
    raw = getattr(binary, "raw", binary)
    if isinstance(raw, io.FileIO):
        return _write_ready(stream, raw.fileno(), data)
    if binary is not None:
        stream.flush()
        binary.write(data)
        binary.flush()
    else:  # replaced by something that takes text only, such as io.StringIO
        stream.write(bytes(data).decode(errors="replace"))
    return len(data)


def _write_ready(stream: TextIO, file: int, data: memoryview) -> int:
    """Write as much as *file* takes at once; nothing if it takes none for a moment."""
    ready = select.poll()
    ready.register(file, select.POLLOUT)
    if not ready.poll(_PATIENCE_MS):
        return 0
    stream.flush()  # what this process printed before comes before
    written = 0
    # pipe(7): a pipe that is ready takes PIPE_BUF bytes without blocking, and perhaps no more.
    while written < len(data) and ready.poll(0):
        written += os.write(file, data[written : written + select.PIPE_BUF])
    return written
