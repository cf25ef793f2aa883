"""Events that were given already, and from when to ask for more (L2, no I/O)."""

from __future__ import annotations

__all__ = ("Event", "History", "podman_filters", "read_event")

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from aioruntime.errors import EngineError, one_line

_SECOND = 10**9
# Engines note the time of an event before they tell it: a busy one tells those of several tasks out of
# order, by up to 0.05 s as measured (Podman, whose programs write one file in turn).
_DISORDER = 10 * _SECOND


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in an engine.

    Attributes:
        type: what it happened to: ``container``, ``image``, ``network``, ``volume`` and others.
        action: what happened, such as ``create``, ``start``, ``die`` or ``destroy`` to a container; in
            Docker's words where Podman has others for the same.
        id: the engine's ID of what it happened to; empty if it has none.
        attributes: more of it by name: labels, ``name``, ``image``, and of a ``die`` the ``exitCode``.
        time_ns: when it happened by the engine's clock, in nanoseconds since 1970.
    """

    type: str
    action: str
    id: str
    attributes: Mapping[str, str] = field(hash=False)
    time_ns: int

    @property
    def time(self) -> datetime:
        """When it happened by the engine's clock, to the microsecond, in UTC."""
        seconds, rest = divmod(self.time_ns, _SECOND)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


class _Actor(msgspec.Struct, rename="pascal"):
    id: str = msgspec.field(default="", name="ID")
    attributes: dict[str, str] | None = None


class _Message(msgspec.Struct):
    type: str = msgspec.field(name="Type")
    action: str = msgspec.field(name="Action")
    actor: _Actor = msgspec.field(name="Actor")
    time_ns: int = msgspec.field(name="timeNano")


def read_event(message: Mapping[str, Any]) -> Event:
    """Make an event of what the engine sent.

    Raises:
        EngineError: it lacks what every event has.
    """
    try:
        found = msgspec.convert(message, _Message)
    except msgspec.ValidationError as exc:
        raise EngineError(f"the engine tells of an event in an unknown way: {one_line(str(exc))}") from exc
    attributes, action = found.actor.attributes or {}, found.action
    if found.type == "container" and action == "remove":
        action = "destroy"
    if action == "die" and "containerExitCode" in attributes:
        attributes.setdefault("exitCode", attributes["containerExitCode"])
    return Event(found.type, action, found.actor.id, MappingProxyType(attributes), found.time_ns)


def podman_filters(wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Let filters in Docker's words choose the same on Podman, which filters by its own."""
    words = {"die": ("die", "died"), "destroy": ("destroy", "remove")}
    return {
        name: [
            word for value in values for word in (words.get(value, (value,)) if name == "event" else (value,))
        ]
        for name, values in wanted.items()
    }


class History:
    """Tells the events that are new from those that were given before, over any number of connections.

    After a cut an engine is asked again for what it told in the last seconds, since it does not tell
    events in the order of their times, and what is known of that is dropped.

    Args:
        since_ns: the earliest events that are wanted, in nanoseconds since 1970.
    """

    def __init__(self, since_ns: int) -> None:
        self._first = since_ns
        self._newest = since_ns
        self._given: set[Event] = set()
        self._by_time: list[tuple[int, int, Event]] = []
        self._count = 0

    @property
    def since_ns(self) -> int:
        """From when to ask."""
        return max(self._first, self._newest - _DISORDER)

    def is_new(self, event: Event) -> bool:
        """Note *event* as given; False if it was before."""
        if event in self._given:
            return False
        self._count += 1
        self._given.add(event)
        heapq.heappush(self._by_time, (event.time_ns, self._count, event))
        self._newest = max(self._newest, event.time_ns)
        # Podman takes the time to ask from as a float: it may tell what is some 100 ns older.
        while self._by_time and self._by_time[0][0] < self.since_ns - _SECOND:
            self._given.remove(heapq.heappop(self._by_time)[2])
        return True
