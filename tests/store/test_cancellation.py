"""Cancelling at each await of what looks after the store: nothing is held, lost or half done afterwards."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from aioruntime.store.store import ImageStore
from tests.store.helpers import content, put_image, save, save_some, set_age
from tests.support.leaks import assert_settles, snapshot
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.stepper import How

SEED = 5


async def prune(store: ImageStore) -> None:
    await store.prune(max_bytes=3000)


async def remove(store: ImageStore) -> None:
    await store.remove("a")


async def verify(store: ImageStore) -> None:
    await store.verify(repair=True)


async def pin(store: ImageStore) -> None:
    await store.pin("a")
    await store.unpin("a")


async def usage(store: ImageStore) -> None:
    await store.usage()


async def lease(store: ImageStore) -> None:
    async with store.lease([content(1000, 1)[1]]):
        await store.has(content(1000, 1)[1])


async def carry(store: ImageStore) -> None:
    """Bring images in, and one out."""
    await store.import_layout(store.path.with_name("elsewhere"))
    await store.export_layout("a", store.path.with_name("out"))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "again_after"), [("task", None), ("task", 2), ("scope", None)])
@pytest.mark.parametrize("work", [prune, remove, verify, pin, usage, lease, carry])
async def test_cancelled(
    tmp_path: Path, work: Callable[[ImageStore], Awaitable[None]], how: How, again_after: int | None
) -> None:
    """L16, T19: cancelled at any await, even twice, it leaves no task, file or lock; what stays is whole."""
    await put_image(ImageStore(tmp_path / "elsewhere"), "c", 5, 6)
    template = ImageStore(tmp_path / "template")
    await put_image(template, "a", 1, 2, 3)
    await put_image(template, "b", 2, 3, 4)
    await save(template, *content(500, 8))
    await save_some(template, *content(700, 9), 300)
    for path in (template.path / "blobs" / "sha256").iterdir():
        set_age(path, 1)

    def fresh() -> ImageStore:
        for path in (tmp_path / "store", tmp_path / "out"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(template.path, tmp_path / "store")
        return ImageStore(tmp_path / "store")

    async def once() -> None:
        await work(fresh())

    before = snapshot()
    tried = 0
    async for step in each_step(once, sample=None if how == "task" and not again_after else 6, seed=SEED):
        await run_cancelled_at(once, step, how=how, again_after=again_after, may_finish=True)
        await assert_settles(before)
        store = ImageStore(tmp_path / "store")
        if not store.path.exists():
            continue  # cancelled before anything was done
        assert await store.verify() == []
        assert all(not image.missing for image in await store.images())
        assert list((store.path / "aioruntime").glob("leases/*")) == []
        assert list((store.path / "aioruntime").glob("*.lock")) == []
        if work is not remove or "a" in await store.references():
            await work(store)
        tried += 1
    assert tried >= 3
