"""Engines that fall silent while they are waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aioruntime.engine import containers
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.exec import attach_exec, create_exec
from aioruntime.engine.logs import logs
from aioruntime.errors import EngineUnavailable
from tests.engine.conftest import provide_image
from tests.engine.running import output_of, started
from tests.support.leaks import assert_settles, snapshot

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import pytest

    from tests.support.engines import Engine


async def follow_logs(client: EngineClient, container: str) -> None:
    async with logs(client, container, follow=True) as pieces:
        await output_of(pieces)


async def follow_exec(client: EngineClient, container: str) -> None:
    process = await create_exec(client, container, ["sleep", "1000"])
    async with attach_exec(client, process) as pieces:
        await output_of(pieces)


async def write_without_end(client: EngineClient, container: str) -> None:
    process = await create_exec(client, container, ["sleep", "1000"], stdin=True)
    async with attach_exec(client, process) as attachment:
        while True:
            await attachment.send(bytes(1 << 16))


async def test_an_engine_that_is_stopped(own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """THREATS E5: a silent container is waited for without a limit, a silent engine is given up, typed.

    That holds for every call that may take for ever: wait, logs, an attachment read and one written to.
    """
    monkeypatch.setattr("aioruntime.engine.liveness.QUIET_SECONDS", 0.2)
    monkeypatch.setattr("aioruntime.engine.liveness.PING_SECONDS", 2.0)
    image = provide_image(own_engine)
    async with (
        EngineClient.open(Endpoint(own_engine.url, "test")) as client,
        started(client, image) as container,
    ):
        asked = asyncio.Semaphore(0)
        call_json = client.json

        async def json(method: str, path: str, **settings: Any) -> Any:
            answer = await call_json(method, path, **settings)
            if path == "/_ping":
                asked.release()
            return answer

        monkeypatch.setattr(client, "json", json)
        before = snapshot()
        calls: list[Coroutine[Any, Any, int | None]] = [
            containers.wait(client, container),
            follow_logs(client, container),
            follow_exec(client, container),
            write_without_end(client, container),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]

        for _ in range(5 * len(tasks)):
            await asked.acquire()
        assert not any(task.done() for task in tasks)

        own_engine.pause()
        try:
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        finally:
            own_engine.resume()
        assert [type(result) for result in results] == [EngineUnavailable] * len(tasks)
        assert all("does not answer any more" in str(result) for result in results)
        del tasks, results
        # The engine's own processes are below this one, so only files and tasks are compared.
        await assert_settles(type(before)(before.files, snapshot().children, before.tasks))
        assert (await containers.inspect(client, container)).running
