"""What is learnt of an engine's other images: each looked at once, few in one pull, and proven before use."""

from __future__ import annotations

import gzip
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.assembly import diff_ids, holdings
from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.diff_ids import DiffIds
from aioruntime.assembly.memory import EngineMemory
from aioruntime.assembly.plan import held_image
from aioruntime.engine.capabilities import describe
from aioruntime.engine.image_list import ListedImage
from aioruntime.errors import DigestMismatch, EngineError, ImageNotFound, InvalidManifest
from aioruntime.oci.digest import ImageDigest
from aioruntime.tasks import task_group
from tests.assembly.images import made_image
from tests.engine import documents

if TYPE_CHECKING:
    from aioruntime.oci.image import ResolvedImage
    from aioruntime.store.store import ImageStore

TARS = [b"tar %d" % number * 100 for number in range(4)]
DIFFS = tuple(ImageDigest.of(tar) for tar in TARS)
BLOBS = [gzip.compress(tar, mtime=0) for tar in TARS]


class FakeEngine:
    """A Docker with these images, by ID; it counts how often each is looked at."""

    def __init__(self, images: dict[ImageDigest, tuple[ImageDigest, ...] | EngineError]) -> None:
        self.capabilities = describe(*documents.DOCKER_20)
        self.images = images
        self.looked: list[str] = []

    async def list(self, _: object) -> list[ListedImage]:
        return [ListedImage(name, 1, {}, (f"x:{n}",), ()) for n, name in enumerate(self.images)]

    async def inspect(self, _: object, name: str) -> Any:
        self.looked.append(name)
        held = self.images[ImageDigest(name)]
        if isinstance(held, EngineError):
            raise held
        return SimpleNamespace(diff_ids=held)


def number(n: int) -> ImageDigest:
    return ImageDigest.of(b"image %d" % n)


async def donors(
    engine: FakeEngine,
    store: ImageStore,
    image: ResolvedImage,
    monkeypatch: pytest.MonkeyPatch,
    arrivals: Arrivals | None = None,
) -> list[tuple[ImageDigest, int]]:
    monkeypatch.setattr(holdings, "list_images", engine.list)
    monkeypatch.setattr(holdings, "inspect_image", engine.inspect)
    memory = EngineMemory(store, "engine")
    if arrivals is None:
        arrivals = Arrivals()
        for blob, layer in zip(BLOBS, image.layers, strict=False):
            await store.put(blob, layer.digest)
            arrivals.arrived(layer.digest)
    found = await holdings.foreign_donors(engine, memory, image, arrivals, store)  # type: ignore[arg-type]
    assert all(donor.layers == tuple(x.digest for x in image.layers)[: len(donor.layers)] for donor in found)
    return [(donor.image_id, len(donor.layers)) for donor in found]


WANTED = made_image(BLOBS, diff_ids=DIFFS)


