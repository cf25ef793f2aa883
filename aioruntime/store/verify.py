"""Looking for damaged blobs (L2): each hashed in threads, a piece at a time, so that it can be cancelled."""

from __future__ import annotations

__all__ = ("damaged_blobs", "discard_damaged")

from functools import partial
from typing import TYPE_CHECKING

import anyio

from aioruntime.errors import StoreError
from aioruntime.store import blobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.store.files import Status
    from aioruntime.store.layout import Layout
    from aioruntime.store.threads import Threads


async def damaged_blobs(layout: Layout, threads: Threads) -> list[ImageDigest]:
    """List the blobs that are altered, cut short, or not regular files.

    Raises:
        StoreError: a blob may not be read.
    """
    found = await threads.run(blobs.digests, layout)
    damaged: set[ImageDigest] = set()
    errors: list[StoreError] = []
    queue = iter(found)

    async def work(queue: Iterator[ImageDigest]) -> None:
        for digest in queue:
            try:
                if (await _examined(layout, threads, digest))[0]:
                    damaged.add(digest)
            except StoreError as exc:  # not left to the task group, which would wrap it
                errors.append(exc)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(threads.limit):
            group.start_soon(work, queue)
    if errors:
        raise errors[0]
    return [digest for digest in found if digest in damaged]


async def discard_damaged(layout: Layout, threads: Threads, digest: ImageDigest) -> bool:
    """Remove a blob if it is damaged; tell whether it was."""
    damaged, seen = await _examined(layout, threads, digest)
    if not damaged:
        return False
    attempt = partial(blobs.remove_damaged, layout, digest, seen)
    return await threads.poll(attempt, str(digest), layout.partial(digest))


async def _examined(layout: Layout, threads: Threads, digest: ImageDigest) -> tuple[bool, Status | None]:
    reader = blobs.BlobReader(layout, digest, None)
    try:
        while (damaged := await threads.run(blobs.skim_damaged, reader)) is None:
            pass
        return damaged, reader.status
    finally:
        reader.close()
