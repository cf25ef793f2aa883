"""The order and the memory of output that is kept, with pieces that come just when it matters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

import aioruntime as ar
from aioruntime.engine.frames import Output
from aioruntime.runtime.lines import LineDecoder, Lines
from aioruntime.runtime.stream import OutputStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable


class Pieces:
    """A connection that gives one piece each time it is told to, then those that it has from the start."""

    def __init__(self, begun: Iterable[bytes] = ()) -> None:
        self._given: asyncio.Queue[bytes] = asyncio.Queue()
        for data in begun:
            self._given.put_nowait(data)
        self.give = self._given.put_nowait

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        if (data := await self._given.get()) == b"":
            raise StopAsyncIteration
        return Output("stdout", data)


def stream_of(pieces: Pieces, *, runs: bool) -> OutputStream:
    async def running(_: bool) -> bool:
        return runs

    return OutputStream(cast("Any", pieces), running, "a program")


async def test_a_reader_who_comes_while_two_wait() -> None:
    """What those who wait have just read comes before what is read for the new reader."""
    pieces = Pieces()
    stream = stream_of(pieces, runs=True)
    waiters = [asyncio.create_task(stream.keep_flowing()) for _ in range(2)]
    await asyncio.sleep(0)  # both began: one reads, one is next
    chunks = stream.chunks()
    found = asyncio.create_task(anext(chunks))
    await asyncio.sleep(0)
    for data in (b"1", b"2", b"3"):
        pieces.give(data)
    assert [(await found).data, (await anext(chunks)).data, (await anext(chunks)).data] == [b"1", b"2", b"3"]
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)


async def test_a_reader_who_comes_with_a_piece() -> None:
    """The same when the piece and the reader come in one turn of the loop, with one who waits."""
    pieces = Pieces()
    stream = stream_of(pieces, runs=True)
    waiter = asyncio.create_task(stream.keep_flowing())
    await asyncio.sleep(0)
    pieces.give(b"1")
    chunks = stream.chunks()
    pieces.give(b"2")
    assert [(await anext(chunks)).data, (await anext(chunks)).data] == [b"1", b"2"]
    waiter.cancel()
    await asyncio.wait([waiter])


async def test_many_small_pieces_are_bounded_too() -> None:
    """What a program writes byte by byte counts by what it takes in memory, which is more than its bytes."""
    stream = stream_of(Pieces([b"x"] * 20_000 + [b""]), runs=False)
    await stream.ended()
    with pytest.raises(ar.StreamTruncated, match="nobody read its output"):
        await anext(stream.chunks())


async def test_silence_does_not_hold_up_what_ends_it() -> None:
    """The engine is asked whether the program runs, not waited for: what it fails to tell ends nothing."""
    pieces = Pieces()
    asked = 0

    async def running(_: bool) -> bool:
        nonlocal asked
        asked += 1
        pieces.give(b"1")
        raise ar.EngineError("it is busy", status=500)

    assert (await anext(OutputStream(cast("Any", pieces), running, "a program").chunks())).data == b"1"
    assert asked == 1


async def test_lines_before_a_cut() -> None:
    """A cut is told each time anew; the half line before it is not taken for one, and not lost."""
    stream, decoder = stream_of(Pieces([b"one\ntwo\nthr", b""]), runs=True), LineDecoder()
    lines = Lines(stream.chunks(), decoder)
    assert [(await anext(lines)).text for _ in range(2)] == ["one", "two"]
    for _ in range(2):
        with pytest.raises(ar.StreamTruncated, match="cut while it was running"):
            await anext(lines)
    chunks = stream.chunks(decoder.rest())
    assert (await anext(chunks)).data == b"thr"
    with pytest.raises(ar.StreamTruncated, match="cut while it was running"):
        await anext(chunks)


async def test_many_lines_that_were_not_taken() -> None:
    """What one reader left to the next does not count as kept, be it ever so many lines, and comes first."""
    pieces = Pieces([b"y\n" * 20_000])
    stream, decoder = stream_of(pieces, runs=False), LineDecoder()
    await anext(Lines(stream.chunks(), decoder))
    chunks = stream.chunks(decoder.rest())
    pieces.give(b"end\n")
    pieces.give(b"")
    await stream.ended()
    assert b"".join([piece.data async for piece in chunks]) == b"y\n" * 19_999 + b"end\n"


async def test_a_piece_on_its_way_to_a_former_reader() -> None:
    """A piece that comes while somebody else has taken over goes to that one; who waited for it is told."""
    pieces = Pieces()
    stream = stream_of(pieces, runs=True)
    former = asyncio.create_task(anext(stream.chunks()))
    await asyncio.sleep(0)
    chunks = stream.chunks()
    pieces.give(b"1")
    pieces.give(b"2")
    assert [(await anext(chunks)).data for _ in range(2)] == [b"1", b"2"]
    with pytest.raises(ar.RunError, match="another reader"):
        await former
