"""What a running container uses of its machine: time, memory, network and disks (L2)."""

from __future__ import annotations

__all__ = ("ContainerStats", "read_stats", "stats_in", "watch_stats")

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from aioruntime.engine.client import path_part
from aioruntime.engine.jsonlines import JsonDecoder
from aioruntime.engine.liveness import heard, while_alive
from aioruntime.errors import EngineError, one_line
from aioruntime.tasks import iterating

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from aioruntime.engine.client import EngineClient


@dataclass(frozen=True, slots=True)
class ContainerStats:
    """What a container uses at one moment; None where the engine does not tell.

    Attributes:
        read: when that was.
        cpu_seconds: processor time since its start, of all processors together.
        cpu_percent: processor time in the time since the moment before; 100 is one processor.
        memory_bytes: memory in use, without what the kernel could take back at once.
        memory_limit_bytes: the most that it may use; without a limit, what the machine has.
        pids: processes and threads.
        network_received_bytes: over all its networks since its start.
        network_sent_bytes: likewise.
        block_read_bytes: from disks since its start.
        block_written_bytes: likewise.
    """

    read: datetime
    cpu_seconds: float
    cpu_percent: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    pids: int | None
    network_received_bytes: int | None
    network_sent_bytes: int | None
    block_read_bytes: int | None
    block_written_bytes: int | None


class _Usage(msgspec.Struct):
    total_usage: int = 0


class _Cpu(msgspec.Struct):
    cpu_usage: _Usage


class _Memory(msgspec.Struct):
    usage: int | None = None
    limit: int | None = None
    stats: dict[str, int] | None = None


class _Pids(msgspec.Struct):
    current: int | None = None


class _Network(msgspec.Struct):
    rx_bytes: int = 0
    tx_bytes: int = 0


class _Io(msgspec.Struct):
    op: str
    value: int


class _Block(msgspec.Struct):
    io_service_bytes_recursive: list[_Io] | None = None


class _Stats(msgspec.Struct):
    read: datetime
    preread: datetime
    cpu_stats: _Cpu
    precpu_stats: _Cpu
    memory_stats: _Memory
    pids_stats: _Pids | None = None
    networks: dict[str, _Network] | None = None
    blkio_stats: _Block | None = None


def stats_in(document: Any) -> ContainerStats | None:
    """Read what an engine tells a container to use; None if the container does not run.

    Raises:
        EngineError: it is not what engines answer; the message names the field.
    """
    if document is None:  # as Podman 4 answers
        return None
    try:
        found = msgspec.convert(document, _Stats)
    except msgspec.ValidationError as exc:
        raise EngineError(f"the engine tells statistics in an unknown way: {one_line(str(exc))}") from exc
    if found.read.year == 1:  # as Docker answers
        return None
    networks = None if found.networks is None else found.networks.values()
    return ContainerStats(
        read=found.read,
        cpu_seconds=found.cpu_stats.cpu_usage.total_usage / 1e9,
        cpu_percent=_percent(found),
        memory_bytes=_memory(found.memory_stats),
        memory_limit_bytes=found.memory_stats.limit,
        pids=found.pids_stats.current if found.pids_stats else None,
        network_received_bytes=None if networks is None else sum(one.rx_bytes for one in networks),
        network_sent_bytes=None if networks is None else sum(one.tx_bytes for one in networks),
        block_read_bytes=_moved(found.blkio_stats, "read"),
        block_written_bytes=_moved(found.blkio_stats, "write"),
    )


def _percent(found: _Stats) -> float | None:
    seconds = (found.read - found.preread).total_seconds()
    if found.preread.year == 1 or seconds <= 0:
        return None
    spent = found.cpu_stats.cpu_usage.total_usage - found.precpu_stats.cpu_usage.total_usage
    return max(0.0, spent / 1e9 / seconds * 100)


def _memory(memory: _Memory) -> int | None:
    if memory.usage is None:
        return None
    counters = memory.stats or {}
    # As the docker program shows it, for both generations of control groups. Podman tells no counters and
    # has left the cache out already.
    cache = counters.get("total_inactive_file", counters.get("inactive_file", 0))
    return memory.usage - cache if cache < memory.usage else memory.usage


def _moved(block: _Block | None, way: str) -> int | None:
    if block is None or block.io_service_bytes_recursive is None:
        return None
    return sum(one.value for one in block.io_service_bytes_recursive if one.op.lower() == way)


async def read_stats(client: EngineClient, container: str) -> ContainerStats:
    """Return what a running container uses now; at once, so that there is no `cpu_percent` yet.

    Raises:
        EngineError: there is no such container (status 404), or it does not run (status 409).
    """
    path = f"/containers/{path_part(container)}/stats"
    found = stats_in(await client.json("GET", path, params={"stream": "0", "one-shot": "1"}))
    if found is None:
        raise EngineError(f"GET {path}: the container does not run", status=409)
    return found


@asynccontextmanager
async def watch_stats(client: EngineClient, container: str) -> AsyncGenerator[AsyncIterator[ContainerStats]]:
    """Give what a running container uses again and again, until it ends, for the time of the context.

    The engine chooses how often: Docker every second, Podman every five. Nothing is asked before the first
    step of the iteration.

    Raises:
        EngineError: there is no such container (status 404).
        EngineUnavailable: the engine can't be reached, or does not answer any more.
        StreamTruncated: the connection was cut. All are raised while iterating.
    """
    async with iterating(_watch(client, container)) as found:
        yield found


async def _watch(client: EngineClient, container: str) -> AsyncGenerator[ContainerStats]:
    call = client.stream("GET", f"/containers/{path_part(container)}/stats", params={"stream": "1"})
    decoder = JsonDecoder()
    async with AsyncExitStack() as stack:
        response = await while_alive(client, stack.enter_async_context(call))
        while data := await heard(client, response.content.readany):
            for document in decoder.feed(data):
                stats = stats_in(document)
                if stats is None:
                    return
                yield stats
        decoder.finish()
