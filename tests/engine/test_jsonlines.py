from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.engine.jsonlines import JsonDecoder, error_in
from aioruntime.errors import EngineError, StreamTruncated
from tests.engine.test_frames import split
from tests.support.timing import cpu_seconds

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
messages = st.lists(st.dictionaries(st.text(max_size=6), values, max_size=4), max_size=5)
Message = dict[str, Any]


separators = st.sampled_from(["", "\n", "\r\n", " \n\t"])


@given(messages, separators, st.lists(st.integers(0, 10_000)), st.booleans())
def test_messages_split_anywhere(
    sent: list[Message], between: str, places: list[int], ascii_only: bool
) -> None:
    """Messages come out the same wherever the bytes were split, with or without line ends between."""
    data = between.join(json.dumps(m, ensure_ascii=ascii_only) for m in sent).encode("utf-8", "surrogatepass")
    if b"\xed" in data:  # a lone surrogate can't be sent as UTF-8
        data = between.join(json.dumps(m) for m in sent).encode()
    decoder = JsonDecoder()
    found = [message for part in split(data, places) for message in decoder.feed(part)]
    decoder.finish()
    assert found == sent


def test_space_between_messages_is_not_kept() -> None:
    """Blanks that an engine sends to keep a connection alive count for no message."""
    decoder = JsonDecoder()
    for _ in range(20):
        assert decoder.feed(b"\r\n" * 65536) == []
    assert decoder.feed(b' {"a": 1}\n') == [{"a": 1}]
    decoder.finish()


@pytest.mark.parametrize("piece", [16384, 1 << 20])
def test_long_messages_do_not_hold_the_loop(piece: int) -> None:
    """Finding a message just below the limit, in one piece or in many, looks at each character once.

    That takes 6 to 13 times as long as the C decoder's reading; looking twice at what came before, hundreds.
    """
    message = {"stream": 'a "quoted" word\n' * 20_000, "aux": [{"ID": "x"}] * 20_000}
    data = json.dumps(message).encode()

    def found() -> list[Message]:
        decoder = JsonDecoder()
        pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
        return [m for part in pieces for m in decoder.feed(part)]

    assert found() == [message]
    assert cpu_seconds(found) < 40 * cpu_seconds(lambda: json.loads(data))


@given(messages.filter(bool), st.integers(0, 10_000))
def test_cut_within_a_message_is_told(sent: list[Message], place: int) -> None:
    """A stream that ends within a message is never taken for complete."""
    texts = [json.dumps(message) for message in sent]
    borders = {len("".join(texts[:n])) for n in range(len(texts) + 1)}
    data = "".join(texts).encode()
    cut = place % len(data)
    decoder = JsonDecoder()
    decoder.feed(data[:cut])
    if cut in borders:
        decoder.finish()
    else:
        with pytest.raises(StreamTruncated):
            decoder.finish()


@pytest.mark.parametrize("data", [b"Not Found", b"[1]", b'{"a":}', b"{]", b'{"a": "' + b"x" * (1 << 20)])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    """Text, other JSON values, broken objects and endless ones raise."""
    with pytest.raises(EngineError):
        JsonDecoder().feed(data)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"stream": "Loaded image: x"}, None),
        ({"status": "Downloading", "progressDetail": {"current": 9}}, None),
        ({"errorDetail": {"message": "no space\nleft"}, "error": "x"}, "no space left"),
        ({"errorDetail": {"code": 1}, "error": "old style"}, "old style"),
        ({"error": "podman style"}, "podman style"),
        ({"stream": "Error unpacking image x: y\n"}, "Error unpacking image x: y"),
    ],
)
def test_errors_within_the_stream(message: Message, error: str | None) -> None:
    """Each form in which engines tell an error inside an answer of status 200 is seen."""
    assert error_in(message) == error
