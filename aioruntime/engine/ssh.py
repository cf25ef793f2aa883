"""Connections to an engine on another machine: an ``ssh`` for each, as the Docker program does it (L2).

The user's own ssh settings, keys, agent and known hosts count. aiodocker's ssh is not used: it cuts the
output off where the input ends, and offers this process's environment to the other machine.
"""

from __future__ import annotations

__all__ = ("SshTunnel",)

import asyncio
import os
import select
import shlex
import shutil
import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import anyio

from aioruntime.errors import one_line
from aioruntime.tasks import task_group, to_completion

if TYPE_CHECKING:
    from asyncio.subprocess import Process

_CONNECT_SECONDS = 30
# Without a sign of life from the other machine for about so long, a connection is given up.
_ALIVE_SECONDS = 20
_LOOK_SECONDS = 0.5
_END_SECONDS = 3.0
_SAID_LIMIT = 64 * 1024


class SshTunnel:
    """A local socket each of whose connections ends in the engine's, on the machine that *url* names.

    Args:
        url: ``ssh://[user@]host[:port][/path]``; the path is that of the engine's socket, if it is not the
            usual one.

    Attributes:
        path: the local socket; nobody else can use it.
        failure: how ssh failed the last time; None if it did not.

    Raises:
        ValueError: the URL has a password.
        OSError: the local socket can't be made.
    """

    def __init__(self, url: str) -> None:
        self._argv, self._by_hand = _commands(url)
        self.failure: str | None = None
        self._directory = tempfile.mkdtemp(prefix="aioruntime-ssh-")
        self.path = str(Path(self._directory, "s"))
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.setblocking(False)
            self._listener.bind(self.path)
            self._listener.listen(128)
        except BaseException:
            self._close()
            raise
        self._serving = asyncio.create_task(self._serve())

    async def aclose(self) -> None:
        """End every connection, and remove the socket."""
        self._serving.cancel()
        try:
            await asyncio.wait({self._serving})
        finally:
            self._close()

    def _close(self) -> None:
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _serve(self) -> None:
        async with task_group() as group:
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
                connection.setblocking(True)  # for ssh, which gets it as it is
                group.start_soon(self._carry, connection)

    async def _carry(self, connection: socket.socket) -> None:
        """Let an ssh carry one connection. It closes after that, so that whoever reads finds `failure`."""
        with connection:
            process: Process | None = None
            try:
                process = await to_completion(self._start(connection))
                if process is not None:
                    await self._follow(process, connection)
            finally:
                if process is not None:
                    await to_completion(_end(process))

    async def _start(self, connection: socket.socket) -> Process | None:
        self.failure = None
        try:
            return await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=connection.fileno(),
                stdout=connection.fileno(),
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # without a terminal it can't ask for passwords there
            )
        except OSError as exc:
            self.failure = f"the program ssh can't be run: {exc.strerror}; is it installed (openssh-client)?"
            return None

    async def _follow(self, process: Process, connection: socket.socket) -> None:
        said = b""
        async with task_group() as group:
            group.start_soon(_until_let_go, connection, process)
            assert process.stderr is not None
            while piece := await process.stderr.read(_SAID_LIMIT):
                said = (said + piece)[-_SAID_LIMIT:]
            status = await process.wait()
            group.cancel_scope.cancel()
        if status > 0:
            words = one_line(said.decode(errors="replace")) or f"status {status}"
            self.failure = f"ssh failed: {words}; see what `{self._by_hand}` says"


async def _until_let_go(connection: socket.socket, process: Process) -> None:
    """Kill ssh when nobody has the other end any more: it does not see that if nothing is to be written."""
    poll = select.poll()
    poll.register(connection, 0)  # of a hang-up it tells always; one who has only ended sending still reads
    while not poll.poll(0):  # noqa: ASYNC110 - no event tells this
        await anyio.sleep(_LOOK_SECONDS)
    _kill(process)


async def _end(process: Process) -> None:
    _kill(process)
    with anyio.move_on_after(_END_SECONDS):
        await process.wait()


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: a ProxyCommand goes with it


def _commands(url: str) -> tuple[list[str], str]:
    """Return the command that connects, and one that a user can try by hand."""
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError("ssh takes no password from a URL; use a key or an agent")
    target = ["-l", unquote(parts.username)] if parts.username else []
    target += ["-p", str(parts.port)] if parts.port else []
    target += ["--", parts.hostname or ""]
    place = f" -H {shlex.quote(f'unix://{parts.path}')}" if parts.path.strip("/") else ""
    # Both programs have this command for just this use. Podman knows -H as --url only.
    remote = (
        f"if command -v docker >/dev/null; then exec docker{place} system dial-stdio; "
        f"else exec podman{place.replace(' -H ', ' --url ')} system dial-stdio; fi"
    )
    options = [
        "-T",
        *("-o", "BatchMode=yes"),
        *("-o", f"ConnectTimeout={_CONNECT_SECONDS}"),
        *("-o", f"ServerAliveInterval={_ALIVE_SECONDS}"),
    ]
    by_hand = shlex.join(["ssh", *target, "docker version"])
    return ["ssh", *options, *target, f"sh -c {shlex.quote(remote)}"], by_hand
