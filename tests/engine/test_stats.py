from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine import containers
from aioruntime.engine.stats import read_stats, stats_in, watch_stats
from aioruntime.errors import EngineError
from tests.engine.running import created, started
from tests.support.leaks import assert_settles, snapshot

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient

BUSY = ("sh", "-c", "while :; do :; done")


async def test_at_once(each_client: EngineClient, each_image: str) -> None:
    """What a container uses is told by every engine, without a wait for a second look."""
    async with started(each_client, each_image, HostConfig={"NetworkMode": "bridge"}) as container:
        found = await read_stats(each_client, container)
        assert found.cpu_seconds > 0
        assert found.cpu_percent is None
        assert found.memory_bytes is not None
        assert found.memory_limit_bytes is not None
        assert 0 < found.memory_bytes < found.memory_limit_bytes
        assert found.pids == 1
        assert found.network_received_bytes is not None


async def test_again_and_again(client: EngineClient, image: str) -> None:
    """A busy container is seen to be busy; the iteration ends with it, and nothing is left open."""
    async with started(client, image, *BUSY) as container:
        before = snapshot()
        async with watch_stats(client, container) as found:
            first, second = [await anext(found) for _ in range(2)]
            assert second.read > first.read
            assert second.cpu_seconds > first.cpu_seconds
            assert second.cpu_percent is not None
            assert 1 < second.cpu_percent < 150
        # The engine's own processes are below this one, so only files and tasks are compared.
        await assert_settles(type(before)(before.files, snapshot().children, before.tasks))
        async with watch_stats(client, container) as found:
            await anext(found)
            await containers.kill(client, container)
            async with asyncio.timeout(60):
                async for _ in found:
                    pass


async def test_not_running(client: EngineClient, image: str) -> None:
    """Of a container that does not run, that is told (409); of one that is not there, that (404)."""
    async with created(client, image, "true") as container:
        with pytest.raises(EngineError) as caught:
            await read_stats(client, container)
        assert caught.value.status == 409
    with pytest.raises(EngineError) as caught:
        await read_stats(client, "no-such-container")
    assert caught.value.status == 404


def test_figures() -> None:
    """Figures are those that the docker program would show."""
    document = {
        "read": "2026-01-01T00:00:02.000000001Z",
        "preread": "2026-01-01T00:00:00Z",
        "cpu_stats": {"cpu_usage": {"total_usage": 5_000_000_000}},
        "precpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000}},
        "memory_stats": {"usage": 1000, "limit": 5000, "stats": {"total_inactive_file": 300}},
        "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 2}, "eth1": {"rx_bytes": 10, "tx_bytes": 20}},
        "blkio_stats": {
            "io_service_bytes_recursive": [{"op": "Read", "value": 7}, {"op": "write", "value": 9}]
        },
    }
    found = stats_in(document)
    assert found is not None
    assert (found.cpu_seconds, found.cpu_percent) == (5.0, 150.0)
    assert (found.memory_bytes, found.memory_limit_bytes, found.pids) == (700, 5000, None)
    assert (found.network_received_bytes, found.network_sent_bytes) == (11, 22)
    assert (found.block_read_bytes, found.block_written_bytes) == (7, 9)
    bare = stats_in({**document, "networks": None, "blkio_stats": {}, "memory_stats": {}})
    assert bare is not None
    assert (bare.memory_bytes, bare.network_sent_bytes, bare.block_read_bytes) == (None, None, None)
    with pytest.raises(EngineError, match="cpu_stats"):
        stats_in({"read": "2026-01-01T00:00:02Z", "preread": "2026-01-01T00:00:02Z"})
