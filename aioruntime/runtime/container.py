"""A started container, as the one who started it has it in hand (L4)."""

from __future__ import annotations

__all__ = ("Container",)

import asyncio
import logging
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio

from aioruntime.engine import containers
from aioruntime.engine.removal import checked_name
from aioruntime.errors import EngineError, EngineUnavailable, OutcomeUnknown, RunTimeout, StreamTruncated
from aioruntime.runtime.attached import Attached, Stdin
from aioruntime.runtime.controlled import Controlled
from aioruntime.runtime.spec import RunOutcome
from aioruntime.runtime.stream import OutputStream
from aioruntime.runtime.waiting import until_healthy, until_logged, until_open
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    import re
    from collections.abc import AsyncIterator

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.container_state import ContainerState
    from aioruntime.engine.hijack import Attachment
    from aioruntime.runtime.lines import Line

_log = logging.getLogger("aioruntime")

# Engines mostly answer a wait within this time after the streams have ended.
_LAG_SECONDS = 0.1
# A wait that begins later than this after the start can't tell how long the program ran.
_LATE_SECONDS = 0.5
# How often in a row a wait may be cut at once, from an engine that can still be asked.
_WAITS = 3
# A connection that was lost without a sign never brings the answer: so it is looked for, and asked again.
# This is longer than it takes to find out that the engine itself does not answer any more.
_SILENCE_SECONDS = 60.0
_GOOD_SECONDS = 1.0
# What Docker says of a container that ended while it was itself not running.
_LOST_CODE = 255
_GRACE_SECONDS = 10
# From one try to end a container whose time is up to the next.
_KILL_PAUSE = 1.0


