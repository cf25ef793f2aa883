"""A proxy before an engine that disturbs one message, at a border of it: of which call, where and how.

An undisturbed run through it tells which messages there are; `points` makes the borders of them.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tests.support.closing import sent_all
from tests.support.proxy import Direction, Fault, UnixProxy, _Ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.httpmeter import Span
    from tests.support.proxy import Connection

__all__ = ("BorderProxy", "Message", "Point", "points")

Kind = Literal["cut", "stall", "alter", "refuse", "gone"]
Part = Literal["head", "body"]

_HEADER = 8
_NAMES = re.compile(r"[0-9a-f]{64}|point-[0-9a-f]+")
_VERSION = re.compile(r"^/v[0-9.]+(/libpod)?")
_REFUSAL = b'{"message":"staged","cause":"staged"}'
_REFUSED = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_REFUSAL), _REFUSAL)
)


@dataclass(slots=True)
class Message:
    """One direction of an exchange as it passed: the bytes of head and body."""

    call: str
    nth: int
    way: Direction
    head: bytes = b""
    body: bytes = b""

    @property
    def hijacked(self) -> bool:
        """Whether the call takes its connection over."""
        return self.call.endswith("/attach") or (self.call.startswith("POST /exec") and "start" in self.call)


@dataclass(frozen=True, slots=True)
class Point:
    """What is done, and where: to the *nth* message of a call, *at* a byte of its head or body.

    "cut" ends the connection, "stall" holds it back for ever, "alter" inverts a byte, "refuse" answers
    status 500 in place of the engine, "gone" cuts every connection and takes no other until it is healed.
    """

    kind: Kind
    call: str
    nth: int
    way: Direction
    part: Part
    at: int

    def __str__(self) -> str:
        return f"{self.kind} {self.call}#{self.nth} {self.way} {self.part}@{self.at}"


def points(messages: list[Message]) -> Iterator[Point]:
    """The borders of each message, with what is done there."""
    for message in messages:
        for part, at in _cuts(message):
            yield Point("cut", message.call, message.nth, message.way, part, at)
        for part, at in _stalls(message):
            yield Point("stall", message.call, message.nth, message.way, part, at)
            yield Point("gone", message.call, message.nth, message.way, part, at)
        for part, at in _alterations(message):
            yield Point("alter", message.call, message.nth, message.way, part, at)
        if message.way == "down":
            yield Point("refuse", message.call, message.nth, "down", "head", 0)


def _cuts(message: Message) -> Iterator[tuple[Part, int]]:
    yield "head", 0
    yield "head", len(message.head) // 2
    if message.hijacked and message.way == "down":
        yield from (("body", at) for start, size in _frames(message.body) for at in _frame(start, size))
    elif size := len(message.body):
        yield from (("body", at) for at in sorted({0, size // 2, size - 1}))


def _stalls(message: Message) -> Iterator[tuple[Part, int]]:
    yield "head", 0
    if message.body:
        yield "body", 0
        if message.way == "down":
            yield "body", len(message.body) // 2


def _alterations(message: Message) -> Iterator[tuple[Part, int]]:
    if message.way == "up":
        yield "head", 0
        return
    yield "head", len("HTTP/1.1 ")
    if message.hijacked:
        # What a frame holds may be altered unseen: that is between the program and its reader.
        yield from (("body", start + at) for start, _ in _frames(message.body) for at in (0, 4, 7))
    elif message.body:
        yield "body", 0
        yield "body", len(message.body) // 2


def _frames(body: bytes) -> Iterator[tuple[int, int]]:
    """Where each frame begins, and how long its payload is."""
    start = 0
    while start < len(body):
        size = int.from_bytes(body[start + 4 : start + _HEADER], "big")
        yield start, size
        start += _HEADER + size


def _frame(start: int, size: int) -> tuple[int, ...]:
    return start, start + 4, start + _HEADER, start + _HEADER + size // 2


@dataclass(slots=True)
class _Progress:
    message: Message
    head: int = 0


@dataclass(slots=True, eq=False)
class _State:
    """What a proxy does now."""

    point: Point | None = None
    reached: bool = False
    gone: bool = False
    listening: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    messages: dict[tuple[int, int, str], _Progress] = field(default_factory=dict)


class BorderProxy(UnixProxy):
    """Notes the messages of the calls made from `arm` on, and disturbs one of them."""

    def __init__(self, path: Path, target: Path) -> None:
        super().__init__(path, target)
        self._state = _State()

    def arm(self, point: Point | None = None) -> None:
        """From now on note all messages; do what *point* says."""
        self._state = _State(point, listening=True)

    def heal(self) -> list[Message]:
        """Disturb nothing any more; return the messages in the order in which they began."""
        state, self._state = self._state, _State()
        return [each.message for each in state.messages.values()]

    @property
    def reached(self) -> bool:
        """Whether the point was come to."""
        return self._state.reached

    async def __aenter__(self) -> BorderProxy:
        await super().__aenter__()
        return self

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._state.gone:
            raise ConnectionRefusedError
        return await super()._connect()

    async def _pass_on(
        self,
        connection: Connection,
        way: Direction,
        passed: int,
        data: bytes,
        spans: list[Span],
        writer: asyncio.StreamWriter,
    ) -> None:
        state = self._state
        for span in spans:
            piece = data[span.start : span.stop]
            place = self._place(state, connection, way, span, piece) if state.listening else None
            if place is not None:
                state.reached = True
                piece = await self._act(state, connection, way, piece, place, writer)
            await self._write(connection, way, piece, writer)

    def _place(
        self, state: _State, connection: Connection, way: Direction, span: Span, piece: bytes
    ) -> int | None:
        """Note the piece, and tell where in it the point is."""
        if span.exchange >= len(connection.requests):
            return None
        key = (connection.number, span.exchange, way)
        progress = state.messages.get(key)
        if progress is None:
            call = _call(connection.requests[span.exchange])
            partner = state.messages.get((connection.number, span.exchange, "up"))
            if partner is None:
                if way == "down":  # of a call that was made before
                    return None
                state.counts[call] += 1
            nth = state.counts[call] if partner is None else partner.message.nth
            progress = state.messages[key] = _Progress(Message(call, nth, way))
        message = progress.message
        part: Part = "head" if span.offset is None else "body"
        offset = len(message.head) if part == "head" else len(message.body)
        if part == "head":
            message.head += piece
        else:
            message.body += piece
        point = state.point
        if point is None or state.reached:
            return None
        if (point.call, point.nth, point.way, point.part) != (message.call, message.nth, way, part):
            return None
        return point.at - offset if 0 <= point.at - offset < len(piece) else None

    async def _act(
        self,
        state: _State,
        connection: Connection,
        way: Direction,
        piece: bytes,
        place: int,
        writer: asyncio.StreamWriter,
    ) -> bytes:
        assert state.point is not None
        kind = state.point.kind
        if kind == "alter":
            return piece[:place] + bytes([piece[place] ^ 0xFF]) + piece[place + 1 :]
        await self._write(connection, way, piece[:place] if kind != "refuse" else _REFUSED, writer)
        if kind == "stall":
            await asyncio.Event().wait()
        await sent_all(writer)
        connection.ended_by = Fault("cut")
        if kind == "gone":
            state.gone = True
            own = asyncio.current_task()
            for task in self._tasks - {own} if own else self._tasks:
                task.cancel()
        raise _Ended


def _call(request: str) -> str:
    method, _, target = request.partition(" ")
    path = target.partition("?")[0]
    return f"{method} {_NAMES.sub('ID', _VERSION.sub('', path))}"
