"""Lines made of output, whatever the pieces that it came in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aioruntime.engine.frames import Output
from aioruntime.runtime.lines import Line, LineDecoder
from tests.engine.test_frames import split

texts = st.text(st.characters(exclude_characters="\r", codec="utf-8"), max_size=30)


def lines_of(pieces: list[Output]) -> list[Line]:
    decoder = LineDecoder()
    found = [line for piece in pieces for line in fed(decoder, piece)]
    decoder.finish()
    return found + taken(decoder)


def fed(decoder: LineDecoder, piece: Output) -> list[Line]:
    decoder.feed(piece)
    return taken(decoder)


def taken(decoder: LineDecoder) -> list[Line]:
    return list(iter(decoder.take, None))


@given(texts, texts, st.lists(st.integers(0, 200)), st.lists(st.integers(0, 200)), st.randoms())
def test_each_stream_by_its_own_decoder(
    out: str, err: str, places: list[int], others: list[int], random: object
) -> None:
    """However the two streams are split and interleaved, each gives its own lines, whole characters only."""
    pieces = {
        "stdout": [Output("stdout", part) for part in split(out.encode(), places)],
        "stderr": [Output("stderr", part) for part in split(err.encode(), others)],
    }
    woven = []
    while left := [name for name, parts in pieces.items() if parts]:
        woven.append(pieces[random.choice(left)].pop(0))  # type: ignore[attr-defined]

    found = lines_of(woven)

    for stream, text in (("stdout", out), ("stderr", err)):
        expected = text.removesuffix("\n").split("\n") if text else []
        assert [line.text for line in found if line.stream == stream] == expected


def test_ends_of_other_systems() -> None:
    """A line may end with CR LF; a CR within it, as progress bars write, is part of it."""
    found = lines_of([Output("stdout", b"one\r"), Output("stdout", b"\n10%\r20%\ntwo")])
    assert [line.text for line in found] == ["one", "10%\r20%", "two"]


def test_what_is_no_text() -> None:
    """Bytes that are no UTF-8, also at the very end, are shown as U+FFFD; nothing raises."""
    assert [line.text for line in lines_of([Output("stderr", b"a\xffb\n\xe2\x82")])] == ["a\ufffdb", "\ufffd"]


def test_a_line_without_end_takes_bounded_memory() -> None:
    """Output of 10 MB without a line end comes in parts of a million characters or so, and none is lost."""
    decoder = LineDecoder()
    data = ("xä€" * 65536).encode()[:-1]
    pieces = [data[start : start + 65536] for start in range(0, len(data), 65536)] * 30
    parts = [line for piece in pieces for line in fed(decoder, Output("stdout", piece))]
    decoder.finish()
    parts += taken(decoder)

    assert "".join(line.text for line in parts).encode() == (data * 30).decode(errors="replace").encode()
    assert max(len(line.text) for line in parts) < 1_200_000


def test_a_long_line_that_ends_has_no_end() -> None:
    """The end of a line is no part of it either where it comes with the piece that makes it long."""
    decoder = LineDecoder()
    assert fed(decoder, Output("stdout", b"x" * (1 << 20))) == []
    [line] = fed(decoder, Output("stdout", b"y\r\n"))
    assert line.text == "x" * (1 << 20) + "y"


def test_what_was_not_taken_is_given_back() -> None:
    """What was fed and not taken comes back byte by byte, for whoever reads on in another way."""
    decoder = LineDecoder()
    decoder.feed(Output("stdout", b"one\r\ntwo\nthr\xe2"))
    decoder.feed(Output("stderr", b"wrong\n"))
    assert decoder.take() == Line("stdout", "one")

    rest = decoder.rest()

    assert rest == [Output("stdout", b"two\n"), Output("stderr", b"wrong\n"), Output("stdout", b"thr\xe2")]
    assert decoder.rest() == []
