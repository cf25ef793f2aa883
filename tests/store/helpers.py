"""What the store's tests share: blobs made from a seed, and the store used from another process."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioruntime
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from aioruntime.store.store import ImageStore

MIB = 2**20
STALL_LIMIT = 0.05
ROOT = Path(aioruntime.__file__).parents[1]
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def content(size: int, seed: int = 1) -> tuple[bytes, ImageDigest]:
    data = random.Random(seed).randbytes(size)
    return data, ImageDigest.of(data)


def blob_path(store: ImageStore, digest: ImageDigest) -> Path:
    return store.path / "blobs" / digest.algorithm / digest.hex


def partial_path(store: ImageStore, digest: ImageDigest) -> Path:
    return store.path / "ingest" / f"{digest.algorithm}-{digest.hex}"


def partials(store: ImageStore) -> list[str]:
    return sorted(os.listdir(store.path / "ingest"))


def put_aside(store: ImageStore) -> list[str]:
    path = store.path / "aioruntime" / "damaged"
    return sorted(os.listdir(path)) if path.exists() else []


async def save(store: ImageStore, data: bytes, digest: ImageDigest) -> bool:
    async with store.ingest(digest, len(data)) as ingest:
        if ingest is None:
            return False
        await ingest.write(memoryview(data)[ingest.offset :])
        await ingest.commit("registry.test")
    return True


async def write(store: ImageStore, digest: ImageDigest, size: int | None, *pieces: bytes) -> None:
    """Write *pieces* and commit."""
    async with store.ingest(digest, size) as ingest:
        assert ingest is not None
        for piece in pieces:
            await ingest.write(piece)
        await ingest.commit("registry.test")


async def save_some(store: ImageStore, data: bytes, digest: ImageDigest, length: int) -> None:
    """Write *length* bytes and leave without commit."""
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        await ingest.write(data[ingest.offset : length])


async def put_descriptor(store: ImageStore, data: bytes) -> Descriptor:
    digest = ImageDigest.of(data)
    await store.put(data, digest)
    return Descriptor(MANIFEST_TYPE, digest, len(data))


class Worker:
    """`tests.store.worker` at work in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        await self.process.stdin.drain()


@asynccontextmanager
async def worker(*arguments: object) -> AsyncIterator[Worker]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.store.worker",
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield Worker(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def put_image(store: ImageStore, name: str, *seeds: int, size: int = 1000) -> Descriptor:
    """Store an image named *name* with a config and a layer of *size* bytes for each seed."""
    layers = []
    for seed in seeds:
        data, digest = content(size, seed)
        await save(store, data, digest)
        layers.append({"mediaType": LAYER_TYPE, "digest": digest, "size": size})
    config = json.dumps({"name": name}).encode()
    await store.put(config, ImageDigest.of(config))
    described = {"mediaType": CONFIG_TYPE, "digest": ImageDigest.of(config), "size": len(config)}
    document = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described, "layers": layers}
    descriptor = await put_descriptor(store, json.dumps(document).encode())
    await store.set_reference(name, descriptor)
    return descriptor


def set_age(path: Path, days: float) -> None:
    """Let a file be last written *days* ago."""
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def layer(seed: int, size: int = 1000) -> ImageDigest:
    """The digest of the layer that `put_image` makes from a seed."""
    return content(size, seed)[1]


async def longest_stall(work: Callable[[], Coroutine[Any, Any, object]]) -> float:
    """Return how long, in seconds, *work* held up the loop at most, in the best of up to three rounds.

    What counts is the time of the processors that the whole process took between two turns of the loop: of a
    thread that keeps the interpreter for itself, too, but not what others take of the machine. The garbage
    collector does its work, but for what the tests before left.
    """
    gc.collect()
    gc.freeze()
    try:
        best = await _longest_stall(work())
        for _ in range(2):
            if best >= STALL_LIMIT:
                best = min(best, await _longest_stall(work()))
        return best
    finally:
        gc.unfreeze()


async def _longest_stall(work: Coroutine[Any, Any, object]) -> float:
    task = asyncio.create_task(work)
    longest = 0.0
    while not task.done():
        before = time.process_time()
        await asyncio.sleep(0)
        longest = max(longest, time.process_time() - before)
    await task
    return longest
