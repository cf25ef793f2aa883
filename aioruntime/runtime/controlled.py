"""What can be done to a container that is there: signals, programs in it, files, limits (L4)."""

from __future__ import annotations

__all__ = ("Controlled",)

import logging
import os
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.engine import archive, containers
from aioruntime.engine.container_changes import commit, update
from aioruntime.errors import InvalidSpec
from aioruntime.runtime.files import tar_of
from aioruntime.runtime.lifecycle import signal_name
from aioruntime.runtime.observed import Observed
from aioruntime.runtime.process import execute
from aioruntime.runtime.spec_fields import normalised
from aioruntime.runtime.unpack import unpack
from aioruntime.tasks import to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.reference import OciRef
    from aioruntime.runtime.lifecycle import RestartPolicy
    from aioruntime.runtime.process import Process
    from aioruntime.runtime.spec import RunOutcome


_log = logging.getLogger("aioruntime")


class Controlled(Observed):
    """A container in an engine, with what can be done to it."""

    async def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send *signal*, such as ``SIGHUP``, ``HUP`` or 1, to its first process.

        Raises:
            InvalidSpec: Linux has no such signal.
            EngineError: it does not run (status 409), or the engine failed.
        """
        await containers.kill(self._client, self.id, signal_name(signal))

    async def pause(self) -> None:
        """Freeze all its processes.

        Raises:
            EngineError: it does not run, or is paused already.
        """
        await containers.pause(self._client, self.id)

    async def unpause(self) -> None:
        """Let its processes go on.

        Raises:
            EngineError: it is not paused.
        """
        await containers.unpause(self._client, self.id)

    async def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal a new size, in characters.

        Raises:
            EngineError: it has no terminal, or does not run.
        """
        await containers.resize(self._client, self.id, rows=rows, columns=columns)

    async def remove(self) -> None:
        """Remove it with its anonymous volumes, killing it first if it runs; one that is gone is fine.

        What `ContainerRuntime.start` does not keep, it removes by itself.

        Raises:
            EngineError: it could still not be removed after about 30 seconds.
        """
        await to_completion(containers.remove(self._client, self.id, force=True))

    # Other programs in it.

    def exec(
        self,
        command: Iterable[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        stdin: bool | bytes = False,
        tty: bool = False,
    ) -> AbstractAsyncContextManager[Process]:
        """Execute a program in the container, for the time of the context.

        Engines have no way to end such a program: one that still runs when the context is left goes on, with
        nobody to read its output, and ends with the container.

        Args:
            command: the program and its arguments.
            env: environment variables beside the container's own.
            user: ``name``, ``uid`` or ``uid:gid``; None for the container's own.
            working_dir: absolute path in the container; None for its own.
            stdin: what its standard input is: nothing, bytes that are sent, or True to keep it open.
            tty: whether it gets a terminal; it then has one output stream, not two.

        Returns:
            A context that gives the `Process`.

        Raises:
            InvalidSpec: *command* is empty, or a value is not what `RunSpec` takes; nothing was started.
            EngineError: the program could not be started, or the container does not run.
        """
        return execute(
            self._client,
            self.id,
            self._what,
            command,
            env=env,
            user=user,
            working_dir=working_dir,
            stdin=stdin,
            tty=tty,
        )

    async def run(
        self,
        command: Iterable[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        stdin: bytes = b"",
    ) -> RunOutcome:
        """Execute a program in the container to its end; see `exec` for arguments and errors.

        Returns:
            How it ended, with its output.
        """
        if not isinstance(stdin, bytes):
            kind = type(stdin).__name__  # what it is, may be secret
            raise InvalidSpec(f"{self._what}: stdin is not bytes but {kind}; to write bit by bit, use `exec`")
        started = self.exec(command, env=env, user=user, working_dir=working_dir, stdin=stdin or False)
        async with started as process:
            return await process.captured()

    # Files.

    async def put(self, source: str | os.PathLike[str] | AsyncIterator[bytes], directory: str) -> None:
        """Copy a file or directory of this machine into the container, or unpack an archive there.

        What is there already is replaced, but no directory by a file, nor a file by a directory.

        Args:
            source: a path, whose last name it has in the container as well, and root as owner; or pieces of
                a tar archive that is not compressed. Both are streamed.
            directory: absolute path in the container; it has to exist.

        Raises:
            InvalidSpec: the archive is none, or compressed; nothing was sent.
            OSError: a file can't be read.
            EngineError: there is no such directory (status 404), or the engine refused.
        """
        state = await self.inspect()
        if state.running and state.mounts:
            # CVE-2026-42306 and its like: the engine follows paths that what runs there can move meanwhile.
            mounted = ", ".join(state.mounts)
            _log.warning("%s: it gets files while it runs, with %s mounted", self._what, mounted)
        if not isinstance(source, (str, os.PathLike)):
            await archive.put_archive(self._client, self.id, directory, source)
            return
        async with aclosing(tar_of(Path(source))) as pieces:  # its files are closed, also if that fails
            await archive.put_archive(self._client, self.id, directory, pieces)

    @asynccontextmanager
    async def get(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a file or directory of the container as pieces of a tar archive, for the time of the context.

        What the archive says is for the container to choose; `get_into` unpacks it with care.

        Args:
            path: absolute path in the container.

        Raises:
            EngineError: there is no such path (status 404), or the engine refused.
            StreamTruncated: the archive was cut (while iterating).
        """
        async with archive.get_archive(self._client, self.id, path) as (_, pieces):
            yield pieces

    async def get_into(self, path: str, directory: str | os.PathLike[str]) -> Path:
        """Copy a file or directory of the container into a directory of this machine.

        Files belong to who runs this program, without set-user-ID and the like. What is there already is
        replaced, but no directory by a file.

        Args:
            path: absolute path in the container.
            directory: where to put it, under its last name; it has to exist.

        Returns:
            The path of the copy.

        Raises:
            ArchiveRefused: the container gave what would touch other files, or is no file, directory or link.
            EngineError: there is no such path (status 404), or the engine refused.
            StreamTruncated: it was cut; what came before is there.
            OSError: it can't be written.
        """
        async with archive.get_archive(self._client, self.id, path) as (stat, pieces):
            await unpack(pieces, Path(directory), under=stat.name)
        return Path(directory, stat.name.strip("/"))

    # Changing it.

    async def update(
        self,
        *,
        memory: int | str | None = None,
        memory_swap: int | str | None = None,
        cpus: float | None = None,
        cpuset: str | None = None,
        pids_limit: int | None = None,
        restart: RestartPolicy | str | None = None,
    ) -> None:
        """Change what it may use, while it runs; what is None stays as it is. See `RunSpec` for the values.

        Raises:
            InvalidSpec: a value is not what `RunSpec` takes; nothing was changed.
            EngineError: the engine can't, or refused.
        """
        given = {
            "memory": memory,
            "memory_swap": memory_swap,
            "cpus": cpus,
            "cpuset": cpuset,
            "pids_limit": pids_limit,
            "restart": restart,
        }
        faults: list[str] = []
        kept = normalised(given, faults, optional=given)
        if faults:
            raise InvalidSpec(f"can't update {self._what}: {'; '.join(faults)}")
        if (policy := kept.pop("restart")) is not None:
            kept["restart"] = str(policy)
        await update(self._client, self.id, **kept)

    async def commit(self, name: OciRef | str | None = None, *, changes: Iterable[str] = ()) -> ImageDigest:
        """Make an image of its files and settings; it is paused meanwhile. Volumes are left out.

        Args:
            name: reference of the image; None for no name.
            changes: instructions of a Dockerfile that change settings, such as ``ENV A=b``.

        Returns:
            The engine's ID of the image.

        Raises:
            InvalidReference: *name* is none, or has a digest.
            InvalidSpec: *changes* is no list of texts.
            EngineError: the engine refused.
        """
        return await commit(self._client, self.id, name=name, changes=changes)
