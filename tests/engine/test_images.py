from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioruntime.engine.image_list import find_by_digest
from aioruntime.engine.images import (
    inspect_image,
    load_image,
    remove_image,
    tag_image,
)
from aioruntime.errors import ImageLoadFailed, ImageNotFound
from aioruntime.oci.digest import ImageDigest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.engine.client import EngineClient


async def test_inspect_tag_remove(client: EngineClient, image: str) -> None:
    """An image is seen with its ID and layers, under each name it is given, until that name is removed."""
    held = await inspect_image(client, image)
    assert len(held.diff_ids) == 1
    assert held.size
    assert held.platform == client.capabilities.platform
    await tag_image(client, held.id, "localhost/engine-tests:other")
    assert "localhost/engine-tests:other" in (await inspect_image(client, held.id)).references
    await remove_image(client, "localhost/engine-tests:other")
    with pytest.raises(ImageNotFound, match="engine-tests:other"):
        await inspect_image(client, "localhost/engine-tests:other")
    assert (await inspect_image(client, image)).id == held.id


async def test_absent_images(client: EngineClient, image: str) -> None:
    """Every call on an image that is not there raises ImageNotFound."""
    absent = ImageDigest.of(b"absent")
    for call in (
        inspect_image(client, absent),
        find_by_digest(client, absent),
        remove_image(client, "localhost/nope:1"),
        tag_image(client, "localhost/nope:1", "localhost/x:1"),
    ):
        with pytest.raises(ImageNotFound):
            await call


async def test_found_by_manifest_digest(client: EngineClient, image: str) -> None:
    """An image is found by any manifest digest that the engine lists for it."""
    held = await inspect_image(client, image)
    for digest in held.repo_digests:
        assert (await find_by_digest(client, digest)).id == held.id


@pytest.mark.parametrize("content", [b"", b"\0" * 1024, b"no tar archive" * 200_000])
async def test_what_is_no_image_is_refused(client: EngineClient, content: bytes) -> None:
    """Real engines' refusals of an archive are ImageLoadFailed, whatever their status."""

    async def archive() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    with pytest.raises(ImageLoadFailed):
        await load_image(client, archive())


async def test_archive_that_raises(client: EngineClient) -> None:
    """An exception of the archive itself comes out, not one of the connection."""
    mine = KeyError("mine")

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise mine

    with pytest.raises(KeyError) as caught:
        await load_image(client, broken())
    assert caught.value is mine
