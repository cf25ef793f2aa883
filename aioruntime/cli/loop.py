"""Run a command on an event loop: signals cancel it, errors become a line and an exit status (L5)."""

from __future__ import annotations

__all__ = ("run_command", "unwritten")

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from aioruntime.errors import AioRuntimeError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

# What shells report for a program that a signal ended.
_SIGNALLED = 128
_UNREAD = _SIGNALLED + signal.SIGPIPE
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_command(command: Coroutine[Any, Any, int], failure: int = 1) -> int:
    """Run *command* to its end and return the exit status.

    SIGINT, SIGTERM and SIGHUP cancel it, so that containers and child processes are cleaned up.

    Args:
        command: what to run; it returns an exit status.
        failure: the exit status when it raises an `AioRuntimeError`, whose message is written. Once nobody
            reads what it prints (``| head``), it is quietly 141, as with other programs.
    """
    received: list[int] = []

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None

        def cancel(number: int) -> None:
            received.append(number)
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            # What a shell has its background jobs ignore, or nohup, stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, cancel, number)
        return await command

    try:
        status = asyncio.run(main())
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except OSError as exc:
        return unwritten(exc, failure)
    except AioRuntimeError as exc:
        if isinstance(exc.__cause__, BrokenPipeError):
            return unwritten(exc.__cause__, failure)
        print(f"aioruntime: {exc}", *getattr(exc, "__notes__", ()), sep="\n", file=sys.stderr)
        return failure
    except asyncio.CancelledError:
        if not received:
            raise
        return _SIGNALLED + received[0]


def unwritten(exc: OSError, failure: int) -> int:
    """Return the exit status for output that could not be written, and tell why, unless nobody reads it.

    Args:
        exc: the error.
        failure: the exit status, unless nobody reads.

    Raises:
        OSError: the error is of a file, not of the output.
    """
    if exc.filename is not None:
        raise exc
    # What is still buffered goes nowhere, so that the interpreter's last flush has nothing to tell.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    if isinstance(exc, BrokenPipeError):
        failure = _UNREAD
    else:
        with suppress(OSError):
            print(f"aioruntime: the output can't be written: {exc.strerror or exc}", file=sys.stderr)
    with suppress(OSError):
        sys.stderr.flush()
    os.dup2(nowhere, sys.stderr.fileno())
    os.close(nowhere)
    return failure
