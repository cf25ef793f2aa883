"""Wait until a container is ready: healthy, saying something, or listening on a port (L4)."""

from __future__ import annotations

__all__ = ("listening_ports", "reachable_host", "until_healthy", "until_logged", "until_open")

import asyncio
import ipaddress
import math
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from aioruntime.engine import containers
from aioruntime.engine.container_state import check_health
from aioruntime.engine.logs import logs
from aioruntime.errors import (
    EngineError,
    EngineUnavailable,
    InvalidSpec,
    RunError,
    RunTimeout,
    StreamTruncated,
    one_line,
)
from aioruntime.oci.checks import is_number
from aioruntime.runtime.lines import Line, LineDecoder, Lines
from aioruntime.runtime.networking import Port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.container_state import ContainerState
    from aioruntime.engine.endpoint import Endpoint
    from aioruntime.runtime.process import Process

# What engines take for the time between checks that says nothing.
_INTERVAL = 30.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_STATE, _LISTENS = 3, "0A"
_TABLE_BYTES = 4 << 20
_LOCAL = re.compile("([0-9A-F]+):([0-9A-F]{4})")
# 127.0.0.0/8, as such and as a program with a socket for both families has it; and ::1.
_LOOPBACK = re.compile("(0000000000000000FFFF0000)?[0-9A-F]{6}7F|0{24}01000000")
# Docker's proxy takes a connection before it knows whether the container does, and then drops it.
_DROP_SECONDS = 0.2


async def until_healthy(client: EngineClient, container: str, what: str, timeout: float) -> None:
    """Return when the container's health check has passed.

    Raises:
        RunError: it has none, has failed it, or has ended.
        RunTimeout: it did not pass in time.
    """
    next_check = 0.0
    async with _within(timeout, f"{what}: it was not healthy", container):
        for pause in _pauses():
            state = await containers.inspect(client, container)
            _must_run(state, what, "healthy")
            if state.health is None:
                raise RunError(f"{what}: it has no health check; give one: RunSpec(health_check=...)")
            if anyio.current_time() >= next_check:
                state = await _checked(client, state)
                next_check = anyio.current_time() + (state.health_interval or _INTERVAL)
            if state.health == "healthy":
                return
            if state.health == "unhealthy":
                said = state.health_output or "nothing"
                raise RunError(f"{what}: it is unhealthy; its check said: {said}", container_id=container)
            await anyio.sleep(pause)


async def _checked(client: EngineClient, state: ContainerState) -> ContainerState:
    """Return the state after a check, where it needs us for that."""
    try:
        return await check_health(client, state.id)
    except EngineError as exc:
        if exc.status != 409:  # it has just ended: the next look tells
            raise
        return state


def _compiled(pattern: object) -> re.Pattern[str]:
    """Return the regular expression *pattern*, compiled.

    Raises:
        InvalidSpec: it is none for text.
    """
    why = "give text, as lines are"
    try:
        if isinstance(pattern, str):
            return re.compile(pattern)
    except (re.error, OverflowError) as exc:
        why = f"{exc}; re.escape() takes text as it is"
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern
    raise InvalidSpec(f"pattern {one_line(repr(pattern))} is not a regular expression: {why}")


async def until_logged(
    client: EngineClient,
    container: str,
    what: str,
    pattern: re.Pattern[str] | str,
    *,
    tty: bool,
    timeout: float,
) -> Line:
    """Return the first line that the container logged, since its start, in which *pattern* is found.

    Raises:
        InvalidSpec: *pattern* is not a regular expression for text.
        RunError: it ended before.
        RunTimeout: there was none in time.
        StreamTruncated: its log ended, and it did not.
    """
    wanted = _compiled(pattern)
    sought = f"no line matched {wanted.pattern!r}"
    async with (
        _within(timeout, f"{what}: {sought}", container),
        logs(client, container, follow=True, tty=tty) as pieces,
    ):
        async for line in Lines(pieces, LineDecoder()):
            if wanted.search(line.text):
                return line
    if not (await containers.inspect(client, container)).ended:
        raise StreamTruncated(f"{what}: {sought}, and its log ended while it runs")
    raise RunError(f"{what}: {sought}, and it has ended", container_id=container)