class Container(Controlled, Attached):
    """A started container; made by `ContainerRuntime.start`."""

    def __init__(
        self,
        client: EngineClient,
        container_id: str,
        name: str,
        what: str,
        *,
        tty: bool,
        stdin: bool = False,
        attachment: Attachment | None = None,
        stop_timeout: int | None = None,
        found: bool = False,
    ) -> None:
        Controlled.__init__(self, client, container_id, name, what, tty=tty)
        Attached.__init__(self, what)
        self._stop_timeout = stop_timeout
        self._started = None if found else time.monotonic()
        self._waiters = 0
        self._ended = anyio.Event()
        self._outcome: RunOutcome | None = None
        self._time_is_up: float | None = None
        if attachment is not None:
            # Docker holds its lock on a container from before the streams' end until it has noted the end.
            lags = client.capabilities.kind != "docker"
            self._stream = OutputStream(attachment, self._runs, what, lags=lags)
            self._stdin = Stdin(attachment, self._stream, tty=tty) if stdin else None

    async def wait(self) -> RunOutcome:
        """Wait until the container has ended; see `output` for what becomes of its output meanwhile.

        Returns:
            How it ended, without output.

        Raises:
            RunTimeout: it was killed since the time of its specification was up.
            OutcomeUnknown: it is gone, or ended while the engine was not running.
            EngineError: the engine failed.
        """
        async with self._flowing():
            if self._outcome is None:
                self._outcome = await self._end()
                self._ended.set()
        self._check_time()
        return self._outcome

    async def stop(self, grace: int | None = None) -> None:
        """Ask it to end by its stop signal, and kill it if it has not after *grace* seconds.

        Args:
            grace: None for the ``stop_timeout`` of its specification, or 10.

        Raises:
            InvalidSpec: *grace* is no whole number, or below 0.
            EngineError: the engine failed.
        """
        usual = _GRACE_SECONDS if self._stop_timeout is None else self._stop_timeout
        async with self._flowing():
            await containers.stop(self._client, self.id, usual if grace is None else grace)

    # Until it is ready.

    async def wait_healthy(self, timeout: float = 60) -> None:
        """Wait until its health check passes.

        Args:
            timeout: seconds.

        Raises:
            InvalidSpec: *timeout* is no number.
            RunError: it has no health check, failed it, or ended.
            RunTimeout: it did not pass in time.
            EngineError: the engine failed.
        """
        async with self._flowing():
            await until_healthy(self._client, self.id, self._what, timeout)

    async def wait_for_log(self, pattern: str | re.Pattern[str], timeout: float = 60) -> Line:
        """Wait until it has logged a line in which *pattern*, a regular expression, is found.

        The line is looked for in all that it wrote since its start; nothing of `output` is taken.

        Returns:
            The first such line.

        Raises:
            InvalidSpec: *pattern* is not a regular expression for text, or *timeout* no number.
            RunError: it ended without one.
            RunTimeout: there was none in time.
            EngineError: the engine failed, or keeps no logs of it.
        """
        async with self._flowing():
            return await until_logged(
                self._client, self.id, self._what, pattern, tty=self._tty, timeout=timeout
            )

    async def wait_for_port(self, port: int, timeout: float = 60) -> None:
        """Wait until it listens on a TCP port, and takes connections if that is published to this machine.

        Args:
            port: the container's port; `ports` tells where it is published.
            timeout: seconds.

        Raises:
            InvalidSpec: *port* is not from 1 to 65535, or *timeout* no number.
            RunError: the container ended; or it has no ``cat`` to look with, nor is the port published here.
            RunTimeout: nothing listened in time.
            EngineError: the engine failed.
        """
        async with self._flowing():
            await until_open(self._client, self.id, self._what, port, self.exec, timeout)

    # For the one who started it.

    async def end_after(self, seconds: float) -> None:
        """Kill it when it has run for *seconds*."""
        await anyio.sleep(seconds)
        self._time_is_up = seconds  # before, so that whoever waits for it knows why it ends
        while True:
            try:
                return await self.kill()
            except EngineError as exc:
                if exc.status in (404, 409):  # it has just ended by itself
                    self._time_is_up = None
                    return
                _log.warning("%s: its time is up, but it could not be killed: %s", self._what, exc.message)
            await anyio.sleep(_KILL_PAUSE)

    async def leave(self) -> None:
        """Let it end as its specification says, before it is removed.

        Raises:
            RunTimeout: its time was up.
        """
        if self._stop_timeout and not self._ended.is_set():
            try:
                await self.stop()
            except EngineError as exc:
                if exc.status != 404:  # else it is removed already, which is what is wanted
                    raise
        self._check_time()

    def _check_time(self) -> None:
        if self._time_is_up is not None:
            message = f"{self._what}: it did not end within {self._time_is_up:g} s and was killed"
            raise RunTimeout(message, container_id=self.id)

    @asynccontextmanager
    async def _flowing(self) -> AsyncIterator[None]:
        """Keep its output from filling up, if nobody reads it, lest it never gets where it is waited for."""
        if self._stream is None:
            yield
            return
        async with task_group() as group:
            group.start_soon(self._stream.keep_flowing, asyncio.current_task())
            yield
            group.cancel_scope.cancel()

    async def _runs(self, output_ended: bool) -> bool:
        if self._waiters and output_ended:  # the engine tells them without being asked
            with anyio.move_on_after(_LAG_SECONDS):
                await self._ended.wait()
        if self._ended.is_set():
            return False
        try:
            return not (await self.inspect()).ended
        except EngineError as exc:
            if exc.status == 404:  # removed by somebody else; waiting for it tells how it ended
                return False
            raise

    async def _end(self) -> RunOutcome:
        began = time.monotonic()
        exit_code = await self._exit_code()
        since = began if self._started is None else self._started
        duration, late = time.monotonic() - since, self._started is None or began - since > _LATE_SECONDS
        if not (late or exit_code):
            return RunOutcome(exit_code, duration)
        with suppress(EngineError):  # what is gone has told its exit code at least
            state = await self.inspect()
            if late and state.started_at and state.finished_at:
                duration = (state.finished_at - state.started_at).total_seconds()
            return RunOutcome(exit_code, duration, oom_killed=state.oom_killed)
        return RunOutcome(exit_code, duration)

    async def _exit_code(self) -> int:
        self._waiters += 1
        try:
            cuts = 0
            while True:
                began = time.monotonic()
                try:
                    return await self._told_exit_code()
                except (StreamTruncated, EngineUnavailable) as exc:
                    state = await self._state_after(exc)
                    if state.ended:
                        return self._code_of(state)
                    # Proxies cut what is silent for minutes, as often as it takes.
                    cuts = 1 if time.monotonic() - began > _GOOD_SECONDS else cuts + 1
                    if cuts == _WAITS:
                        raise
        finally:
            self._waiters -= 1

    async def _told_exit_code(self) -> int:
        while True:
            with anyio.move_on_after(_SILENCE_SECONDS):
                return await containers.wait(self._client, self.id)
            state = await self.inspect()
            if state.ended:
                return self._code_of(state)

    async def _state_after(self, cut: EngineError) -> ContainerState:
        try:
            return await self.inspect()
        except EngineError as exc:
            if exc.status == 404:
                raise self._unknown("it is gone") from exc
            raise cut from exc

    def _code_of(self, state: ContainerState) -> int:
        if state.exit_code == _LOST_CODE and self._client.capabilities.kind == "docker":
            raise self._unknown("it ended while the engine was not running")
        return state.exit_code

    def _unknown(self, why: str) -> OutcomeUnknown:
        message = f"{self._what}: {why}, so that its exit code can't be told"
        return OutcomeUnknown(message, container_id=self.id)


async def find_container(client: EngineClient, name: object) -> Container:
    """Take a container in hand that is there already, by its ID or name.

    Raises:
        InvalidSpec: *name* can't be one.
        EngineError: there is no such container (status 404).
    """
    checked = checked_name("container", name.removeprefix("/") if isinstance(name, str) else name)
    state = await containers.inspect(client, checked)
    return Container(client, state.id, state.name, state.image, tty=state.tty, found=True)
