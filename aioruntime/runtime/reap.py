"""Remove the containers that programs left which ended without a word, such as by `kill -9` (L4).

A container goes if the record of a dead owner names it and both its labels say the same. Labels alone are not
believed, since engines give a container those of its image.
"""

from __future__ import annotations

__all__ = ("ReapReport", "reap")

import enum
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from aioruntime.engine import containers
from aioruntime.engine.identity import identity
from aioruntime.errors import EngineError, EngineUnavailable, StoreError, StreamTruncated, one_line
from aioruntime.runtime.owner import CONTAINER_LABEL, OWNER_LABEL
from aioruntime.store.layout import Layout
from aioruntime.store.owners import Owned, owners
from aioruntime.store.threads import Threads
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.identity import Identity
    from aioruntime.store.owners import Record
    from aioruntime.store.store import ImageStore

# Seconds after which an engine won't create any more what a dead program asked for; a live one waits 300.
_IN_FLIGHT = 600.0
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ReapReport:
    """What `reap` did.

    Attributes:
        removed: the engine's IDs of the containers that were removed.
        left: what could not be removed, or not yet, each in a sentence with the reason.
        elsewhere: containers of dead programs that are in other engines, to be reaped there.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]
    elsewhere: int = 0


async def reap(client: EngineClient, store: ImageStore, *, owner: str | None = None) -> ReapReport:
    """Remove what dead owners that used this store left in this engine, never what a live one owns.

    Any number may do so at once: each takes other owners. One that is interrupted loses nothing.

    Args:
        client: the engine.
        store: where containers are recorded.
        owner: whose alone, if not everybody's.

    Raises:
        EngineUnavailable: the engine can't be reached.
        StreamTruncated: it went away meanwhile.
        StoreError: the store can't be looked into.
    """
    work = _Reaping(client)
    layout = Layout(store.path)
    for each in await work.threads.run(owners, layout) if owner is None else [owner]:
        try:
            await work.clear(Owned(layout, each), each)
        except StoreError as exc:
            work.left.append(str(exc))
    return ReapReport(tuple(work.removed), tuple(work.left), work.elsewhere)


class _Verdict(enum.Enum):
    REMOVE = enum.auto()
    GONE = enum.auto()
    WAIT = enum.auto()
    ANOTHER = enum.auto()


def _judge(record: Record, owner: str, found: Identity | None, age: float) -> _Verdict:
    """Decide on a record of a dead owner.

    Args:
        record: what was recorded.
        owner: whose record it is.
        found: what the engine has by the recorded ID; by the name, if no ID is recorded.
        age: seconds since it was written.
    """
    labels = {OWNER_LABEL: owner, CONTAINER_LABEL: record.nonce}
    ours = found is not None and labels.items() <= found.labels.items()
    if record.id:
        if found is None:
            return _Verdict.GONE
        return _Verdict.REMOVE if ours and found.id == record.id else _Verdict.ANOTHER
    if ours and found is not None and found.name == record.name:
        return _Verdict.REMOVE
    # Another container of that name, or none: ours is not there, or not yet. A clock that was set decides
    # nothing: an age below zero is one that can't be told, and no record shall stay for ever.
    return _Verdict.WAIT if abs(age) <= _IN_FLIGHT else _Verdict.GONE


class _Reaping:
    """The work, and what came of it."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._slots = anyio.CapacityLimiter(_AT_ONCE)
        self.threads = Threads()
        self.removed: list[str] = []
        self.left: list[str] = []
        self.elsewhere = 0

    async def clear(self, owned: Owned, owner: str) -> None:
        """Remove what an owner left, if it is dead."""
        try:
            if not await self.threads.run(owned.take):
                return
            records, faults = await self.threads.run(owned.look)
            self.left += faults
            async with task_group() as group:
                for record, written in records.items():
                    if record.engine == self._client.capabilities.engine_id:
                        group.start_soon(self._settle, owned, owner, record, written)
                    else:
                        self.elsewhere += 1
        finally:
            await self.threads.run_urgent(owned.close)

    async def _settle(self, owned: Owned, owner: str, record: Record, written: int) -> None:
        async with self._slots:
            try:
                await self._decide(owned, owner, record, (time.time_ns() - written) / 1e9)
            except (EngineUnavailable, StreamTruncated):
                raise
            except (EngineError, StoreError) as exc:
                self.left.append(f"container {one_line(record.name)}: {exc}")

    async def _decide(self, owned: Owned, owner: str, record: Record, age: float) -> None:
        found = await identity(self._client, record.id or record.name)
        verdict = _judge(record, owner, found, age)
        name = one_line(record.name)
        if verdict is _Verdict.WAIT:
            self.left.append(
                f"container {name}: not there, but the engine may still be about to create it; "
                f"reap again in {_IN_FLIGHT / 60:.0f} minutes"
            )
            return
        if verdict is _Verdict.ANOTHER:
            self.left.append(
                f"container {name}: {record.id[:12]} does not have the labels that were recorded "
                f"({CONTAINER_LABEL}={one_line(record.nonce)}); look at it, and remove it if it is yours"
            )
            return
        if verdict is _Verdict.REMOVE and found is not None:
            await containers.remove(self._client, found.id)
            self.removed.append(found.id)
        await self.threads.run(owned.drop, record.nonce)
