from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.engine.frames import FrameDecoder, Output, RawDecoder
from aioruntime.errors import EngineError, StreamTruncated

_NUMBERS = {"stdout": 1, "stderr": 2}
frames = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)), max_size=6)


def encode(pieces: list[tuple[str, bytes]]) -> bytes:
    return b"".join(
        bytes([_NUMBERS[name], 0, 0, 0]) + len(data).to_bytes(4, "big") + data for name, data in pieces
    )


def split(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(cuts)]


def joined(pieces: list[Output]) -> list[tuple[str, bytes]]:
    """Join neighbours of one stream: where a payload is cut in pieces does not matter."""
    found: list[tuple[str, bytes]] = []
    for piece in pieces:
        if found and found[-1][0] == piece.stream:
            found[-1] = (piece.stream, found[-1][1] + piece.data)
        else:
            found.append((piece.stream, piece.data))
    return found


@given(frames, st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_split_anywhere(pieces: list[tuple[str, bytes]], places: list[int]) -> None:
    """Frames come out the same, in order and by stream, wherever the bytes were split."""
    decoder = FrameDecoder()
    found = [output for part in split(encode(pieces), places) for output in decoder.feed(part)]
    decoder.finish()
    assert joined(found) == joined([Output(n, d) for n, d in pieces if d])  # type: ignore[arg-type]


@given(frames.filter(bool), st.integers(0, 10_000))
def test_cut_within_a_frame_is_told(pieces: list[tuple[str, bytes]], place: int) -> None:
    """THREATS E8: a stream that ends anywhere but at a frame's end is never taken for complete."""
    data = encode(pieces)
    borders = {len(encode(pieces[:n])) for n in range(len(pieces) + 1)}
    cut = place % len(data)
    decoder = FrameDecoder()
    decoder.feed(data[:cut])
    if cut in borders:
        decoder.finish()
    else:
        with pytest.raises(StreamTruncated):
            decoder.finish()


def test_a_frame_of_4_gib_costs_no_memory() -> None:
    """THREATS E8: a payload is handed out as it comes, whatever length its frame claims."""
    decoder = FrameDecoder()
    assert decoder.feed(b"\x01\0\0\0\xff\xff\xff\xff") == []
    assert [decoder.feed(b"x" * 1000) for _ in range(3)] == [[Output("stdout", b"x" * 1000)]] * 3
    with pytest.raises(StreamTruncated):
        decoder.finish()


@pytest.mark.parametrize("header", [b"\x04\0\0\0\0\0\0\x01", b"hello wo", b"\x01\0\x01\0\0\0\0\x01"])
def test_what_is_no_frame_is_refused(header: bytes) -> None:
    """THREATS E8: bytes that are no frames raise, instead of being taken for output."""
    with pytest.raises(EngineError, match="not in frames"):
        FrameDecoder().feed(header)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_an_error_of_the_engine_is_told(size: int) -> None:
    """Docker tells in a frame of its own kind that it can't read a log; that is raised, in its words."""
    told = b"Error grabbing logs: unexpected EOF\n"
    data = b"\x03\0\0\0" + len(told).to_bytes(4, "big") + told
    decoder, pieces = FrameDecoder(), [data[start : start + size] for start in range(0, len(data), size)]
    assert [decoder.feed(piece) for piece in pieces[:-1]] == [[]] * (len(pieces) - 1)
    with pytest.raises(EngineError, match="Error grabbing logs: unexpected EOF"):
        decoder.feed(pieces[-1])
    with pytest.raises(EngineError, match="xxx"):
        FrameDecoder().feed(b"\x03\0\0\0\xff\xff\xff\xff" + b"x" * 5000)


def test_terminal_output_is_stdout() -> None:
    """With a terminal all bytes are standard output."""
    decoder = RawDecoder()
    assert decoder.feed(b"\x01abc") == [Output("stdout", b"\x01abc")]
    decoder.finish()
