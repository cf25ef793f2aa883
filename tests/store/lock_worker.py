"""Holds the store's locks and waits for them, in the test or as `python -m tests.store.lock_worker ROOT`.

The latter is told a line at a time what to do, and prints what happens in which contest: `in`, `out`,
`told MESSAGE`, and so on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioruntime.errors import StoreError
from aioruntime.store import directories, files, threads
from aioruntime.store.store import ImageStore
from tests.store.helpers import blob_path, content, put_descriptor

if TYPE_CHECKING:
    import pytest

# Of the task that is at work: what to do once it has the lock, and where that happens.
_INSIDE: ContextVar[tuple[str, Callable[[], None]]] = ContextVar("inside")
_TOLD: ContextVar[Callable[[str], None]] = ContextVar("told")

_DATA, DIGEST = content(1000)
_DAMAGED = b"damaged"


async def _ingest(store: ImageStore, inside: Callable[[], None]) -> None:
    async with store.ingest(DIGEST, len(_DATA)) as ingest:
        assert ingest is not None
        await asyncio.to_thread(inside)


async def _discard(store: ImageStore, inside: Callable[[], None]) -> None:
    _INSIDE.set((str(blob_path(store, DIGEST)), inside))
    await store.discard_damaged(DIGEST)


async def _reference(store: ImageStore, inside: Callable[[], None]) -> None:
    descriptor = await put_descriptor(store, b"manifest")
    _INSIDE.set((str(store.path), inside))
    await store.set_reference(f"{os.getpid()}-{time.monotonic_ns()}", descriptor)


async def _note(store: ImageStore, inside: Callable[[], None]) -> None:
    def change(old: bytes | None) -> bytes:
        inside()
        return (old or b"") + b"1"

    await store.update_note("note", change)


async def _turn(store: ImageStore, inside: Callable[[], None]) -> None:
    async with store.turn("turn"):
        await asyncio.to_thread(inside)


@dataclass(frozen=True, slots=True)
class Contest:
    """Two who want one lock: what each does."""

    holder: Callable[[ImageStore, Callable[[], None]], Awaitable[None]]
    waiter: Callable[[ImageStore, Callable[[], None]], Awaitable[None]]


CONTESTS = {
    "ingest": Contest(_ingest, _ingest),
    "ingest-discard": Contest(_ingest, _discard),
    "discard-ingest": Contest(_discard, _ingest),
    "discard": Contest(_discard, _discard),
    "reference": Contest(_reference, _reference),
    "reference-note": Contest(_reference, _note),
    "note-reference": Contest(_note, _reference),
    "note": Contest(_note, _note),
    "turn": Contest(_turn, _turn),
}


async def prepare(root: Path) -> None:
    """Make a store for each contest, with a blob that is not what it should be."""
    for name in CONTESTS:
        store = ImageStore(root / name)
        await put_descriptor(store, b"manifest")
        blob_path(store, DIGEST).write_bytes(_DAMAGED)


def gated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let those who have no hook of their own stop where they hold the lock; tell waits soon."""
    lookup, replace = directories.lookup, files.replace

    def at(path: Path, where: str) -> None:
        wanted, inside = _INSIDE.get(("", lambda: None))
        if where == wanted:
            inside()

    def gated_lookup(path: Path) -> directories.Status | None:
        at(path, str(path))
        return lookup(path)

    def gated_replace(path: Path, data: bytes, *, over: directories.Status | None = None) -> bool:
        at(path, str(path.parent))
        return replace(path, data, over=over)

    monkeypatch.setattr(directories, "lookup", gated_lookup)
    monkeypatch.setattr(files, "replace", gated_replace)
    monkeypatch.setattr(threads, "_WORTH_TELLING", 0.05)
    monkeypatch.setattr(threads, "_TOLD_AGAIN", 2)


class _Told(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _TOLD.get()(record.getMessage())


class Session:
    """What one process does in all contests, each in a store of its own.

    Args:
        root: where the stores are.
        say: called, from any thread, with contest, what happened there, and more words on it.
    """

    def __init__(self, root: Path, say: Callable[[str, str, str], None]) -> None:
        self._root = root
        self._say = say
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._gates: dict[str, threading.Event] = {}

    async def enter(self, contest: str, role: str) -> None:
        self._gates[contest] = threading.Event()
        self._tasks[contest] = asyncio.create_task(self._run(contest, getattr(CONTESTS[contest], role)))

    async def _run(self, contest: str, work: Callable[..., Awaitable[None]]) -> None:
        _TOLD.set(partial(self._say, contest, "told"))
        try:
            await work(ImageStore(self._root / contest), partial(self._inside, contest, self._gates[contest]))
        except StoreError as exc:
            self._say(contest, "failed", repr(exc))
        else:
            self._say(contest, "out", "")

    def _inside(self, contest: str, gate: threading.Event) -> None:
        if gate.is_set():
            return  # a second time in one go
        witness = self._root / f"{contest}.witness"
        try:
            fd = os.open(witness, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            if not _is_dead(witness.read_text()):
                self._say(contest, "violated", witness.read_text())
                return
            fd = os.open(witness, os.O_WRONLY | os.O_TRUNC)
        os.write(fd, str(os.getpid()).encode())
        os.close(fd)
        self._say(contest, "in", "")
        gate.wait(60)
        witness.unlink()

    async def leave(self, contest: str) -> None:
        self._gates[contest].set()

    async def cancel(self, contest: str) -> None:
        task = self._tasks[contest]
        begin = time.perf_counter()
        task.cancel()
        await asyncio.wait([task])
        self._say(contest, "cancelled", str(time.perf_counter() - begin))

    async def end(self) -> None:
        """Let go of everything."""
        for gate in self._gates.values():
            gate.set()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.wait(self._tasks.values())

    async def fork(self, contest: str) -> None:
        """Have a child that lives on without doing anything."""
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            for fd in (0, 1):
                os.close(fd)
            while True:
                signal.pause()
        self._say(contest, "forked", str(pid))


def _is_dead(pid: str) -> bool:
    """Tell whether a process is dead; what was killed lets go of its locks a moment before it is."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
    return False


def listen() -> logging.Handler:
    """Hear what is logged of waits; to be taken off again."""
    handler = _Told()
    logging.getLogger(threads.__name__).addHandler(handler)
    return handler


async def _main(root: str) -> None:
    def say(*words: str) -> None:
        os.write(1, " ".join((*words, "\n")).encode())  # at once: threads say things too

    session: Any = Session(Path(root), say)
    listen()
    say("-", "ready", "")
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, *arguments = line.split()
        await getattr(session, command)(*arguments)
    os._exit(0)  # whoever told us is gone


if __name__ == "__main__":
    import pytest

    gated(pytest.MonkeyPatch())
    asyncio.run(_main(sys.argv[1]))
