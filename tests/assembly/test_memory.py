"""What is remembered of engines: notes that are believed by nobody, and lost without harm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from aioruntime.assembly.memory import _LIMIT, EngineMemory
from aioruntime.assembly.plan import HeldImage
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.platform import Platform

if TYPE_CHECKING:
    from aioruntime.store.store import ImageStore


AMD64 = Platform("linux", "amd64")


def digest(name: str) -> ImageDigest:
    return ImageDigest.of(name.encode())


def held(name: str, *digests: str) -> HeldImage:
    layers = (digest(f"{name} layer"),)
    return HeldImage(digest(name), tuple(map(digest, digests or [f"{name} manifest"])), layers, layers)


async def test_what_was_taken_is_remembered(store: ImageStore) -> None:
    """Images come back newest first, from another object for the same engine, and not for another engine."""
    memory = EngineMemory(store, "engine")
    await memory.remember(held("old"))
    await memory.remember(held("new"))

    assert await EngineMemory(store, "engine").recall() == [held("new"), held("old")]
    assert await EngineMemory(store, "other").recall() == []


async def test_images_are_found_by_each_digest(store: ImageStore) -> None:
    """The manifest's digest, the index's and the engine's ID find the image; a layer's digest does not."""
    memory = EngineMemory(store, "engine")
    image = held("image", "index", "manifest")
    await memory.remember(image)

    for name in ("index", "manifest", "image"):
        assert await memory.find(digest(name), AMD64) == image
    assert await memory.find(digest("image layer"), AMD64) is None


async def test_an_index_names_the_engines_own(store: ImageStore) -> None:
    """Of the images that came from one index, the digest of that finds the one for the platform."""
    memory = EngineMemory(store, "engine")
    for platform in ("linux/amd64", "linux/s390x"):
        image = msgspec.structs.replace(held(platform, "index", platform), platform=platform)
        await memory.remember(image)

    for platform in ("linux/amd64", "linux/s390x"):
        found = await memory.find(digest("index"), Platform.parse(platform))
        assert found is not None
        assert found.platform == platform
    newest = await memory.find(digest("index"), Platform.parse("linux/riscv64"))
    assert newest is not None
    assert newest.platform == "linux/s390x"


async def test_an_image_is_found_by_its_config(store: ImageStore) -> None:
    """The config's digest finds the image where the engine's ID is another, also when digests were added."""
    memory = EngineMemory(store, "engine")
    for name in ("first", "second"):
        await memory.remember(msgspec.structs.replace(held("image", name), config=digest("config")))

    found = await memory.find(digest("config"), AMD64)

    assert found is not None
    assert found.digests == (digest("second"), digest("first"))


async def test_a_second_digest_is_added(store: ImageStore) -> None:
    """An image taken under another digest answers to both, and is listed once."""
    memory = EngineMemory(store, "engine")
    await memory.remember(held("image", "first"))
    await memory.remember(held("image", "second"))

    assert [image.digests for image in await memory.recall()] == [(digest("second"), digest("first"))]


async def test_what_is_forgotten_is_gone(store: ImageStore) -> None:
    """Forgetting drops that image alone; forgetting what is not there is no error."""
    memory = EngineMemory(store, "engine")
    await memory.forget(digest("never"))
    await memory.remember(held("one"))
    await memory.remember(held("two"))
    await memory.forget(digest("one"))

    assert await memory.recall() == [held("two")]


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"\xff",
        b'[{"image_id": "\xff"}]',
        b"{}",
        b"[1]",
        b'[{"image_id": "sha256:12"}]',
        b'[{"image_id": 5}]',
    ],
)
async def test_a_damaged_note_knows_nothing(store: ImageStore, note: bytes) -> None:
    """A note cut short or of another version counts as empty, and the next image mends it."""
    memory = EngineMemory(store, "engine")
    await memory.remember(held("lost"))
    await store.update_note(memory._note, lambda raw: note)

    assert await memory.recall() == []
    await memory.remember(held("new"))
    assert await memory.recall() == [held("new")]


async def test_notes_do_not_grow_for_ever(store: ImageStore) -> None:
    """Beyond the limit the oldest image is forgotten."""
    memory = EngineMemory(store, "engine")
    await memory.remember(held("first"))
    many = await memory.recall()

    def fill(raw: bytes | None) -> bytes:
        return msgspec.json.encode([held(str(n)) for n in range(_LIMIT - 1)] + many, enc_hook=str)

    await store.update_note(memory._note, fill)
    await memory.remember(held("newest"))

    recalled = await memory.recall()
    assert len(recalled) == _LIMIT
    assert recalled[0] == held("newest")
    assert await memory.find(digest("first"), AMD64) is None
