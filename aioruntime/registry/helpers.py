"""Ask credential helpers, the programs ``docker-credential-NAME`` (L2).

Follows the protocol of the docker-credential-helpers project: the server's name goes in, JSON comes out.
"""

from __future__ import annotations

__all__ = ("Helpers",)

import asyncio
import os
import re
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import msgspec

from aioruntime.errors import CredentialsError, one_line
from aioruntime.registry.credentials import Credentials, Secret
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import Process

    from aioruntime.registry.auth_files import HelperCall
    from aioruntime.registry.clock import Clock

_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
# Printable, without blanks and quotes.
_SERVER = re.compile(r"[\x21\x23-\x26\x28-\x5f\x61-\x7e]+", re.ASCII)
_OUTPUT_LIMIT = 256 * 1024
_KEPT_SECONDS = 60.0
_END_SECONDS = 5.0
_NOT_FOUND = b"credentials not found"
_IDENTITY = "<token>"


class _Told(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


@dataclass(slots=True)
class _Kept:
    """What a helper has said; the lock is held by the one call of it that is in flight."""

    value: Credentials | None = None
    failure: str | None = None
    at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Helpers:
    """Asks helpers, each once for a registry: what they say is kept for a minute.

    Args:
        environ: environment variables: where programs are looked for, and what they are given.
        timeout: seconds that a helper may take; the user may have to confirm something.
        clock: tells the time.
    """

    def __init__(self, environ: Mapping[str, str], timeout: float, clock: Clock) -> None:
        # Handed on by nobody: captured locals would show what is in it.
        self._environ = environ
        self._timeout = timeout
        self._clock = clock
        self._kept: dict[tuple[str, str], _Kept] = {}

    async def ask(self, call: HelperCall) -> Credentials | None:
        """Return what the helper has for the server; None if it has nothing.

        Raises:
            CredentialsError: the helper can't be run or failed.
        """
        if _NAME.fullmatch(call.name) is None:
            raise CredentialsError(f"{call.place}: no name of a credential helper: {one_line(call.name)}")
        if _SERVER.fullmatch(call.server) is None:
            raise CredentialsError(f"{call.place}: no name of a registry: {one_line(call.server)}")
        asked_at = self._clock.now()
        kept = self._kept.setdefault((call.name, call.server), _Kept())
        async with kept.lock:
            # A failure is shared by those who waited for it: who asks later gets another try.
            until = kept.at if kept.failure else kept.at + _KEPT_SECONDS
            if asked_at > until:
                told = await self._run(call)
                kept.failure = told if isinstance(told, str) else None
                kept.value = None if isinstance(told, str) else told
                kept.at = self._clock.now()
            if kept.failure:
                raise CredentialsError(f"{call.server}: {kept.failure}")
            return kept.value

    async def _run(self, call: HelperCall) -> Credentials | str | None:
        """Return what the helper said, or how it failed.

        Nothing is raised where the helper's words or its environment are at hand: captured locals would
        show them. Its error output, which may have the secret too, is not even read.
        """
        program = f"docker-credential-{call.name}"
        path = await in_thread(self._find, program)
        if path is None:
            return f"{program}, which {call.place} names, is not on PATH; install it, or take it out there"
        said = _Said()
        async with AsyncExitStack() as stack:
            with anyio.move_on_after(self._timeout) as deadline:
                # Not to be cancelled half-way: a process that nobody knows of yet would be left.
                process = await to_completion(self._start(stack, path, said))
                if isinstance(process, str):
                    return f"{program}, which {call.place} names, can't be run: {process}"
                await said.listen(process, call.server)
        by_hand = f"`printf %s '{call.server}' | {program} get` shows what it says"
        if deadline.cancelled_caught:
            return f"{program} did not answer within {self._timeout:g} s; {by_hand}"
        return said.decode(program, by_hand)

    def _find(self, program: str) -> str | None:
        """Find *program*, executable or not; directories that depend on where we are do not count."""
        listed = self._environ.get("PATH", os.defpath).split(os.pathsep)
        path = os.pathsep.join(directory for directory in listed if os.path.isabs(directory))
        return (shutil.which(program, path=path) or shutil.which(program, os.F_OK, path)) if path else None

    async def _start(self, stack: AsyncExitStack, path: str, said: _Said) -> Process | str:
        """Start the program and see to its end, or return why it can't be run."""
        try:
            process = await anyio.open_process(
                [path, "get"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Helpers are often scripts: what they started is ended with them.
                start_new_session=True,
                # They need the rest, such as HOME, but have no business with other registries' passwords.
                env={name: value for name, value in self._environ.items() if name != "DOCKER_AUTH_CONFIG"},
            )
        except OSError as exc:
            return exc.strerror or type(exc).__name__
        stack.push_async_callback(lambda: to_completion(_end(process, kill=said.status is None)))
        return process


class _Said:
    """The output of a helper, which shows itself to nobody."""

    def __init__(self) -> None:
        self._output = bytearray()
        self.status: int | None = None

    async def listen(self, process: Process, server: str) -> None:
        """Ask for *server* and note the answer, and the status if it came to its end."""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError, anyio.BrokenResourceError):  # it does not have to listen
            await process.stdin.send(server.encode())
            await process.stdin.aclose()
        with suppress(anyio.EndOfStream):
            while len(self._output) <= _OUTPUT_LIMIT:
                self._output += await process.stdout.receive()
            return
        self.status = await process.wait()

    def decode(self, program: str, by_hand: str) -> Credentials | str | None:
        """Return what was said, or how the helper failed; its words are not repeated."""
        if self.status is None:
            return f"{program} said more than {_OUTPUT_LIMIT} bytes; {by_hand}"
        if self._output.strip().lower().startswith(_NOT_FOUND):
            return None
        if self.status:
            return f"{program} failed with status {self.status}; {by_hand}"
        try:
            told = msgspec.json.decode(self._output, type=_Told)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return f"{program} did not answer as a credential helper does; {by_hand}"
        if not told.secret:
            return None
        if told.username == _IDENTITY:
            return Credentials("", Secret(""), identity_token=Secret(told.secret))
        return Credentials(told.username, Secret(told.secret))


async def _end(process: Process, *, kill: bool) -> None:
    with anyio.move_on_after(_END_SECONDS):
        if kill:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the helper and what it started
        await process.aclose()
