"""What this machine tells of its NVIDIA GPUs: its driver's program, and descriptions of devices (L4)."""

from __future__ import annotations

__all__ = ("CDI_DIRECTORIES", "HostGpus", "look_for_gpus")

import os
import re
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aioruntime.errors import one_line
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import Process

CDI_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_KIND = re.compile(r"""["']?kind["']?\s*:\s*["']?nvidia\.com/gpu["']?\s*(?:[,}]|$)""", re.MULTILINE)
_MEMORY = re.compile(r"<fb_memory_usage>\s*<total>\s*(\d+) MiB")
_CUDA = re.compile(r"<cuda_version>\s*(\d+(?:\.\d+)*)\s*<")
_HOOK = "nvidia-container-runtime-hook"
_ANSWER_LIMIT = 16 << 20
_SECONDS = 20.0
_END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class HostGpus:
    """What was found on this machine.

    Attributes:
        smi: what came of asking ``nvidia-smi``, in words.
        memory: MiB of video memory of each GPU, as it told.
        cuda: the newest CUDA version that the driver serves, as it told; None if it did not.
        described: whether a file for engines describes devices ``nvidia.com/gpu``.
        hook: whether the program is there by which Docker gives containers a GPU.
    """

    smi: str
    memory: tuple[int, ...] = ()
    cuda: str | None = None
    described: bool = False
    hook: bool = False


async def look_for_gpus(
    directories: Sequence[str] = CDI_DIRECTORIES, *, timeout: float = _SECONDS
) -> HostGpus:
    """Look what NVIDIA GPUs this machine has.

    Args:
        directories: where engines look for descriptions of devices.
        timeout: seconds that ``nvidia-smi`` may take; with a broken driver it may hang.
    """
    described = await in_thread(_described, directories)
    hook, program = await in_thread(lambda: (shutil.which(_HOOK), shutil.which("nvidia-smi")))
    found = HostGpus("nvidia-smi is not on PATH", described=described, hook=hook is not None)
    if program is None:
        return found
    answer = await _ask(program, timeout)
    if isinstance(answer, str):
        return HostGpus(f"nvidia-smi {answer}", described=described, hook=hook is not None)
    text = answer.decode(errors="replace")
    memory = tuple(int(number) for number in _MEMORY.findall(text))
    cuda = _CUDA.search(text)
    return HostGpus(
        f"nvidia-smi tells of {len(memory)} GPUs", memory, cuda and cuda[1], described, hook is not None
    )


def _described(directories: Sequence[str]) -> bool:
    for directory in directories:
        for path in sorted(Path(directory).glob("*")):
            # Both forms, JSON and YAML, tell the kind in a line that this finds.
            with suppress(OSError):
                if path.suffix in (".json", ".yaml") and _KIND.search(path.read_text(errors="replace")):
                    return True
    return False


async def _ask(program: str, timeout: float) -> bytes | str:
    """Return what the program says, or how it failed."""
    answer = bytearray()
    async with AsyncExitStack() as stack:
        with anyio.move_on_after(timeout):
            # Not to be cancelled half-way: a process that nobody knows of yet would be left.
            process = await to_completion(_start(stack, program))
            if isinstance(process, str):
                return f"can't be run: {process}"
            assert process.stdout is not None
            with suppress(anyio.EndOfStream):
                while len(answer) <= _ANSWER_LIMIT:
                    answer += await process.stdout.receive()
                return "says too much"
            status = await process.wait()
            return bytes(answer) if status == 0 else f"failed with status {status}: {_last_line(answer)}"
    return f"did not answer within {timeout:g} s"


async def _start(stack: AsyncExitStack, program: str) -> Process | str:
    try:
        process = await anyio.open_process(
            [program, "-q", "-x"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as exc:
        return exc.strerror or type(exc).__name__
    stack.push_async_callback(lambda: to_completion(_end(process)))
    return process


async def _end(process: Process) -> None:
    # One that hangs in the driver can't even be killed; it is not waited for.
    with anyio.move_on_after(_END_SECONDS):
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.aclose()


def _last_line(output: bytes | bytearray) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return one_line(lines[-1]) if lines else "it says nothing"
