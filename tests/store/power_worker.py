"""Works on a store, and logs what it promised.

`python -m tests.store.power_worker STORE LOG SEED PACE FAULT`. PACE is "busy" or "calm". FAULT is "none", or
whose fsync is left out: "files", "directories" or "all". Ends when it has written as much as a disk can hold.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioruntime.oci.documents import Descriptor
from aioruntime.store import directories, files
from aioruntime.store.store import ImageStore
from tests.store.helpers import MANIFEST_TYPE, MIB, content, put_descriptor, save, save_some
from tests.store.promises import PromiseLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# By pace: how many tasks, and the seconds that one is idle at most after each operation. Who is busy waits
# for the disk all the time, and so brings there what others do not wait for.
PACES = {"busy": (4, 0.0), "calm": (1, 0.2)}
BUDGET = 36 * MIB
LEAST = 16 * 1024  # what the smallest blob counts for
SIZES = (1, 100, 4095, 4096, 20_000, 70_000, MIB - 1, MIB + 1, 3 * MIB)
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


class Worker:
    """One task's work: operations drawn from a seed, on names and notes of its own."""

    left = BUDGET

    def __init__(self, store: ImageStore, log: PromiseLog, name: str, idle: float = 0.0) -> None:
        self._store = store
        self._log = log
        self._name = name
        self._random = random.Random(name)
        self._idle = idle
        self._begun: list[tuple[int, int]] = []
        self._count = 0

    async def run(self) -> None:
        while Worker.left > 0:
            await self._random.choice(OPERATIONS)(self)
            await asyncio.sleep(self._random.uniform(0, self._idle))

    async def blob(self) -> Descriptor:
        """Write a blob; now and then one that was begun before."""
        size, seed = self._begun.pop() if self._begun and self._random.random() < 0.5 else self._draw()
        data, digest = content(size, seed)
        with self._log.promise(f"blob {digest}", [size, seed]):
            await save(self._store, data, digest)
        return Descriptor(LAYER_TYPE, digest, size)

    async def begin(self) -> None:
        """Write half a blob, and leave it."""
        size, seed = self._draw()
        data, digest = content(size, seed)
        self._begun.append((size, seed))
        self._log.intend(f"blob {digest}", [size, seed])
        await save_some(self._store, data, digest, size // 2)

    async def image(self) -> None:
        """Write an image, and give it a name that another may have had."""
        layers = [await self.blob() for _ in range(2)]
        config = await put_descriptor(self._store, json.dumps({"layers": len(layers)}).encode())
        parts = [
            {"mediaType": part.media_type, "digest": str(part.digest), "size": part.size}
            for part in (Descriptor(CONFIG_TYPE, config.digest, config.size), *layers)
        ]
        fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": parts[0], "layers": parts[1:]}
        manifest = await put_descriptor(self._store, json.dumps(fields).encode())
        name = f"docker.io/library/{self._name}:{self._random.randrange(4)}"
        with self._log.promise(f"name {name}", str(manifest.digest)):
            await self._store.set_reference(name, manifest)

    async def note(self) -> None:
        self._count += 1
        with self._log.promise(f"note {self._name}", str(self._count)):
            await self._store.update_note(self._name, lambda _: str(self._count).encode())

    def _draw(self) -> tuple[int, int]:
        size = self._random.choice(SIZES)
        Worker.left -= max(size, LEAST)
        return size, self._random.getrandbits(64)


OPERATIONS: tuple[Callable[[Worker], Awaitable[object]], ...] = (
    Worker.blob,
    Worker.begin,
    Worker.image,
    Worker.image,
    Worker.note,
)


class Unsynced:
    """`os`, except that fsync of files or of directories does nothing."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        kind = "directories" if stat.S_ISDIR(os.fstat(fd).st_mode) else "files"
        if self._what not in (kind, "all"):
            os.fsync(fd)


async def main(path: str, log: str, seed: str, pace: str, fault: str) -> None:
    if fault != "none":
        for module in (files, directories):
            setattr(module, "os", Unsynced(fault))  # noqa: B010 - mypy knows that a module is no object of ours
    store, promises = ImageStore(path), PromiseLog(Path(log))
    tasks, idle = PACES[pace]
    async with asyncio.TaskGroup() as group:
        print("ready", flush=True)
        for number in range(tasks):
            group.create_task(Worker(store, promises, f"{seed}-{number}", idle).run())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
