"""Owns containers as another process would: `python -m tests.runtime.owner_worker ENGINE STORE IMAGE run 10`.

It prints a line when its containers are there: a JSON list, for each its ID and labels. When it is told a
line, `own` creates one more and prints it as well; at the end of its input it removes what it has, and ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aioruntime as ar
from aioruntime.engine import containers
from aioruntime.runtime.owner import Owner, open_owner

if TYPE_CHECKING:
    from aioruntime.runtime.engine_runtime import EngineRuntime


def _say(found: object) -> None:
    print(json.dumps(found), flush=True)


async def _told() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


async def run(runtime: EngineRuntime, image: str, count: str) -> None:
    """Run containers as users do."""
    spec = ar.RunSpec(image, ["sleep", "600"], capture_output=True)
    filters = {"label": [f"aioruntime.owner={runtime._open.owner.nonce}"], "status": ["running"]}
    params = {"filters": json.dumps(filters)}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(runtime.run(spec)) for _ in range(int(count))]
        found: list[dict[str, Any]] = []
        while len(found) < int(count):
            found = await runtime._client.json("GET", "/containers/json", params=params)
        _say([{"id": each["Id"], "labels": each["Labels"]} for each in found])
        await _told()
        for task in tasks:
            task.cancel()


async def own(runtime: EngineRuntime, image: str, owners: str, count: str) -> None:
    """Create containers, as several owners, without starting them: that is quicker."""
    async with AsyncExitStack() as stack:
        made: list[dict[str, Any]] = []

        async def create(owner: Owner, name: str) -> dict[str, Any]:
            claim = await owner.claim(name)
            body = {"Image": image, "Cmd": ["sleep", "600"], "Labels": dict(claim.labels)}
            found = await containers.create(runtime._client, body, name=name)
            await owner.identify(claim, found)
            stack.push_async_callback(owner.release, claim)
            stack.push_async_callback(containers.remove, runtime._client, found)
            return {"id": found, "name": name, "labels": dict(claim.labels)}

        engine_id = runtime._client.capabilities.engine_id
        for _ in range(int(owners)):
            owner = await stack.enter_async_context(open_owner(runtime.store, engine_id))
            made += [await create(owner, f"{owner.nonce}-{number}") for number in range(int(count))]
        _say(made)
        while await _told():
            _say([await create(owner, f"{owner.nonce}-more")])


async def main(url: str, store: str, image: str, command: str, *arguments: str) -> None:
    async with ar.connect(url, store=store) as runtime:
        await {"run": run, "own": own}[command](runtime, image, *arguments)  # type: ignore[operator]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
