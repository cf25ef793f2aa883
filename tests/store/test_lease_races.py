"""Leases that others look at in the wrong moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import filelock

from aioruntime.store.layout import Layout
from aioruntime.store.lease import leased
from tests.store.helpers import content

if TYPE_CHECKING:
    import pytest

    from aioruntime.store.store import ImageStore


async def test_a_lease_seen_before_it_is_locked(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L11: a lease that another takes for a dead one's, since it is not yet locked, is taken again."""
    _, digest = content(1)
    layout = Layout(store.path)
    layout.prepare()
    lock = filelock.lock_descriptor
    seen: list[bool] = []

    def late(fd: int, *, blocking: bool) -> bool:
        if not seen and list(layout.leases.glob("*")):
            seen.append(True)
            assert leased(layout) == set()
        return lock(fd, blocking=blocking)

    monkeypatch.setattr(filelock, "lock_descriptor", late)
    async with store.lease([digest]):
        assert seen
        assert leased(layout) == {digest}
