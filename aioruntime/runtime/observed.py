"""What an engine tells of a container: state, ports, logs, statistics, processes (L4)."""

from __future__ import annotations

__all__ = ("Observed",)

from typing import TYPE_CHECKING

from aioruntime.engine import containers
from aioruntime.engine.container_state import top
from aioruntime.engine.logs import logs
from aioruntime.engine.stats import read_stats, watch_stats

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.container_state import ContainerState
    from aioruntime.engine.frames import Output
    from aioruntime.engine.stats import ContainerStats


class Observed:
    """A container in an engine.

    Attributes:
        id: the engine's ID of it.
        name: its name.
    """

    def __init__(self, client: EngineClient, container_id: str, name: str, what: str, *, tty: bool) -> None:
        self.id = container_id
        self.name = name
        self._client = client
        self._what = what
        self._tty = tty

    async def inspect(self) -> ContainerState:
        """Tell its state, health, ports and addresses.

        Raises:
            EngineError: the engine failed.
        """
        return await containers.inspect(self._client, self.id)

    async def ports(self) -> Mapping[str, tuple[tuple[str, int], ...]]:
        """Tell where its published ports are: for each, such as ``80/tcp``, addresses and ports.

        Raises:
            EngineError: the engine failed.
        """
        return (await self.inspect()).ports

    def logs(
        self,
        *,
        since: float | datetime | None = None,
        until: float | datetime | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> AbstractAsyncContextManager[AsyncIterator[Output]]:
        """Read what the engine has logged of its output, for the time of the context.

        Args:
            since: seconds since 1970, or a time with a zone; None for all.
            until: likewise.
            tail: only as many lines, from the end.
            follow: whether to wait for more until the container ends.

        Returns:
            A context that gives an async iterator of `Output`.

        Raises:
            InvalidSpec: a value is not of its kind.
            EngineError: the engine keeps no logs of it (while iterating).
            StreamTruncated: the log was cut (while iterating).
        """
        return logs(self._client, self.id, since=since, until=until, tail=tail, follow=follow, tty=self._tty)

    async def stats(self) -> ContainerStats:
        """Tell what it uses of processor, memory, network and disk.

        Raises:
            EngineError: it does not run, or the engine failed.
        """
        return await read_stats(self._client, self.id)

    def watch_stats(self) -> AbstractAsyncContextManager[AsyncIterator[ContainerStats]]:
        """Follow what it uses, about once a second, for the time of the context.

        Raises:
            EngineError: the engine failed (while iterating).
        """
        return watch_stats(self._client, self.id)

    async def top(self) -> list[dict[str, str]]:
        """List its processes, each a mapping from column to text; ``PID`` is always among the columns.

        Raises:
            EngineError: it does not run, or Docker's machine has no program ``ps``.
        """
        return await top(self._client, self.id)
