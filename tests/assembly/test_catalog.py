"""Pulled images, found again in the store without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioruntime.assembly.catalog import find_image, keep_image
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from tests.assembly.images import made_image
from tests.store.helpers import blob_path

if TYPE_CHECKING:
    from aioruntime.store.store import ImageStore

AMD64 = Platform("linux", "amd64")
INDEX = ImageDigest.of(b"an index")


async def test_an_image_is_found_by_its_tag(store: ImageStore) -> None:
    """What was kept comes back equal, to the byte of its documents, under its reference only."""
    image = made_image([b"layer"])
    await keep_image(store, image)

    assert await find_image(store, image.reference, AMD64) == image
    for other in ("example.org/tool:2", "example.org/other:1", "other.org/tool:1"):
        assert await find_image(store, OciRef.parse(other), AMD64) is None


async def test_an_image_is_found_by_its_digest(store: ImageStore) -> None:
    """A pinned digest finds the image under any name, also with another tag, and no other digest does."""
    image = made_image([b"layer"])
    await keep_image(store, image)

    for name in ("example.org/tool", "mirror.org/copy:7"):
        found = await find_image(store, OciRef.parse(f"{name}@{image.digest}"), AMD64)
        assert found is not None
        assert (found.digest, found.raw_config) == (image.digest, image.raw_config)
        assert found.reference == OciRef.parse(f"{name}@{image.digest}")
    assert await find_image(store, OciRef.parse(f"example.org/tool:1@{INDEX}"), AMD64) is None


async def test_an_image_of_an_index_is_found_by_both(store: ImageStore) -> None:
    """The digests of the index and of the manifest both find it, each under the digest asked for."""
    image = made_image([b"layer"], index=INDEX)
    await keep_image(store, image)

    for pinned in (INDEX, image.manifest_digest):
        found = await find_image(store, OciRef.parse(f"example.org/tool@{pinned}"), AMD64)
        assert found is not None
        assert (found.digest, found.manifest_digest) == (pinned, image.manifest_digest)


async def test_a_tag_that_moved_names_the_new_image(store: ImageStore) -> None:
    """Keeping another image under a reference replaces the first."""
    await keep_image(store, made_image([b"old"]))
    new = made_image([b"new"])
    await keep_image(store, new)

    assert await find_image(store, new.reference, AMD64) == new


async def test_another_platform_is_not_found(store: ImageStore) -> None:
    """An image for a machine that is not asked for counts as absent, by tag and by index digest."""
    image = made_image([b"layer"], index=INDEX, architecture="s390x")
    await keep_image(store, image)

    assert await find_image(store, image.reference, AMD64) is None
    assert await find_image(store, OciRef.parse(f"example.org/tool@{INDEX}"), AMD64) is None
    assert await find_image(store, image.reference, Platform("linux", "s390x")) == image


async def test_each_platform_of_an_index_is_found(store: ImageStore) -> None:
    """Of two images kept from one index under two names, the digest gives the one for the platform."""
    kept = {
        name: made_image([name.encode()], index=INDEX, architecture=name, reference=f"example.org/{name}:1")
        for name in ("s390x", "amd64")
    }
    for image in kept.values():
        await keep_image(store, image)

    for name, image in kept.items():
        found = await find_image(store, OciRef.parse(f"x.org/y@{INDEX}"), Platform("linux", name))
        assert found is not None
        assert found.manifest_digest == image.manifest_digest


@pytest.mark.parametrize("document", ["manifest", "config"])
@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
async def test_a_damaged_document_is_not_found(store: ImageStore, document: str, damage: str) -> None:
    """A manifest or config that rotted or vanished in the store counts as absent: the registry has it."""
    image = made_image([b"layer"])
    await keep_image(store, image)
    digest = image.manifest_digest if document == "manifest" else image.manifest.config.digest
    path = blob_path(store, digest)
    path.chmod(0o600)
    if damage == "gone":
        path.unlink()
    else:
        raw = path.read_bytes()
        path.write_bytes(raw[:-5] if damage == "cut" else raw.replace(b"linux", b"plan9") + b" ")

    assert await find_image(store, image.reference, AMD64) is None


async def test_an_empty_store_has_nothing(store: ImageStore) -> None:
    """A store that was never written to gives nothing, and is not made by looking."""
    assert await find_image(store, OciRef.parse("example.org/tool:1"), AMD64) is None
    assert not store.path.exists()
