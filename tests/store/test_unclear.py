"""Images of which a document can't be read: what they need is not known, so nothing of it may go."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor
from aioruntime.store import collect
from tests.store.helpers import MANIFEST_TYPE, blob_path, layer, put_aside, put_image, set_age
from tests.store.layouts import INDEX_TYPE, changed

if TYPE_CHECKING:
    from aioruntime.store.store import ImageStore

LONG_AGO = 40.0
MONTH = timedelta(days=30)


async def damage(store: ImageStore, digest: ImageDigest, how: str) -> None:
    if how == "gone":
        blob_path(store, digest).unlink()
        return
    changed(blob_path(store, digest))
    if how == "put aside":
        assert await store.verify(repair=True) == [digest]


async def put_platforms(store: ImageStore, name: str) -> tuple[Descriptor, list[Descriptor]]:
    """Store an index of two platforms that are here, and one that is not."""
    platforms = [await put_image(store, f"{name} {seed}", seed) for seed in (1, 2)]
    absent = Descriptor(MANIFEST_TYPE, ImageDigest.of(b"of another platform"), 19)
    entries = [
        {"mediaType": MANIFEST_TYPE, "digest": found.digest, "size": found.size}
        for found in (*platforms, absent)
    ]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}).encode()
    await store.put(raw, ImageDigest.of(raw))
    index = Descriptor(INDEX_TYPE, ImageDigest.of(raw), len(raw))
    await store.set_reference(name, index)
    for seed in (1, 2):
        await store.remove(f"{name} {seed}")
    return index, platforms


def age(store: ImageStore) -> None:
    for path in (store.path / "blobs" / "sha256").iterdir():
        set_age(path, LONG_AGO)


@pytest.mark.parametrize("how", ["altered", "gone", "put aside"])
async def test_a_manifest_that_can_not_be_read(
    store: ImageStore, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """L6: while a named image's manifest is damaged or gone no blob goes, and the report tells why.

    When it is there again, or the image is removed, what nobody needs goes as ever.
    """
    image = await put_image(store, "a", 1)
    raw = blob_path(store, image.digest).read_bytes()
    await put_image(store, "b", 2)
    await store.pin("a")
    await damage(store, image.digest, how)
    age(store)

    told = await store.prune(max_bytes=0, dry_run=True)
    report = await store.prune(max_bytes=0)

    assert (report.images, report.blobs, report.unclear) == ((), (), ("a",))
    assert (told.images, told.blobs, told.unclear) == ((), (), ("a",))
    assert caplog.messages == []  # the report tells
    assert await store.remove("b") == 0
    assert "no blob was removed" in caplog.text
    assert await store.has(layer(1))
    await store.discard_damaged(image.digest)
    await store.put(raw, image.digest)
    age(store)
    report = await store.prune()
    assert layer(2) in report.blobs
    assert report.unclear == ()
    assert await store.has(layer(1))


@pytest.mark.parametrize("how", ["altered", "put aside"])
async def test_a_platform_that_can_not_be_read(store: ImageStore, how: str) -> None:
    """L6: what was put aside of an index is no platform that was never here: its layers stay."""
    _, platforms = await put_platforms(store, "a")
    assert (await store.prune()).unclear == ()
    await damage(store, platforms[0].digest, how)
    age(store)

    for _ in range(2):
        report = await store.prune()
        assert (report.blobs, report.unclear) == ((), ("a",))
    assert await store.has(layer(1))

    await store.remove("a")
    age(store)
    assert (await store.prune()).unclear == ()
    assert await store.blobs() == []
    assert put_aside(store) == []


async def test_such_an_image_goes(store: ImageStore) -> None:
    """L6: an image that can't be read goes when it was not used for long, and then what others left does."""
    image = await put_image(store, "a", 1)
    await put_image(store, "b", 2)
    await damage(store, image.digest, "altered")
    age(store)
    for path in (store.path / "aioruntime").glob("used/*"):
        set_age(path, LONG_AGO)

    report = await store.prune(older_than=MONTH)

    assert (set(report.images), report.unclear) == ({"a", "b"}, ())
    assert await store.blobs() == []


async def test_damaged_after_it_was_planned(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L6: a manifest that is put aside between plan and removal keeps all blobs too."""
    _, platforms = await put_platforms(store, "a")
    await put_image(store, "b", 3)
    await store.remove("b")
    await store.put(b"loose", ImageDigest.of(b"loose"))
    age(store)

    collecting = collect.collect

    async def late(*arguments: object) -> object:
        await damage(store, platforms[1].digest, "put aside")
        return await collecting(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("aioruntime.store.store.collect", late)

    report = await store.prune()

    assert (report.blobs, report.unclear) == ((), ("a",))
    assert await store.has(layer(2))
