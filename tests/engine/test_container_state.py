from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine import containers
from aioruntime.engine.container_state import check_health, inspect, read_state
from aioruntime.engine.logs import logs
from aioruntime.errors import EngineError
from tests.engine.running import created, started

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.engine.client import EngineClient


async def test_from_creation_to_the_end(each_client: EngineClient, each_image: str) -> None:
    """Name, labels, image, ports, addresses and times are told, each from when on it is known."""
    host = {"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}
    ports: dict[str, dict[str, str]] = {"80/tcp": {}, "81/udp": {}}
    command = ("sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done")
    async with created(
        each_client, each_image, *command, Labels={"a": "b"}, HostConfig=host, ExposedPorts=ports
    ) as container:
        state = await inspect(each_client, container)
        assert (state.id, state.status, state.ended) == (container, "created", False)
        assert (state.started_at, state.finished_at, state.restart_count) == (None, None, 0)
        assert (state.health, state.health_output) == (None, "")
        assert state.addresses == {}
        begun = datetime.now(UTC) - timedelta(seconds=1)
        await containers.start(each_client, container)
        state = await inspect(each_client, container)
        assert state.name
        assert "/" not in state.name
        assert state.labels["a"] == "b"
        assert state.image_id.removeprefix("sha256:").isalnum()
        assert (await inspect(each_client, state.name)).id == container
        ((address, port),) = state.ports["80/tcp"]
        assert address == "127.0.0.1"
        assert 0 < port < 65536
        assert set(state.ports) == {"80/tcp"}
        assert [bool(one) for one in state.addresses.values()] == [True]
        assert state.started_at is not None
        assert begun <= state.started_at <= datetime.now(UTC)
        async with logs(each_client, container, follow=True) as lines:
            await anext(lines)  # from now on it listens to the signal
        await containers.kill(each_client, container, "SIGTERM")
        assert await containers.wait(each_client, container) == 5
        after = await inspect(each_client, container)
        assert (after.ended, after.exit_code) == (True, 5)
        assert after.finished_at is not None
        assert after.finished_at >= state.started_at


async def test_health(client: EngineClient, image: str) -> None:
    """Health is found, with what the check wrote, also on a Podman whose machine runs no checks."""
    second = 1_000_000_000
    check = {"Test": ["CMD-SHELL", "echo well; ls /ill && exit 1; true"], "Interval": second, "Retries": 1}
    async with started(client, image, Healthcheck=check) as container, asyncio.timeout(60):
        # Docker has no call to wait for it.
        while (state := await check_health(client, container)).health != "healthy":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert "well" in state.health_output


def is_sleep(process: Mapping[str, str]) -> bool:
    return "sleep 1000" in process.values()


async def test_processes(client: EngineClient, image: str) -> None:
    """The processes of a running container are told; of one that does not run, that it does not."""
    async with created(client, image, "sh", "-c", "sleep 1000 & wait") as container:
        with pytest.raises(EngineError) as caught:
            await containers.top(client, container)
        assert caught.value.status == 409
        await containers.start(client, container)
        async with asyncio.timeout(60):
            # For a moment the second one is still the shell's copy.
            while len(found := await containers.top(client, container)) < 2 or not is_sleep(found[1]):
                pass
        assert found[1]["PPID"] == found[0]["PID"]


def test_unknown_document() -> None:
    """What is no container's state is an error that names the field."""
    with pytest.raises(EngineError, match="State"):
        read_state({"Id": "x"})
    ports = {"80/tcp": [{"HostIp": "", "HostPort": "many"}]}
    with pytest.raises(EngineError, match="unknown way"):
        read_state({"Id": "x", "State": {"Status": "running"}, "NetworkSettings": {"Ports": ports}})