async def until_open(
    client: EngineClient,
    container: str,
    what: str,
    port: int,
    execute: Callable[[Iterable[str]], AbstractAsyncContextManager[Process]],
    timeout: float,
) -> None:
    """Return when the container listens on a TCP port, and takes connections there if it is published.

    Args:
        client: the engine.
        container: its ID.
        what: what runs in it, for messages.
        port: the container's port.
        execute: executes a program in it.
        timeout: seconds.

    Raises:
        InvalidSpec: *port* is not from 1 to 65535.
        RunError: it has ended, or has no program to look with and does not publish the port to us either.
        RunTimeout: nothing listened in time.
    """
    Port(port)  # refuses what is none
    async with _within(timeout, f"{what}: nothing listened on port {port}", container):
        for pause in _pauses():
            state = await containers.inspect(client, container)
            _must_run(state, what, f"listening on port {port}")
            published = state.ports.get(f"{port}/tcp", ())[:1]
            reachable = [(host, at) for ip, at in published if (host := reachable_host(client.endpoint, ip))]
            listens = await _listens(execute, port)
            if listens is None and not reachable:
                raise RunError(
                    f"{what}: whether it listens on port {port} can't be told, since it has no program `cat` "
                    f"to look with; publish the port so that it is reached from here: RunSpec(ports=[{port}])"
                )
            if listens is not False and all([await _takes_connections(*place) for place in reachable]):
                return
            await anyio.sleep(pause)


async def _listens(
    execute: Callable[[Iterable[str]], AbstractAsyncContextManager[Process]], port: int
) -> bool | None:
    """Tell whether something in the container listens on *port*; None if that can't be seen."""
    table = bytearray()
    try:
        # Docker's proxy takes connections to a published port whether the container listens or not.
        async with execute(["cat", "/proc/net/tcp6", "/proc/net/tcp"]) as program:
            async for piece in program.output():
                table += piece.data if piece.stream == "stdout" else b""
                if len(table) > _TABLE_BYTES:  # it is the image's program, and may say anything
                    break
    except (EngineUnavailable, StreamTruncated):
        raise
    except EngineError as exc:
        if exc.status is None:
            return None
        return False  # it has ended: the next look tells
    return port in listening_ports(table.decode(errors="replace"))


def listening_ports(table: str) -> set[int]:
    """Return the ports that can be connected to from outside, out of Linux's tables of TCP sockets.

    proc_pid_net(5): local address and port in hexadecimal, then the remote ones, then the state.
    """
    rows = (row.split() for row in table.splitlines())
    local = [_LOCAL.fullmatch(row[1]) for row in rows if len(row) > _STATE and row[_STATE] == _LISTENS]
    return {int(found[2], 16) for found in local if found and not _LOOPBACK.fullmatch(found[1])}


def reachable_host(endpoint: Endpoint, bound: str) -> str | None:
    """Return the host to connect to for a port that is bound to address *bound* of the engine's machine.

    None if it can't be reached from here.
    """
    machine = "127.0.0.1" if endpoint.socket is not None else urlsplit(endpoint.url).hostname or ""
    address = ipaddress.ip_address(bound)
    if address.is_loopback and not (machine in ("localhost", "::1") or machine.startswith("127.")):
        return None
    return machine if address.is_unspecified else bound


async def _takes_connections(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        with anyio.move_on_after(_DROP_SECONDS):
            return bool(await reader.read(1))
        return True
    except OSError:
        return False
    finally:
        writer.transport.abort()
        with anyio.CancelScope(shield=True), suppress(OSError):
            await writer.wait_closed()


def _must_run(state: ContainerState, what: str, wish: str) -> None:
    if state.ended:
        message = f"{what}: it ended with exit code {state.exit_code} before it was {wish}"
        raise RunError(message, container_id=state.id)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 2, _LONGEST_PAUSE)


@asynccontextmanager
async def _within(seconds: float, message: str, container: str) -> AsyncIterator[None]:
    if not (is_number(seconds, -math.inf) or seconds == math.inf):
        raise InvalidSpec(f"timeout {one_line(repr(seconds))} is not a number of seconds")
    with anyio.move_on_after(seconds) as limit:
        yield
    if limit.cancelled_caught:
        raise RunTimeout(f"{message} within {seconds:g} s", container_id=container)
