"""Errors of tasks that run at once."""

from __future__ import annotations

import asyncio

import pytest

from aioruntime.errors import StoreError, StoreFull
from aioruntime.tasks import task_group


async def test_errors_at_once() -> None:
    """The first error is raised; others are notes in plain words, each kind once, its own not again."""

    async def fail(error: Exception) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async def all_fail() -> None:
        async with task_group() as group:
            for error in (StoreFull("full", need=1, have=0), StoreError("no lock"), StoreError("no lock")):
                group.start_soon(fail, error)
            group.start_soon(fail, KeyError("x"))
            await asyncio.sleep(0)
            raise StoreFull("full first", need=1, have=0)

    with pytest.raises(StoreFull, match="full first") as caught:
        await all_fail()
    assert sorted(caught.value.__notes__) == [
        "at the same time: KeyError: 'x'",
        "at the same time: StoreError: no lock",
    ]
