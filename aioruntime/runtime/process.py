"""A program executed in a running container: its streams and its exit code (L4)."""

from __future__ import annotations

__all__ = ("Process", "execute")

import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from aioruntime.engine import exec as execs
from aioruntime.errors import EngineError, InvalidSpec, OutcomeUnknown, one_line
from aioruntime.runtime.attached import Attached, Stdin
from aioruntime.runtime.output import Captured
from aioruntime.runtime.spec import RunOutcome
from aioruntime.runtime.spec_faults import terminal_faults
from aioruntime.runtime.spec_fields import normalised
from aioruntime.runtime.stream import OutputStream

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Iterable, Mapping

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.hijack import Attachment

# Engines know a program's exit code up to this long after its streams have ended.
_LAG_SECONDS = 5.0


class Process(Attached):
    """A program that runs in a container; made by `Container.exec`."""

    def __init__(
        self, client: EngineClient, exec_id: str, attachment: Attachment, what: str, *, stdin: bool, tty: bool
    ) -> None:
        super().__init__(what)
        self._client = client
        self._id = exec_id
        self._stream = self._output = OutputStream(attachment, self._runs, what)
        self._stdin = Stdin(attachment, self._output, tty=tty) if stdin else None
        self._started = time.monotonic()
        self._outcome: RunOutcome | None = None

    async def _runs(self, _output_ended: bool) -> bool:
        return (await execs.inspect_exec(self._client, self._id)).running

    async def wait(self) -> RunOutcome:
        """Wait until the program has ended and its output was read; see `output` for when nobody reads it.

        Returns:
            How it ended, without output.

        Raises:
            StreamTruncated: its output was cut.
            OutcomeUnknown: the engine can't tell its exit code.
            EngineError: the engine failed.
        """
        await self._output.ended()
        if self._outcome is None:
            duration = self._output.ended_at - self._started
            self._outcome = RunOutcome(await self._exit_code(), duration)
        return self._outcome

    async def captured(self) -> RunOutcome:
        """Read all its output, wait until it has ended, and return both."""
        output = Captured()
        async for piece in self.output():
            await output.write(piece)
        return replace(await self.wait(), stdout=output.stdout.getvalue(), stderr=output.stderr.getvalue())

    async def _exit_code(self) -> int:
        why = "its output has ended, but the engine says that it runs"
        try:
            with anyio.move_on_after(_LAG_SECONDS):
                code = (await execs.wait_exec(self._client, self._id)).exit_code
                assert code is not None
                return code
        except EngineError as exc:
            if exc.status != 404:
                raise
            why = "the engine has forgotten how it ended; ask within minutes, and before the container goes"
        raise OutcomeUnknown(f"{self._what}: {why}")

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal a new size, in characters.

        Raises:
            EngineError: it has no terminal, or has ended.
        """
        await execs.resize_exec(self._client, self._id, rows=rows, columns=columns)


@asynccontextmanager
async def execute(
    client: EngineClient,
    container: str,
    what: str,
    command: Iterable[str],
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    working_dir: str | os.PathLike[str] | None = None,
    stdin: bool | bytes = False,
    tty: bool = False,
) -> AsyncIterator[Process]:
    """Execute *command* in a running container, for the time of the context; see `Container.exec`."""
    given = {"command": command, "env": env, "user": user, "working_dir": working_dir}
    faults: list[str] = []
    optional = ("env", "user", "working_dir")
    kept = normalised({**given, "stdin": stdin, "tty": tty}, faults, optional)
    arguments, directory = kept["command"], kept["working_dir"]
    if not (faults or arguments):
        faults.append("the command is empty")
    if faults := faults + terminal_faults(stdin, tty=tty):
        raise InvalidSpec(f"can't execute in {what}: " + "; ".join(faults))
    what = f"{one_line(arguments[0])} in {what}"
    has_input = stdin is not False
    exec_id = await execs.create_exec(
        client,
        container,
        arguments,
        env=kept["env"],
        user=user,
        working_dir=None if directory is None else str(directory),
        tty=tty,
        stdin=has_input,
    )
    async with execs.attach_exec(client, exec_id, tty=tty) as attachment:
        process = Process(client, exec_id, attachment, what, stdin=has_input, tty=tty)
        if isinstance(stdin, bytes):
            async with process.stdin.feeding(stdin):
                yield process
        else:
            yield process
