"""Follow one direction of an HTTP/1.1 connection: which bytes are heads or bodies, and of which exchange.

What does not parse ends the following: the rest of the stream is then one body without end.
"""

from __future__ import annotations

from dataclasses import dataclass

_HEAD_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Span:
    """`data[start:stop]` belongs to this exchange; `offset` is where in its body that begins (None: head).

    Offsets in a chunked body count the bytes as sent, chunk sizes included.
    """

    exchange: int
    start: int
    stop: int
    offset: int | None


class _Body:
    """Where a body ends: after `left` bytes, with its last chunk, or never (`left` None)."""

    def __init__(self, left: int | None, *, chunked: bool = False) -> None:
        self._left = left
        self._chunked = chunked
        self._line = b""
        self._trailer = False
        self.done = left == 0 and not chunked

    def take(self, data: bytes, start: int) -> int:
        """Consume what belongs to the body; return where that ends."""
        if self._left is None:
            return len(data)
        if self._left:
            stop = min(len(data), start + self._left)
            self._left -= stop - start
            self.done = not self._left and not self._chunked
            return stop
        return self._take_line(data, start)

    def _take_line(self, data: bytes, start: int) -> int:
        end = data.find(b"\n", start)
        if end < 0:
            self._line += data[start:]
            return len(data)
        line, self._line = (self._line + data[start:end]).strip(), b""
        if self._trailer:
            self.done = not line
        else:
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                self._left = None
                return len(data)
            self._left = size + 2 if size else 0
            self._trailer = not size
        return end + 1


class Meter:
    """One direction; the responses' meter reads the request lines that the requests' meter has written."""

    def __init__(self, requests: list[str], *, responses: bool) -> None:
        self._requests = requests
        self._responses = responses
        self._head = bytearray()
        self._body: _Body | None = None
        self._exchange = 0
        self._offset = 0
        self._interim = False

    def feed(self, data: bytes) -> list[Span]:
        """Divide the next bytes of the stream."""
        spans = []
        start = 0
        while start < len(data):
            exchange = self._exchange
            if self._body is None:
                stop = self._take_head(data, start)
                spans.append(Span(exchange, start, stop, None))
            else:
                stop = self._body.take(data, start)
                spans.append(Span(exchange, start, stop, self._offset))
                self._offset += stop - start
            start = stop
            if self._body is not None and self._body.done:
                self._body = None
                self._offset = 0
                self._exchange += not self._interim
        return spans

    def _take_head(self, data: bytes, start: int) -> int:
        before = len(self._head)
        self._head += data[start:]
        end = self._head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            if len(self._head) > _HEAD_LIMIT:
                self._body = _Body(None)
            return len(data)
        head = bytes(self._head[: end + 4])
        self._head.clear()
        try:
            self._body = self._begin(head.decode("latin-1"))
        except (ValueError, IndexError):
            self._body = _Body(None)
        return start + end + 4 - before

    def _begin(self, head: str) -> _Body:
        first, *lines = head.split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if self._responses:
            status = first.split(" ")[1]
            method = (
                self._requests[self._exchange].split(" ")[0] if self._exchange < len(self._requests) else ""
            )
            self._interim = status.startswith("1") and status != "101"
            if self._interim or status in {"204", "304"} or method == "HEAD":
                return _Body(0)
        else:
            self._requests.append(" ".join(first.split(" ")[:2]))
            if "upgrade" in fields:
                return _Body(None)
        if fields.get("transfer-encoding", "").lower() == "chunked":
            return _Body(0, chunked=True)
        if "content-length" in fields:
            return _Body(int(fields["content-length"]))
        return _Body(None if self._responses else 0)
