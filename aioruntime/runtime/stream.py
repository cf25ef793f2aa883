"""A program's output as it comes: in order, for one reader at a time, its end told from a cut (L4)."""

from __future__ import annotations

__all__ = ("Chunks", "OutputStream")

import asyncio
import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import anyio

from aioruntime.errors import EngineError, RunError, StreamTruncated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from aioruntime.engine.frames import Output
    from aioruntime.engine.hijack import Attachment

# Output that comes while nobody reads is kept for a later reader up to this many bytes.
_KEPT_BYTES = 1 << 20
# What a piece takes in memory beside its data: a program that writes byte by byte sends many.
_PIECE_BYTES = 128
# A stream that is silent may have lost its program's end: so look, at once and then ever less often.
_FIRST_LOOK_SECONDS = 1.0
_LONGEST_LOOK_SECONDS = 30.0
# An ended program's streams are closed at once; an engine that does not, has lost them.
_DRAIN_SECONDS = 30.0
# Podman closes the streams up to 40 ms before it knows that the container has ended; the earlier, the busier
# the machine is. Its answers take longer there, too: so it is given a time, and a number of answers.
_LAG_SECONDS = 0.5
_LAG_LOOKS = 6
_LAG_PAUSE = 0.02


class OutputStream:
    """The output of one program, over a connection of its own.

    It is read only as fast as it is asked for: the engine, and then the program, wait meanwhile.

    Args:
        attachment: the connection.
        running: tells whether the program still runs; given True, its output has just ended, and an end
            that the engine is about to tell may be waited for.
        what: the program, for messages.
        lags: whether the engine may know only some time after the output's end that the program has ended.
            A cut within that time before its end can't be told from the end.

    Attributes:
        what: the program, for messages.
        ended_at: when the output ended, by the monotonic clock; 0 before.
    """

    def __init__(
        self,
        attachment: Attachment,
        running: Callable[[bool], Awaitable[bool]],
        what: str,
        *,
        lags: bool = True,
    ) -> None:
        self._attachment = attachment
        self._running = running
        self.what = what
        self._lags = lags
        self._lock = anyio.Lock(fast_acquire=True)
        self.ended_at = 0.0
        self._over = False
        self._failure: EngineError | None = None
        self._reader: weakref.ref[Chunks] | None = None
        self._reading_task: asyncio.Task[Any] | None = None
        self._unread = anyio.Event()
        self._unread.set()
        self._keeping = anyio.CancelScope()
        self._unused: deque[Output] = deque()
        self._kept: deque[Output] = deque()
        self._kept_bytes = 0
        self._dropped = False

    def chunks(self, unused: Sequence[Output] = ()) -> Chunks:
        """Give the output to a new reader; the one before, if any, can't go on.

        Args:
            unused: what the one before took and has not used, which comes first.
        """
        self._unused.extendleft(reversed(unused))
        loop = asyncio.get_running_loop()
        chunks = Chunks(self)

        def gone(reference: weakref.ref[Chunks]) -> None:
            if self._reader is reference:
                # The garbage collector runs in any thread, even when the loop is over.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._nobody_reads, reference)

        self._reader = weakref.ref(chunks, gone)
        self._reading_task = asyncio.current_task()
        if self._unread.is_set() and not self._finished:
            self._unread = anyio.Event()
        self._keeping.cancel()
        return chunks

    def _nobody_reads(self, reference: weakref.ref[Chunks]) -> None:
        if self._reader is reference:
            self._unread.set()

    async def next(self, reader: Chunks) -> Output | None:
        """Return the next piece, None at the end.

        Raises:
            RunError: somebody else reads the output now.
            StreamTruncated: the output was cut, or did not end with the program, or was not kept.
            EngineError: the engine can't tell whether the program runs.
        """
        self._check_reader(reader)
        if self._reading_task is not asyncio.current_task():
            self._reading_task = asyncio.current_task()
            self._keeping.cancel()
        async with self._lock:  # first: who kept pieces until now may just have read one more
            if self._unused:
                return self._unused.popleft()
            if self._dropped:
                raise StreamTruncated(
                    f"{self.what}: nobody read its output while it was waited for, and more came than "
                    f"{_KEPT_BYTES >> 20} MiB holds; read it in a task of its own from the start"
                )
            if self._kept:
                piece = self._kept.popleft()
                self._kept_bytes -= len(piece.data) + _PIECE_BYTES
                return piece
            found = await self._read()
            try:
                self._check_reader(reader)
            except RunError:
                if found is not None:
                    self._keep(found)
                raise
            return found

    def _check_reader(self, reader: Chunks) -> None:
        if self._reader is None or self._reader() is not reader:
            raise RunError(f"{self.what}: its output was given to another reader; let one read at a time")

    async def keep_flowing(self, waiter: asyncio.Task[Any] | None = None) -> None:
        """While nobody reads, read, lest the program waits for ever for room; until the output ends.

        What comes is kept for a later reader; all of it is dropped when it becomes too much.

        Args:
            waiter: the task that waits meanwhile, and so does not read, even if it read last.
        """
        while True:
            if waiter is None or self._reading_task is not waiter:
                await self._unread.wait()  # also set at the end
            if self._finished:
                return
            with anyio.CancelScope() as self._keeping, suppress(EngineError):
                async with self._lock:
                    if (piece := await self._read()) is not None:
                        self._keep(piece)

    async def ended(self) -> None:
        """Wait until all output was read, or dropped where nobody reads it.

        Raises:
            StreamTruncated: it was cut.
            EngineError: the engine can't tell whether the program runs.
        """
        await self.keep_flowing(asyncio.current_task())
        if self._failure is not None:
            raise self._failure

    @property
    def _finished(self) -> bool:
        return self._over or self._failure is not None

    def _keep(self, piece: Output) -> None:
        self._kept_bytes += len(piece.data) + _PIECE_BYTES
        if self._kept_bytes > _KEPT_BYTES:
            self._dropped = True
        if self._dropped:
            self._kept.clear()
        else:
            self._kept.append(piece)

    async def _read(self) -> Output | None:
        """Read the next piece; called with the lock held."""
        if self._failure is not None:
            raise self._failure
        try:
            piece = None if self._over else await self._next_piece()
            if piece is None and not self._over:
                await self._check_end()
                self._over = True
        except EngineError as exc:
            self._failure = exc
            raise
        finally:
            if self._finished:
                self.ended_at = self.ended_at or time.monotonic()
                self._unread.set()
        return piece

    async def _next_piece(self) -> Output | None:
        for patience in self.looks():
            with anyio.move_on_after(patience):
                return await anext(self._attachment, None)
            if not await self.still_runs():
                break
        with anyio.move_on_after(_DRAIN_SECONDS):
            return await anext(self._attachment, None)
        raise StreamTruncated(f"{self.what}: it has ended, but its output did not end")

    def looks(self) -> Iterator[float]:
        """The seconds to wait for the engine until it is to be asked again whether the program runs."""
        patience = _FIRST_LOOK_SECONDS
        while True:
            yield patience
            patience = min(patience * 2, _LONGEST_LOOK_SECONDS)

    async def still_runs(self) -> bool:
        """Tell whether the program runs, as far as the engine knows.

        Raises:
            EngineError: the engine does not answer.
        """
        try:
            return await self._running(False)
        except EngineError as exc:
            if exc.status is None:
                raise
            return True  # an engine that answers, be it with a failure, has not lost the output

    async def _check_end(self) -> None:
        # Docker and Podman both keep the output open until the container ends, even if its process has
        # closed its own streams. So if the container goes on, the connection was cut.
        cut = f"{self.what}: the output was cut while it was running"
        try:
            runs = await self._running(True)
            looks, patient = 1, anyio.current_time() + _LAG_SECONDS
            while runs and self._lags and (looks < _LAG_LOOKS or anyio.current_time() < patient):
                await anyio.sleep(_LAG_PAUSE)
                runs = await self._running(False)
                looks += 1
        except EngineError as exc:
            raise StreamTruncated(f"{cut}, and the engine can't tell how it goes: {exc.message}") from exc
        if runs:
            raise StreamTruncated(cut)


class Chunks:
    """The pieces of a program's output, as an async iterator of `Output`, in the order they came in."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Output:
        if (piece := await self._stream.next(self)) is None:
            raise StopAsyncIteration
        return piece
