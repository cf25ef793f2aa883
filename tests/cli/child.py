"""The command line as a child process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aioruntime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(aioruntime.__file__).parents[1]
SECONDS = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


@asynccontextmanager
async def started(
    *arguments: object, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start ``aioruntime`` with *arguments*; kill it if it outlives the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aioruntime",
        *map(str, arguments),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        cwd=ROOT,
        env={"COLUMNS": "100"} | os.environ | {"TERM": "xterm", "PYTHONWARNINGS": "error"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for the end of a command, for a bounded time."""
    stdout, stderr = await asyncio.wait_for(process.communicate(), SECONDS)
    assert process.returncode is not None
    return Ended(process.returncode, (stdout or b"").decode(), (stderr or b"").decode())


async def command(*arguments: object) -> Ended:
    """Run ``aioruntime`` with *arguments* to its end."""
    async with started(*arguments) as process:
        return await ended(process)
