"""Exec: further processes in a container that runs (L2)."""

from __future__ import annotations

__all__ = ("ExecState", "attach_exec", "create_exec", "inspect_exec", "resize_exec", "wait_exec")

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec

from aioruntime.engine.client import path_part
from aioruntime.engine.container_state import demand_running
from aioruntime.engine.hijack import hijacked
from aioruntime.errors import EngineError, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.frames import Output
    from aioruntime.engine.hijack import Attachment

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.5
_TOLD_SECONDS = 2.0
# What a shell, Docker and Podman report for a command that could not be started.
_NOT_STARTED = (125, 126, 127)


@dataclass(frozen=True, slots=True)
class ExecState:
    """The state of a process made by `create_exec`.

    Attributes:
        running: whether it runs.
        exit_code: how it ended; None before.
        pid: its number on the engine's machine; 0 before it runs and, on Podman, after.
    """

    running: bool
    exit_code: int | None
    pid: int


class _Exec(msgspec.Struct, rename="pascal"):
    running: bool
    exit_code: int | None = None
    pid: int = 0


async def create_exec(
    client: EngineClient,
    container: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    working_dir: str | None = None,
    tty: bool = False,
    stdin: bool = False,
) -> str:
    """Prepare a process in a running container and return its ID; `attach_exec` starts it.

    Args:
        client: the engine.
        container: ID or name of the container.
        command: the program and its arguments.
        env: environment variables beside the container's own.
        user: name or number of the user, and after a colon of the group; None for the container's.
        working_dir: the directory to start in; None for the container's.
        tty: whether it has a terminal.
        stdin: whether its standard input is open.

    Raises:
        EngineError: there is no such container (status 404), or it does not run (status 409).
    """
    settings = {"User": user, "WorkingDir": working_dir}
    body = {
        "Cmd": list(command),
        "Env": [f"{name}={value}" for name, value in (env or {}).items()],
        "Tty": tty,
        "AttachStdin": stdin,
        "AttachStdout": True,
        "AttachStderr": True,
    } | {name: value for name, value in settings.items() if value is not None}
    path = f"/containers/{path_part(container)}/exec"
    async with demand_running(client, container):
        answer = await client.json("POST", path, body=body)
    if not isinstance(answer, dict) or not isinstance(answer.get("Id"), str):
        raise EngineError(f"POST {path}: the engine did not name the process")
    return str(answer["Id"])


@asynccontextmanager
async def attach_exec(
    client: EngineClient, exec_id: str, *, tty: bool = False, timeout: float = 60
) -> AsyncGenerator[Attachment]:
    """Start a process made by `create_exec`, attached to its streams, for the time of the context.

    Leaving the context does not end the process. Once the output has ended, `wait_exec` has its exit code.

    Args:
        client: the engine.
        exec_id: what `create_exec` returned.
        tty: the same as there.
        timeout: seconds that the engine may take to answer.

    Raises:
        EngineError: the process could not be started, since the command, the user or the directory does
            not exist or may not be used; raised here or by the first step of the iteration.
        EngineUnavailable: the engine can't be reached, or (while iterating) does not answer any more.
        StreamTruncated: the connection ended within a frame (raised while iterating).
    """
    body = {"Detach": False, "Tty": tty}
    path = f"/exec/{path_part(exec_id)}/start"
    check = partial(_demand_started, client, exec_id)
    async with hijacked(client, path, body=body, tty=tty, timeout=timeout, check=check) as attachment:
        yield attachment


async def _demand_started(client: EngineClient, exec_id: str, first: Output) -> None:
    """Raise if *first* is no output of the process, but the engine's words on why there is none."""
    # Engines say that they will start it before they try, and then have only the output to tell. Docker
    # writes one line with a DOS ending; Podman one or more on stderr, behind "Error: ".
    text = first.data
    if client.capabilities.kind == "podman":
        if not (text.startswith(b"Error: ") and b"OCI " in text):
            return
        state = None
        with anyio.move_on_after(_TOLD_SECONDS):  # it may tell this before it notes it
            state = await wait_exec(client, exec_id)
    else:
        state = await inspect_exec(client, exec_id) if text.endswith(b"\r\n") else None
    if state is not None and state.exit_code in _NOT_STARTED and not state.pid:
        reason = one_line(text.decode(errors="replace").removeprefix("Error: "))
        raise EngineError(f"the command could not be started: {reason}")


async def inspect_exec(client: EngineClient, exec_id: str) -> ExecState:
    """Return the state of a process made by `create_exec`.

    Raises:
        EngineError: there is none (status 404); engines forget one some time after it has ended.
    """
    path = f"/exec/{path_part(exec_id)}/json"
    document = await client.json("GET", path)
    try:
        found = msgspec.convert(document, _Exec)
    except msgspec.ValidationError as exc:
        raise EngineError(f"GET {path}: the engine's answer is unknown: {one_line(str(exc))}") from exc
    return ExecState(found.running, None if found.running else found.exit_code, found.pid)


async def wait_exec(client: EngineClient, exec_id: str) -> ExecState:
    """Wait, however long, until a process that was started by `attach_exec` has ended.

    Engines have no call to wait for it. Some tell the end of the output a moment before they know the exit
    code, others never: so it is asked again, at most every half second.

    Raises:
        EngineError: there is no such process (status 404).
    """
    pause = _FIRST_PAUSE
    while (state := await inspect_exec(client, exec_id)).exit_code is None:
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
    return state


async def resize_exec(client: EngineClient, exec_id: str, *, rows: int, columns: int) -> None:
    """Tell the terminal of a running process its size.

    Raises:
        EngineError: there is no such process, it does not run or has no terminal.
    """
    params = {"h": str(rows), "w": str(columns)}
    await client.json("POST", f"/exec/{path_part(exec_id)}/resize", params=params)
