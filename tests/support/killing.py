"""Run Python in a child process and SIGKILL it: at a random moment of its life, or when it prints a line."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPOSITORY = Path(__file__).resolve().parents[2]


class ChildFailed(AssertionError):
    """A child that nobody killed ended with an error, or did not end."""


@dataclass(frozen=True, slots=True)
class Program:
    """What the child runs: a snippet of code or a module, with arguments and additions to the environment."""

    code: str = ""
    module: str = ""
    arguments: tuple[str, ...] = ()
    environ: Mapping[str, str] | None = None
    options: tuple[str, ...] = ()

    def argv(self) -> Sequence[str]:
        what = ("-m", self.module) if self.module else ("-c", self.code)
        return (sys.executable, "-u", *self.options, *what, *self.arguments)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended; `killed` if by our signal, `note` says how to repeat it."""

    killed: bool
    status: int
    stdout: str
    stderr: str
    seconds: float
    note: str = ""

    def check(self) -> Outcome:
        """Raise `ChildFailed`, with the output and the note, if the child failed by itself."""
        if not self.killed and self.status != 0:
            raise ChildFailed(f"status {self.status}; {self.note}\n{self.stdout}\n{self.stderr}")
        return self


async def run(program: Program, *, seconds: float = 60) -> Outcome:
    """Run the child to its end and return how it went; it must succeed."""
    return (await _run(program, None, None, seconds, "not killed")).check()


async def kill_after(program: Program, delay: float, *, seconds: float = 60, note: str = "") -> Outcome:
    """SIGKILL the child, and all of its process group, `delay` seconds after its start."""
    return await _run(program, delay, None, seconds, note or f"killed after {delay:.4f} s")


async def kill_at_line(program: Program, line: str, *, delay: float = 0.0, seconds: float = 60) -> Outcome:
    """SIGKILL the child when it prints a line that contains the pattern, or `delay` seconds later."""
    return await _run(program, delay, re.compile(line), seconds, f"killed {delay:.4f} s after {line!r}")


class Killer:
    """Kills at moments drawn from a seed; `note` of each outcome names seed, round and moment."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.rounds = 0
        self._random = random.Random(seed)

    async def measure(self, program: Program, *, start: str | None = None) -> float:
        """How long the child runs undisturbed, from its start or from the line that contains `start`."""
        outcome = await _run(program, None, re.compile(start) if start else None, 60, "not killed")
        return outcome.check().seconds

    async def kill(self, program: Program, within: float, *, start: str | None = None) -> Outcome:
        """SIGKILL the child at a random moment within so many seconds of its start, or of that line."""
        self.rounds += 1
        delay = self._random.uniform(0, within)
        note = f"seed {self.seed}, round {self.rounds}, killed {delay:.4f} s after {start or 'the start'}"
        return await _run(program, delay, re.compile(start) if start else None, 60, note)


async def _run(
    program: Program, delay: float | None, line: re.Pattern[str] | None, seconds: float, note: str
) -> Outcome:
    """Run the child; kill it `delay` after its start, or after the line; time counts from there."""
    child = await asyncio.create_subprocess_exec(
        *program.argv(),
        cwd=_REPOSITORY,
        env={**os.environ, **(program.environ or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=1 << 24,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    began = asyncio.get_running_loop().create_future()
    if line is None:
        began.set_result(time.monotonic())
    killing = asyncio.ensure_future(_kill(child, began, delay))
    try:
        async with asyncio.timeout(seconds):
            out, err, status = await asyncio.gather(
                _watch(child.stdout, line, began), child.stderr.read(), child.wait()
            )
    except TimeoutError as late:
        raise ChildFailed(f"not done after {seconds} s; {note}") from late
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        _signal(child)
        await child.wait()
    if not began.done():
        raise ChildFailed(f"never printed {line and line.pattern!r}; status {status}\n{out}\n{err.decode()}")
    elapsed = time.monotonic() - began.result()
    killed = status == -signal.SIGKILL and delay is not None
    return Outcome(killed, status, out, err.decode(errors="replace"), elapsed, note)


async def _watch(
    stdout: asyncio.StreamReader, line: re.Pattern[str] | None, began: asyncio.Future[float]
) -> str:
    seen = []
    async for raw in stdout:
        seen.append(raw.decode(errors="replace"))
        if line is not None and not began.done() and line.search(seen[-1]):
            began.set_result(time.monotonic())
    return "".join(seen)


async def _kill(child: asyncio.subprocess.Process, began: asyncio.Future[float], delay: float | None) -> None:
    start = await asyncio.shield(began)
    if delay is not None:
        await asyncio.sleep(start + delay - time.monotonic())
        _signal(child)


def _signal(child: asyncio.subprocess.Process) -> None:
    """SIGKILL the child's whole process group: its own children go with it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
