"""Layers that are larger than the disk, by what the manifest declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import StoreFull
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from tests.assembly.test_served import fetch
from tests.support.scripted import ScriptedServer

if TYPE_CHECKING:
    from aioruntime.store.store import ImageStore


@pytest.mark.parametrize("count", [1, 1000])
async def test_no_room_for_what_is_declared(store: ImageStore, count: int) -> None:
    """THREATS I12: layers declared larger than what is free, together, are told before a request is made."""
    free = await store.free_bytes()
    each = free // count + 2**20
    layers = [LayerSpec(ImageDigest.of(b"%d" % number), each, "x") for number in range(count)]
    async with ScriptedServer() as server:
        with pytest.raises(StoreFull, match=str(store.path)) as caught:
            await fetch(store, server, layers)

        assert server.requests == []
    assert caught.value.need == each * count > caught.value.have > 0
    assert not (store.path / "ingest").exists() or list((store.path / "ingest").iterdir()) == []
