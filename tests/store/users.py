"""Other users of this machine, who use a store: each a process without root's rights."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioruntime.errors import AioRuntimeError
from aioruntime.oci.documents import Descriptor
from aioruntime.store.store import ImageStore
from tests.store.helpers import content, put_descriptor, save, save_some

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aioruntime.oci.digest import ImageDigest

SECONDS = 120
TEAM = 61000
# Its processes are forked from one that has imported all that a user, who may not read our files, will need.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", __name__])


class User:
    """A user without rights, in a process that lives until `leave`.

    Args:
        uid: numeric ID, which is that of a group of its own too.
        groups: further groups.
        umask: what its new files are kept from.
    """

    def __init__(self, uid: int, *groups: int, umask: int = 0o077) -> None:
        self._process = ProcessPoolExecutor(1, _CONTEXT, _become, (uid, groups, umask))

    def begin(self, work: Callable[..., Coroutine[Any, Any, Any]], path: Path, *args: object) -> Future[Any]:
        """Have the user do *work* in the store at *path*."""
        return self._process.submit(_done, work, path, *args)

    def do(self, work: Callable[..., Coroutine[Any, Any, Any]], path: Path, *args: object) -> Any:
        """Have the user do *work*; return what it returns, or the kind and words of its error."""
        return self.begin(work, path, *args).result(SECONDS)

    def leave(self) -> None:
        self._process.shutdown()


def _become(uid: int, groups: tuple[int, ...], umask: int) -> None:
    with tempfile.TemporaryDirectory() as directory:  # what is imported late is imported now
        asyncio.run(rehearse(ImageStore(Path(directory) / "store")))
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(umask)


def _done(work: Callable[..., Coroutine[Any, Any, Any]], path: Path, *args: object) -> Any:
    try:
        return asyncio.run(work(ImageStore(path), *args))
    except AioRuntimeError as exc:
        return type(exc).__name__, str(exc)


async def rehearse(store: ImageStore) -> None:
    await store_seed(store, 0)
    await name(store, "x")
    await store.update_note("x", lambda _: b"")
    await store.verify()
    assert await store.lacking() == []


async def store_seed(store: ImageStore, seed: int) -> bool:
    return await save(store, *content(1000, seed))


async def leave_half(store: ImageStore, seed: int) -> None:
    await save_some(store, *content(1000, seed), 500)


async def go_on(store: ImageStore, seed: int) -> int:
    """Write the rest of a blob; return the bytes that were there."""
    data, digest = content(1000, seed)
    async with store.ingest(digest, len(data)) as ingest:
        assert ingest is not None
        kept = ingest.kept
        await ingest.write(data[kept:])
        await ingest.commit("registry.test")
    return kept


async def name(store: ImageStore, reference: str) -> None:
    await store.set_reference(reference, await put_descriptor(store, b"manifest"))


async def name_unstored(store: ImageStore, reference: str) -> None:
    data, digest = content(1000)
    await store.set_reference(reference, Descriptor("a/b", digest, len(data)))


async def count(store: ImageStore) -> bytes:
    """Add to a note, as the only one."""
    async with store.turn("counting"):
        return await store.update_note("count", lambda old: str(int(old or b"0") + 1).encode())


async def names(store: ImageStore) -> list[str]:
    return sorted(await store.references())


async def read(store: ImageStore, seed: int) -> bool:
    data, digest = content(1000, seed)
    return await store.read(digest) == data


async def verify(store: ImageStore) -> list[ImageDigest]:
    return await store.verify()


async def prune(store: ImageStore) -> list[str]:
    """Remove what can go; return what could not."""
    return list(map(str, (await store.prune()).failed))


async def discard(store: ImageStore, digest: ImageDigest) -> bool:
    return await store.discard_damaged(digest)


async def put_aside(store: ImageStore, path: Path) -> None:
    store._layout.put_aside(path)


async def scratch(store: ImageStore) -> bytes:
    with store.open_scratch() as file:
        file.write(b"scratch")
        return file.read(0, 7)


async def lacking(store: ImageStore) -> list[str]:
    return await store.lacking()


async def use_at_once(store: ImageStore, who: str, rounds: int) -> None:
    """Use stores that are not made yet, while others do so too."""
    for turn in range(rounds):
        fresh = ImageStore(store.path / str(turn))
        await name(fresh, who)
        await store_seed(fresh, turn)
        await count(fresh)
