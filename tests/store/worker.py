"""Uses a store as another process would: `python -m tests.store.worker STORE COMMAND ARGUMENT...`.

It prints a line when it is ready, and goes on when it is told a line.
"""

from __future__ import annotations

import asyncio
import sys

from aioruntime.store.store import ImageStore
from tests.store import helpers


def _say(word: str) -> None:
    print(word, flush=True)


async def _told() -> None:
    await asyncio.to_thread(sys.stdin.readline)


async def hold(store: ImageStore, size: str, written: str) -> None:
    data, digest = helpers.content(int(size))
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        await ingest.write(data[: int(written)])
        _say("held")
        await _told()
        await ingest.write(data[int(written) :])
        await ingest.commit("registry.test")
    _say("committed")


async def save(store: ImageStore, size: str) -> None:
    _say("ready")
    await _told()
    _say(str(await helpers.save(store, *helpers.content(int(size)))))


async def references(store: ImageStore, worker: str, count: str) -> None:
    descriptor = await helpers.put_descriptor(store, b"manifest")
    _say("ready")
    await _told()
    for number in range(int(count)):
        await store.set_reference(f"docker.io/library/x:{worker}-{number}", descriptor)
    _say("done")


async def notes(store: ImageStore, count: str) -> None:
    _say("ready")
    await _told()
    for _ in range(int(count)):
        await store.update_note("count", lambda old: str(int(old or b"0") + 1).encode())
    _say("done")


async def churn(store: ImageStore) -> None:
    """Write blobs, and name images anew, until told to stop."""
    told = asyncio.create_task(_told())
    number = 0
    while not told.done():
        descriptor = await helpers.put_descriptor(store, f"manifest {number}".encode())
        await helpers.save(store, *helpers.content(200_000, number))
        await store.set_reference(f"docker.io/library/churn:{number % 5}", descriptor)
        if number == 0:
            _say("ready")
        number += 1
    _say(str(number))


if __name__ == "__main__":
    _, path, command, *rest = sys.argv
    commands = {"hold": hold, "save": save, "references": references, "notes": notes, "churn": churn}
    asyncio.run(commands[command](ImageStore(path), *rest))  # type: ignore[operator]
