"""Where an engine believes what a config claims, the claim is proven first; else nothing is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioruntime.assembly import claims, holdings
from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.memory import EngineMemory
from aioruntime.assembly.plan import held_image
from aioruntime.errors import DigestMismatch, EngineError
from aioruntime.oci.digest import ImageDigest
from tests.assembly.images import made_image
from tests.assembly.test_holdings import BLOBS, DIFFS, TARS, WANTED, FakeEngine, number

if TYPE_CHECKING:
    from aioruntime.engine.image_list import ListedImage
    from aioruntime.oci.image import ResolvedImage
    from aioruntime.store.store import ImageStore

# Its last two blobs hold something else than its config claims.
LIAR = made_image(BLOBS, diff_ids=[*DIFFS[:2], ImageDigest.of(b"secret"), ImageDigest.of(b"other")])
SECRET = LIAR.config.rootfs.diff_ids[2]


async def check(
    store: ImageStore,
    image: ResolvedImage,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    ours: ResolvedImage | None = None,
) -> None:
    monkeypatch.setattr(claims, "list_images", engine.list)
    monkeypatch.setattr(holdings, "inspect_image", engine.inspect)
    memory = EngineMemory(store, "engine")
    if ours is not None:
        await memory.remember(held_image(ours, number(1000)))
    for blob, layer in zip(BLOBS, image.layers, strict=True):
        await store.put(blob, layer.digest)
    arrivals = Arrivals.of(image.layers)
    await claims.check_claims(image, engine, memory, arrivals, store)  # type: ignore[arg-type]


async def test_a_claim_to_what_others_brought(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """THREATS I2: a layer that an image of others has, anywhere, is proven; one that nobody has is not."""
    with pytest.raises(DigestMismatch) as caught:
        await check(store, LIAR, FakeEngine({number(0): (number(1), SECRET)}), monkeypatch)
    assert caught.value.position == 2

    # The first two are what they claim to be.
    await check(store, LIAR, FakeEngine({number(2): DIFFS}), monkeypatch)
    await check(store, WANTED, FakeEngine({number(2): DIFFS}), monkeypatch)


async def test_a_claim_to_what_we_brought(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """THREATS I2: so with images of ours, if they have the layer by another blob; the same is no claim."""
    victim = made_image(TARS, diff_ids=[*DIFFS[:3], SECRET])
    with pytest.raises(DigestMismatch):
        await check(store, LIAR, FakeEngine({}), monkeypatch, victim)

    await check(store, LIAR, FakeEngine({}), monkeypatch, LIAR)


async def test_an_engine_that_can_not_be_seen_whole(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THREATS I2: with more images than are looked at, or a list that fails, every layer is proven."""
    many = FakeEngine({number(n): () for n in range(33)})
    with pytest.raises(DigestMismatch):
        await check(store, LIAR, many, monkeypatch)
    await check(store, LIAR, many, monkeypatch)  # the last one is looked at now

    async def fails(_: object) -> list[ListedImage]:
        raise EngineError("no")

    many.list = fails  # type: ignore[method-assign]
    with pytest.raises(DigestMismatch):
        await check(store, LIAR, many, monkeypatch)