async def test_the_longest_beginning_is_taken(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the engine's images the one that has most of the first layers is the donor, for just those."""
    other = ImageDigest.of(b"other")
    chains = [(), DIFFS[:1], (*DIFFS[:3], other), DIFFS[1:], (other, *DIFFS)]
    engine = FakeEngine({number(n): chain for n, chain in enumerate(chains)})

    assert await donors(engine, store, WANTED, monkeypatch) == [(number(2), 3)]
    assert await donors(FakeEngine({number(0): (other,)}), store, WANTED, monkeypatch) == []


async def test_images_are_looked_at_once(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 unknown images are looked at in one pull, the newest first, and none a second time."""
    engine = FakeEngine({number(n): DIFFS[:2] if n == 50 else () for n in range(70)})

    found = [await donors(engine, store, WANTED, monkeypatch) for _ in range(4)]

    assert found == [[], *[[(number(50), 2)]] * 3]
    assert engine.looked == [number(n) for n in range(70)]


async def test_what_vanished_is_forgotten(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is listed no more is no donor and not remembered; one that came is looked at."""
    engine = FakeEngine({number(0): DIFFS, number(1): ()})
    await donors(engine, store, WANTED, monkeypatch)
    engine.images = {number(2): DIFFS[:1], number(1): ()}

    assert await donors(engine, store, WANTED, monkeypatch) == [(number(2), 1)]
    assert await EngineMemory(store, "engine").others() == engine.images
    assert engine.looked == [number(0), number(1), number(2)]


@pytest.mark.parametrize("failure", [ImageNotFound("gone"), EngineError("described in an unknown way")])
async def test_an_image_that_can_not_be_looked_at(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, failure: EngineError
) -> None:
    """An image that vanished since it was listed, or that the engine can't describe, fails nothing."""
    engine = FakeEngine({number(0): failure, number(1): DIFFS[:1]})

    assert await donors(engine, store, WANTED, monkeypatch) == [(number(1), 1)]


async def test_ours_count_if_longer(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is proven, nor waited for, if an image that we loaded has as many of the first layers."""
    engine = FakeEngine({number(0): DIFFS[:2], number(1): DIFFS[:2]})
    ours = made_image(BLOBS[:2], diff_ids=DIFFS[:2])
    await EngineMemory(store, "engine").remember(held_image(ours, number(1)))

    assert await donors(engine, store, WANTED, monkeypatch, Arrivals()) == []
    assert engine.looked == [number(0)]


async def test_proven_layers_are_not_waited_for(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image of ours proved, although the engine lost it, and what was inflated once, is not again."""
    engine = FakeEngine({number(0): DIFFS[:3]})
    ours = made_image(BLOBS[:2], diff_ids=DIFFS[:2])
    await EngineMemory(store, "engine").remember(held_image(ours, number(1)))
    arrivals = Arrivals()
    await store.put(BLOBS[2], WANTED.layers[2].digest)
    arrivals.arrived(WANTED.layers[2].digest)

    assert await donors(engine, store, WANTED, monkeypatch, arrivals) == [(number(0), 3)]
    assert await donors(engine, store, WANTED, monkeypatch, Arrivals()) == [(number(0), 3)]


async def test_layers_are_waited_for(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unproven layers are inflated when they have arrived, in whatever order."""
    engine, arrivals = FakeEngine({number(0): DIFFS}), Arrivals()
    found: list[tuple[ImageDigest, int]] = []

    async def ask() -> None:
        found.extend(await donors(engine, store, WANTED, monkeypatch, arrivals))

    async with task_group() as group:
        group.start_soon(ask)
        for blob, layer in reversed([*zip(BLOBS, WANTED.layers, strict=True)]):
            await store.put(blob, layer.digest)
            assert found == []
            arrivals.arrived(layer.digest)

    assert found == [(number(0), 4)]


async def test_a_lie_is_told(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: a blob that holds something else than the config claims is DigestMismatch, with its position."""
    engine = FakeEngine({number(0): (DIFFS[0], DIFFS[2])})
    liar = made_image(BLOBS[:2], diff_ids=[DIFFS[0], DIFFS[2]])

    with pytest.raises(DigestMismatch, match=r"layer 1 .* broken at its source") as caught:
        await donors(engine, store, liar, monkeypatch)

    assert (caught.value.position, caught.value.expected, caught.value.actual) == (1, DIFFS[2], DIFFS[1])


async def test_an_engine_that_can_not_list(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that can't list its images has no donors: the image is sent in full."""
    engine = FakeEngine({})

    async def fails(_: object) -> list[ListedImage]:
        raise EngineError("no")

    engine.list = fails  # type: ignore[method-assign]
    assert await donors(engine, store, WANTED, monkeypatch) == []


async def test_proofs_are_bounded(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the oldest proof is forgotten; a damaged note knows nothing."""
    monkeypatch.setattr(diff_ids, "_LIMIT", 3)
    arrivals = Arrivals()
    for blob, layer in zip(BLOBS, WANTED.layers, strict=True):
        await store.put(blob, layer.digest)
        arrivals.arrived(layer.digest)
        await DiffIds(store).prove([layer], arrivals)
    expected = {str(layer.digest): str(diff) for layer, diff in zip(WANTED.layers, DIFFS, strict=True)}

    kept = await DiffIds(store).prove([], arrivals)
    assert kept == dict(list(expected.items())[1:])
    await store.update_note("diff-ids", lambda _: b'{"x": 1}')
    assert await DiffIds(store).prove(WANTED.layers[:1], arrivals) == dict(list(expected.items())[:1])


async def test_what_can_not_be_inflated(store: ImageStore) -> None:
    """A layer that is no whole gzip file is InvalidManifest, and nothing is noted of it."""
    cut = BLOBS[0][:-9]
    image, arrivals = made_image([cut]), Arrivals()
    await store.put(cut, image.layers[0].digest)
    arrivals.arrived(image.layers[0].digest)

    with pytest.raises(InvalidManifest, match="can't be inflated"):
        await DiffIds(store).prove(image.layers, arrivals)
    assert await store.read_note("diff-ids") is None
