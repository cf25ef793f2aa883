"""Looking for damaged blobs (L2): hashed in as many threads as there are processors, a little at a time."""

from __future__ import annotations

__all__ = ("damaged_blobs", "discard_damaged")

from collections import deque
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from aioruntime.errors import StoreError
from aioruntime.progress import finishing
from aioruntime.store import directories, examine, files
from aioruntime.store.threads import Threads
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.layout import Layout

_T = TypeVar("_T")


async def damaged_blobs(
    layout: Layout, store_threads: Threads, progress: ProgressReporter, *, repair: bool
) -> list[ImageDigest]:
    """Do what `ImageStore.verify` promises."""
    # Of our own: all that reads and writes the store meanwhile has the others.
    threads = Threads(files.processors())
    sizes: dict[str, int] = {}
    damaged: list[ImageDigest] = []
    failed: list[StoreError] = []
    done = 0

    async def work(names: deque[str]) -> None:
        nonlocal done
        async with aclosing(_slices(threads, examine.examined(layout, names, sizes))) as slices:
            async for steps in slices:
                for step in steps:
                    done += step.size
                    if step.failure:
                        failed.append(step.failure)
                    if step.damaged:
                        damaged.append(step.damaged)
                        if repair:
                            try:
                                await _put_aside(layout, store_threads, step.damaged, step.status)
                            except StoreError as exc:
                                failed.append(exc)
                progress.update("verifying the store", min(done, total), total)

    with finishing(progress):
        async with aclosing(_slices(threads, examine.listed(layout, sizes))) as slices:
            async for _ in slices:
                pass
        total = sum(size for size in sizes.values() if size > 0)
        names = await threads.run(examine.largest_first, sizes)
        async with task_group() as group:
            for _ in range(threads.limit):
                group.start_soon(work, names)
        if failed:
            told = f"{len(failed)} blobs could not be read or put aside"
            failed[0].add_note(f"{told}; {len(damaged)} are damaged: {', '.join(sorted(damaged))}")
            raise failed[0]
    progress.finish(f"{len(sizes)} blobs verified, {len(damaged)} damaged")
    return sorted(damaged)


async def discard_damaged(layout: Layout, threads: Threads, digest: ImageDigest) -> bool:
    """Put a blob aside if it is damaged; tell whether it was."""
    return await _put_aside(layout, threads, digest, await _damage(layout, threads, digest))


async def _damage(layout: Layout, threads: Threads, digest: ImageDigest) -> directories.Status | None:
    """Return the status of a blob that is damaged; None if it is not."""
    names = deque([f"{digest.algorithm}/{digest.hex}"])
    async with aclosing(_slices(threads, examine.examined(layout, names, {}))) as slices:
        async for steps in slices:
            if steps[-1].failure:
                raise steps[-1].failure
            if steps[-1].damaged:
                return steps[-1].status
    return None


async def _put_aside(
    layout: Layout, threads: Threads, digest: ImageDigest, seen: directories.Status | None
) -> bool:
    """Put a damaged blob aside, examined again if it was touched or rewritten since it was seen."""
    while seen is not None:
        attempt = partial(examine.put_aside, layout, digest, seen)
        if await threads.poll(attempt, str(digest), layout.partial(digest)):
            return True
        seen = await _damage(layout, threads, digest)
    return False


async def _slices(threads: Threads, steps: Generator[_T]) -> AsyncGenerator[list[_T]]:
    """Advance *steps* in threads, each time so far that a cancelled task needn't wait long."""
    try:
        while taken := await threads.run(examine.advance, steps):
            yield taken
    finally:
        steps.close()
