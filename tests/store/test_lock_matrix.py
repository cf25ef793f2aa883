"""The lock matrix (T7): each kind of lock, wanted by two, held by one who leaves, dies, stops or forks."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest

from aioruntime.store import threads
from tests.store.conftest import open_in
from tests.store.helpers import ROOT
from tests.store.lock_worker import CONTESTS, Session, gated, listen, prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_CANCELLED_WITHIN = 0.05


class _Commands(Protocol):
    async def enter(self, contest: str, role: str) -> None: ...
    async def leave(self, contest: str) -> None: ...
    async def cancel(self, contest: str) -> None: ...
    async def fork(self, contest: str) -> None: ...


class Party:
    """One side of all contests: a task here, or a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.do: _Commands
        self._events: defaultdict[str, asyncio.Queue[tuple[str, str]]] = defaultdict(asyncio.Queue)

    def hear(self, contest: str, word: str, text: str) -> None:
        self._events[contest].put_nowait((word, text))

    async def expect(self, contest: str, wanted: str) -> str:
        """Wait for what happens next in a contest, which must be this; repeated messages aside."""
        async with asyncio.timeout(60):
            word, text = await self._events[contest].get()
            while word == "told" != wanted:
                word, text = await self._events[contest].get()
        assert word == wanted, f"{contest}: {word} {text}, not {wanted}"
        return text


class _Piped:
    """Tells a process what to do."""

    def __init__(self, stdin: asyncio.StreamWriter) -> None:
        self._stdin = stdin

    def __getattr__(self, command: str) -> Callable[..., object]:
        async def tell(*arguments: str) -> None:
            self._stdin.write(" ".join((command, *arguments, "\n")).encode())
            await self._stdin.drain()

        return tell


@asynccontextmanager
async def party(kind: str, root: Path) -> AsyncIterator[Party]:
    async with task(root) if kind == "task" else process(root, apart=kind == "namespace") as made:
        yield made


@asynccontextmanager
async def task(root: Path) -> AsyncIterator[Party]:
    made = Party(os.getpid())
    loop = asyncio.get_running_loop()

    def hear(contest: str, word: str, text: str) -> None:
        loop.call_soon_threadsafe(partial(made.hear, contest, word, text))

    session = made.do = Session(root, hear)
    try:
        yield made
    finally:
        await session.end()


@asynccontextmanager
async def process(root: Path, *, apart: bool) -> AsyncIterator[Party]:
    prefix = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child") if apart else ()
    command = (*prefix, sys.executable, "-m", "tests.store.lock_worker", str(root))
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert child.stdin is not None
    made = Party(child.pid)
    made.do = _Piped(child.stdin)  # type: ignore[assignment]
    reading = asyncio.create_task(_read(child, made))
    try:
        await made.expect("-", "ready")
        yield made
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        child.stdin.close()
        await reading


async def _read(child: asyncio.subprocess.Process, made: Party) -> None:
    assert child.stdout is not None
    async for line in child.stdout:
        contest, word, *text = line.decode().rstrip(" \n").split(" ", 2)
        made.hear(contest, word, "".join(text))


def _known_as(holder: Party, holder_is: str, waiter_is: str) -> str:
    if waiter_is == "namespace":
        return "in another PID namespace"
    if holder_is == "namespace":
        return "(python"  # has another ID here than there, and it is not that of `unshare`
    return "another task of this process" if holder_is == waiter_is == "task" else f"process {holder.pid} ("


async def _waits(waiter: Party, contest: str, *said: str) -> None:
    """The second is not let in, is told who is, can give up at once, and waits again."""
    await waiter.do.enter(contest, "waiter")
    message = await waiter.expect(contest, "told")
    assert all(words in message for words in said), f"{contest}: {message}"
    took: list[float] = []
    while not took or (took[-1] > _CANCELLED_WITHIN and len(took) < 10):  # not what a busy machine does once
        await waiter.do.cancel(contest)
        took.append(float(await waiter.expect(contest, "cancelled")))
        await waiter.do.enter(contest, "waiter")
        await waiter.expect(contest, "told")
    assert min(took) < _CANCELLED_WITHIN, contest


