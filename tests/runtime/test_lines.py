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
    found = [line for piece in pieces for line in decoder.feed(piece)]
    return found + decoder.finish()


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
    parts = [line for _ in range(160) for line in decoder.feed(Output("stdout", b"x" * 65536))]
    parts += decoder.finish()
    assert sum(len(line.text) for line in parts) == 160 * 65536
    assert max(len(line.text) for line in parts) < 1_200_000
