"""JSON messages in a row: an incremental decoder of the engines' progress streams (L2, no I/O).

Pull, load and push answer with JSON objects, one after the other, mostly but not always with a line
end between them.
"""

from __future__ import annotations

__all__ = ("JsonDecoder", "error_in", "note_download")

import codecs
import json
import re
from typing import Any

from aioruntime.errors import EngineError, StreamTruncated, one_line

_MESSAGE_LIMIT = 1 << 20
_SPACE = " \t\r\n"
# Each matches as far as it can, then tells by its group why it stopped. Half an escape is left for later.
_SPACES = re.compile(f"[{_SPACE}]*()")
_STRING = re.compile(r'(?:[^"\\]++|\\.)*+(")?', re.DOTALL)
_OUTSIDE = re.compile(r'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+(["{}\[\]])?', re.DOTALL)


class JsonDecoder:
    """Turns bytes split anywhere into JSON objects; keeps at most 1 MiB of an unfinished one."""

    def __init__(self) -> None:
        self._text = ""
        self._scan = 0
        self._depth = 0
        self._quoted = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take the next bytes and return the messages that are complete with them, in order.

        Raises:
            EngineError: the bytes are no JSON objects, or one is longer than 1 MiB.
        """
        self._text += self._utf8.decode(data)
        found, start = [], 0
        while (end := self._object_end()) is not None:
            found.append(_parse(self._text[start:end]))
            start = end
        if self._depth == 0:
            start = self._scan
        self._text = self._text[start:]
        self._scan -= start
        if len(self._text) > _MESSAGE_LIMIT:
            raise EngineError("the engine sent a message of more than 1 MiB")
        return found

    def _object_end(self) -> int | None:
        """Find where the next object ends, looking at each character once over all calls."""
        if self._depth == 0:
            self._skip(_SPACES)
            if not self._text.startswith("{", self._scan) and self._scan < len(self._text):
                rest = one_line(self._text[self._scan :])
                raise EngineError(f"the engine sent something that is no JSON object: {rest}")
        while mark := self._skip(_STRING if self._quoted else _OUTSIDE):
            if mark == '"':
                self._quoted = not self._quoted
            elif mark in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    return self._scan
        return None

    def _skip(self, what: re.Pattern[str]) -> str | None:
        found = what.match(self._text, self._scan)
        assert found is not None
        self._scan = found.end()
        return found[1]

    def finish(self) -> None:
        """Tell that the stream has ended.

        Raises:
            StreamTruncated: it ended within a message.
        """
        self._text += self._utf8.decode(b"", final=True)
        if self._text.strip(_SPACE):
            raise StreamTruncated(f"the engine's answer was cut within a message: {one_line(self._text)}")


def _parse(text: str) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise EngineError(f"the engine sent a message that is no JSON: {one_line(text)}") from exc
    if not isinstance(message, dict):
        raise EngineError(f"the engine sent a message that is no JSON object: {one_line(text)}")
    return message


def error_in(message: dict[str, Any]) -> str | None:
    """Return the error that a progress *message* carries, made safe to show; None if it carries none.

    Engines answer 200 before they know how it will go, and tell a failure inside the stream.
    """
    detail = message.get("errorDetail")
    # API 1.48 deprecates `error` in favour of `errorDetail`; older engines and Podman send both or one.
    text = (detail.get("message") if isinstance(detail, dict) else None) or message.get("error")
    if text:
        return one_line(str(text))
    stream = message.get("stream")
    # The containerd image store tells a failed unpack as plain text, after it has created the tag.
    if isinstance(stream, str) and stream.lstrip().startswith("Error unpacking"):
        return one_line(stream)
    return None


def note_download(message: dict[str, Any], layers: dict[str, tuple[int, int]]) -> bool:
    """Note the bytes of a layer that a progress message tells; whether it tells any."""
    detail = message.get("progressDetail")
    layer = message.get("id")
    # The containerd store counts seconds while it extracts, without a total.
    if message.get("status") != "Downloading" or not isinstance(detail, dict) or not isinstance(layer, str):
        return False
    current, total = detail.get("current"), detail.get("total")
    if not isinstance(current, int) or not isinstance(total, int):
        return False
    layers[layer] = current, total
    return True