async def _takes(holder: Party, contest: str) -> None:
    await holder.do.enter(contest, "holder")
    await holder.expect(contest, "in")


async def _is_let_in(waiter: Party, contest: str) -> None:
    await waiter.expect(contest, "in")
    await waiter.do.leave(contest)
    await waiter.expect(contest, "out")


async def _leave(holder: Party, contest: str) -> None:
    await holder.do.leave(contest)
    await holder.expect(contest, "out")


@pytest.fixture
async def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    gated(monkeypatch)
    await prepare(tmp_path)
    handler = listen()
    yield tmp_path
    logging.getLogger(threads.__name__).removeHandler(handler)
    assert open_in(tmp_path) == []


@pytest.mark.parametrize(
    ("holder_is", "waiter_is"),
    [
        ("task", "task"),
        ("task", "process"),
        ("process", "task"),
        ("process", "process"),
        ("process", "namespace"),
        ("namespace", "task"),
    ],
)
async def test_the_second_waits_until_the_first_leaves(root: Path, holder_is: str, waiter_is: str) -> None:
    """L8, L10, L16, T7: never two at once; whoever waits is told whom for, and can give up within 50 ms."""
    async with party(holder_is, root) as holder, party(waiter_is, root) as waiter:
        known = _known_as(holder, holder_is, waiter_is)

        async def contend(contest: str) -> None:
            await _takes(holder, contest)
            await _waits(waiter, contest, known)
            await _leave(holder, contest)
            await _is_let_in(waiter, contest)

        await asyncio.gather(*map(contend, CONTESTS))


@pytest.mark.parametrize("waiter_is", ["task", "process"])
async def test_a_killed_holder_is_no_obstacle(root: Path, waiter_is: str) -> None:
    """L10, L12, T7: what a killed process held is free at once, also if a child of it lives on."""
    async with party("process", root) as holder, party(waiter_is, root) as waiter, _children() as children:

        async def begin(contest: str) -> None:
            await _takes(holder, contest)
            await _waits(waiter, contest, f"process {holder.pid} (python")

        await asyncio.gather(*map(begin, CONTESTS))
        await holder.do.fork("-")
        children.append(int(await holder.expect("-", "forked")))
        os.kill(holder.pid, signal.SIGKILL)
        await asyncio.gather(*(_is_let_in(waiter, contest) for contest in CONTESTS))
        os.kill(children[0], 0)


async def test_a_child_of_the_holder_is_no_obstacle(root: Path) -> None:
    """L10, T7: what a process held is free once it leaves, also if a child of it lives on."""
    async with party("process", root) as holder, party("task", root) as waiter, _children() as children:
        await asyncio.gather(*(_takes(holder, contest) for contest in CONTESTS))
        await holder.do.fork("-")
        children.append(int(await holder.expect("-", "forked")))

        async def contend(contest: str) -> None:
            await _waits(waiter, contest, f"process {holder.pid} (python")
            await _leave(holder, contest)
            await _is_let_in(waiter, contest)

        await asyncio.gather(*map(contend, CONTESTS))
        os.kill(children[0], 0)


async def test_a_stopped_holder_is_waited_for(root: Path) -> None:
    """L10, T7: a stopped process keeps what it holds; whoever waits is told that it is stopped."""
    async with party("process", root) as holder, party("task", root) as waiter:
        await asyncio.gather(*(_takes(holder, contest) for contest in CONTESTS))
        os.kill(holder.pid, signal.SIGSTOP)

        async def begin(contest: str) -> None:
            await _waits(waiter, contest, f"process {holder.pid} (python", "), which is stopped")

        await asyncio.gather(*map(begin, CONTESTS))
        os.kill(holder.pid, signal.SIGCONT)

        async def end(contest: str) -> None:
            await _leave(holder, contest)
            await _is_let_in(waiter, contest)

        await asyncio.gather(*map(end, CONTESTS))


@asynccontextmanager
async def _children() -> AsyncIterator[list[int]]:
    """Gather processes that outlive who made them; they are killed in the end."""
    pids: list[int] = []
    try:
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
