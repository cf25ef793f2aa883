"""The archive that engines load, read back as a stream."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from aioruntime.assembly.archive import (
    Entry,
    archive_size,
    blob_name,
    document_entries,
    stream_archive,
)
from aioruntime.oci.digest import ImageDigest
from tests.assembly.images import made_image

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aioruntime.oci.image import ResolvedImage

NAME = "example.org/tool:1"
LAYERS = (b"", b"1" * 511, b"2" * 512, b"3" * 513)


def name_of(data: bytes) -> str:
    return blob_name(ImageDigest.of(data))


def layer_entry(data: bytes, name: str | None = None) -> Entry:
    async def read() -> AsyncGenerator[bytes]:
        for start in range(0, len(data), 100):
            yield data[start : start + 100]

    return Entry(name or name_of(data), len(data), read)


def archive_entries(image: ResolvedImage, layers: Sequence[bytes]) -> list[Entry]:
    names = [blob_name(layer.digest) for layer in image.layers]
    return [*document_entries(image, NAME, names), *map(layer_entry, layers)]


async def streamed(entries: Sequence[Entry]) -> bytes:
    async def given() -> AsyncGenerator[Entry]:
        for each in entries:
            yield each

    return b"".join([piece async for piece in stream_archive(given())])


def unpacked(archive: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r|") as tar:
        for member in tar:
            assert member.isreg()
            assert member.name not in found
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found


async def test_the_archive_is_read_back() -> None:
    """Documents come first, then the layers, each with its bytes, in the size foretold."""
    image = made_image(LAYERS)
    entries = archive_entries(image, LAYERS)

    archive = await streamed(entries)

    assert len(archive) == archive_size(entries)
    assert len(archive) % 512 == 0
    assert archive.endswith(bytes(1024))
    files = unpacked(archive)
    assert list(files) == [
        "oci-layout",
        "index.json",
        "manifest.json",
        name_of(image.raw_manifest),
        name_of(image.raw_config),
        *map(name_of, LAYERS),
    ]
    assert all(ImageDigest.of(data).hex == name[-64:] for name, data in files.items() if "/" in name)


async def test_both_readers_find_the_image() -> None:
    """`index.json` leads to the manifest under its name, `manifest.json` to the config and every layer."""
    image = made_image(LAYERS)

    files = unpacked(await streamed(archive_entries(image, LAYERS)))

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    [descriptor] = json.loads(files["index.json"])["manifests"]
    assert descriptor["digest"] == image.manifest_digest
    assert descriptor["size"] == len(image.raw_manifest)
    assert set(descriptor["annotations"].values()) == {NAME}
    assert json.loads(files["manifest.json"]) == [
        {"Config": name_of(image.raw_config), "RepoTags": [NAME], "Layers": [*map(name_of, LAYERS)]}
    ]


async def test_an_archive_that_is_no_layout() -> None:
    """Where layers are not the blobs that the manifest names, no OCI document says that they are."""
    image = made_image(LAYERS)

    entries = document_entries(image, NAME, ["one.tar", "two.tar"], layout=False)

    files = unpacked(await streamed(entries))
    assert list(files) == ["manifest.json", name_of(image.raw_config)]
    assert json.loads(files["manifest.json"])[0]["Layers"] == ["one.tar", "two.tar"]


@pytest.mark.parametrize("size", [2**33 - 1, 2**33, 2**40])
async def test_sizes_beyond_8_gib_fit(size: int) -> None:
    """A layer of more than 8 GiB has a header of one block that tar readers understand."""
    entry = Entry("blobs/sha256/" + "0" * 64, size, b"")

    header = (await streamed([entry]))[:512]

    info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (info.size, info.name) == (size, entry.name)
    assert archive_size([entry]) == 512 + -(-size // 512) * 512 + 1024
