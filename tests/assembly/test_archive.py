"""The archive that engines load, read back as a stream."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from aioruntime.assembly.archive import Blob, Entry, archive_entries, archive_size, stream_archive
from aioruntime.assembly.inflate import Inflated
from aioruntime.oci.digest import ImageDigest
from tests.assembly.images import made_image

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

NAME = "example.org/tool:1"
LAYERS = (b"", b"1" * 511, b"2" * 512, b"3" * 513)


def blob_name(data: bytes) -> str:
    return f"blobs/sha256/{ImageDigest.of(data).hex}"


async def streamed(entries: Sequence[Entry], contents: Sequence[bytes]) -> bytes:
    """The archive's bytes, with layers whose content, as it is sent, is one of *contents*."""
    by_name = {blob_name(data): data for data in contents}

    async def read(blob: Blob) -> AsyncGenerator[bytes]:
        digest = blob.inflated.diff_id if blob.inflated else blob.layer.digest
        data = by_name[f"blobs/sha256/{digest.hex}"]
        for start in range(0, len(data), 100):
            yield data[start : start + 100]

    return b"".join([piece async for piece in stream_archive(entries, read)])


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
    """Documents come first, then the layers from base to top, each with its bytes, in the size foretold."""
    image = made_image(LAYERS)
    entries = archive_entries(image, NAME)

    archive = await streamed(entries, LAYERS)

    assert len(archive) == archive_size(entries)
    assert len(archive) % 512 == 0
    assert archive.endswith(bytes(1024))
    files = unpacked(archive)
    assert list(files) == [
        "oci-layout",
        "index.json",
        "manifest.json",
        blob_name(image.raw_manifest),
        blob_name(image.raw_config),
        *map(blob_name, LAYERS),
    ]
    assert all(ImageDigest.of(data).hex == name[-64:] for name, data in files.items() if "/" in name)


async def test_both_readers_find_the_image() -> None:
    """`index.json` leads to the manifest under its name, `manifest.json` to the config and every layer."""
    image = made_image(LAYERS)

    files = unpacked(await streamed(archive_entries(image, NAME), LAYERS))

    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    [descriptor] = json.loads(files["index.json"])["manifests"]
    assert descriptor["digest"] == image.manifest_digest
    assert descriptor["size"] == len(image.raw_manifest)
    assert set(descriptor["annotations"].values()) == {NAME}
    assert json.loads(files["manifest.json"]) == [
        {"Config": blob_name(image.raw_config), "RepoTags": [NAME], "Layers": [*map(blob_name, LAYERS)]}
    ]


@pytest.mark.parametrize("omit", [(0,), (1, 2), (0, 1, 2, 3)])
async def test_what_is_held_is_left_out(omit: tuple[int, ...]) -> None:
    """Layers to omit are not in the archive, though the documents still name them."""
    image = made_image(LAYERS)
    entries = archive_entries(image, NAME, {image.layers[position].digest for position in omit})

    archive = await streamed(entries, LAYERS)

    assert len(archive) == archive_size(entries)
    files = unpacked(archive)
    sent = [data for position, data in enumerate(LAYERS) if position not in omit]
    assert list(files)[5:] == [blob_name(data) for data in sent]
    assert len(json.loads(files["manifest.json"])[0]["Layers"]) == len(LAYERS)


async def test_a_doubled_layer_is_sent_once() -> None:
    """A digest that the image has twice is one file, and is named twice."""
    layers = (b"a", b"b", b"a")

    files = unpacked(await streamed(archive_entries(made_image(layers), NAME), layers))

    assert list(files)[5:] == [blob_name(b"a"), blob_name(b"b")]
    assert json.loads(files["manifest.json"])[0]["Layers"] == [*map(blob_name, layers)]


async def test_an_inflated_archive_is_no_layout() -> None:
    """With inflated layers, files have their diff IDs as names, and no OCI document contradicts them."""
    packed, tar = b"packed", b"t" * 1000
    image = made_image((packed, b"plain"))
    inflated = {ImageDigest.of(packed): Inflated(ImageDigest.of(tar), len(tar))}
    entries = archive_entries(image, NAME, inflated=inflated)

    archive = await streamed(entries, (tar, b"plain"))

    assert len(archive) == archive_size(entries)
    files = unpacked(archive)
    expected = ["manifest.json", blob_name(image.raw_config), blob_name(tar), blob_name(b"plain")]
    assert list(files) == expected
    assert files[blob_name(tar)] == tar
    assert json.loads(files["manifest.json"])[0]["Layers"] == expected[2:]


async def test_two_blobs_of_one_tar_are_sent_once() -> None:
    """Two blobs that inflate to the same tar are one file, named twice."""
    tar = b"t" * 10
    image = made_image((b"fast", b"best"))
    inflated = {layer.digest: Inflated(ImageDigest.of(tar), len(tar)) for layer in image.layers}

    files = unpacked(await streamed(archive_entries(image, NAME, inflated=inflated), [tar]))

    assert list(files)[2:] == [blob_name(tar)]
    assert json.loads(files["manifest.json"])[0]["Layers"] == [blob_name(tar)] * 2


@pytest.mark.parametrize("size", [2**33 - 1, 2**33, 2**40])
async def test_sizes_beyond_8_gib_fit(size: int) -> None:
    """A layer of more than 8 GiB has a header of one block that tar readers understand."""
    entry = Entry("blobs/sha256/" + "0" * 64, size, b"")

    header, *_ = [piece async for piece in stream_archive([entry], lambda blob: pytest.fail("no blob"))]

    assert len(header) == 512
    info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (info.size, info.name) == (size, entry.name)
    assert archive_size([entry]) == 512 + -(-size // 512) * 512 + 1024
