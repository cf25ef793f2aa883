"""Layers inflated for engines that can't read them: every legal form, and every illegal one told."""

from __future__ import annotations

import gzip
import io
import random
import sys
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.inflate import compression_of, measure, open_inflated
from aioruntime.errors import AioRuntimeError, DigestMismatch, InvalidManifest
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from tests.assembly.images import made_image
from tests.store.helpers import blob_path, save

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.engines import Engine

DATA = random.Random(1).randbytes(300_000) + b"text " * 300_000
HALVES = (DATA[:1000], DATA[1000:])
SKIPPABLE = b"\x5a\x2a\x4d\x18\x04\x00\x00\x00skip"
FORMS = {
    "none": DATA,
    "gzip": gzip.compress(DATA, 1),
    "gzip in members": b"".join(gzip.compress(half, 1) for half in HALVES),
    "gzip padded": gzip.compress(DATA, 1) + bytes(512),
    "zstd": zstd.compress(DATA),
    "zstd in frames": b"".join(zstd.compress(half) for half in HALVES),
    "zstd, empty frame": zstd.compress(b"") + zstd.compress(DATA),
    "zstd, skippable last": zstd.compress(DATA) + SKIPPABLE,
    "zstd, skippable first": SKIPPABLE + zstd.compress(DATA),
}


def layer(digest: ImageDigest, size: int) -> LayerSpec:
    return LayerSpec(digest, size, "x")


def windowed(log: int) -> bytes:
    """A frame of unknown size that asks for a window of 2 ** log bytes."""
    parameter = zstd.CompressionParameter
    options = {int(parameter.window_log): log, int(parameter.content_size_flag): 0}
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(DATA) + compressor.flush()


@pytest.mark.parametrize("blob", FORMS.values(), ids=FORMS)
def test_every_form_is_read_whole(blob: bytes) -> None:
    """One member or many, frames that hold nothing, padding: the tar inside has its digest and size."""
    found = measure(io.BytesIO(blob), layer(ImageDigest.of(blob), len(blob)))

    assert (found.diff_id, found.size) == (ImageDigest.of(DATA), len(DATA))


def test_the_blob_stays_open() -> None:
    """Closing the inflated content leaves the blob to who opened it."""
    for blob in (FORMS["gzip"], FORMS["zstd"]):
        file = io.BytesIO(blob)
        with open_inflated(file) as content:
            assert content.read(4) == DATA[:4]
        assert not file.closed


@pytest.mark.parametrize("head", [b"", b"\x1f", b"\x28\xb5\x2f", b"\x2a\x4d\x18", b"./"])
def test_a_short_head_is_no_compression(head: bytes) -> None:
    """What is shorter than a magic number, or has none, is taken as it is."""
    assert compression_of(head) == "none"


def test_the_window_is_bounded() -> None:
    """A zstd window of 128 MiB is read, a larger one refused with the layer named: it is a memory bomb."""
    allowed, bomb = windowed(27), windowed(28)

    assert measure(io.BytesIO(allowed), layer(ImageDigest.of(allowed), len(allowed))).size == len(DATA)
    with pytest.raises(InvalidManifest, match=f"{ImageDigest.of(bomb)}.*memory"):
        measure(io.BytesIO(bomb), layer(ImageDigest.of(bomb), len(bomb)))


BROKEN = {
    "gzip cut in its header": FORMS["gzip"][:6],
    "gzip cut": FORMS["gzip"][:-9],
    "gzip with another checksum": FORMS["gzip"][:-8] + b"xxxx" + FORMS["gzip"][-4:],
    "gzip then something else": FORMS["gzip"] + b"not a member",
    "gzip of another method": b"\x1f\x8b\x07" + FORMS["gzip"][3:],
    "gzip of no deflate block": FORMS["gzip"][:10] + b"\xff" * 100,
    "zstd cut to its magic": FORMS["zstd"][:4],
    "zstd cut": FORMS["zstd"][:-9],
    "zstd then something else": FORMS["zstd"] + b"not a frame",
    "zstd of a bad header": FORMS["zstd"][:4] + b"\xff" * 100,
}


@pytest.mark.parametrize("blob", BROKEN.values(), ids=BROKEN)
def test_a_broken_layer_is_named(blob: bytes) -> None:
    """A layer that its digest names but nobody can inflate is an `InvalidManifest` telling which it is."""
    digest = ImageDigest.of(blob)
    with pytest.raises(InvalidManifest, match=digest):
        measure(io.BytesIO(blob), layer(digest, len(blob)))


@pytest.mark.parametrize("blob", BROKEN.values(), ids=BROKEN)
def test_a_rotted_layer_is_named(blob: bytes) -> None:
    """A layer that is no more what its digest names is a `DigestMismatch`, so that it is fetched again."""
    expected = ImageDigest.of(b"what was stored")
    with pytest.raises(DigestMismatch, match=expected) as caught:
        measure(io.BytesIO(blob), layer(expected, len(blob)))

    assert caught.value.actual == ImageDigest.of(blob)


@pytest.mark.parametrize("form", ["gzip in members", "zstd in frames"])
def test_no_damage_escapes_untyped(form: str) -> None:
    """Whatever bytes are overwritten, the layer is read, or refused with an error of this library."""
    seed = random.Random(2)
    small = " ".join(str(seed.randrange(1000)) for _ in range(5000)).encode()
    blob = (gzip.compress if form.startswith("gzip") else zstd.compress)(small) * 2
    refused = 0
    for _ in range(300):
        damaged = bytearray(blob)
        for _ in range(seed.randint(1, 4)):
            damaged[seed.randrange(4, len(blob))] = seed.randrange(256)
        try:
            measure(io.BytesIO(damaged), layer(ImageDigest.of(b""), len(damaged)))
        except AioRuntimeError:
            refused += 1

    assert refused > 5


@pytest.mark.parametrize("rotten", [False, True])
async def test_docker_is_not_sent_a_broken_layer(docker_engine: Engine, tmp_path: Path, rotten: bool) -> None:
    """A zstd layer that can't be inflated fails the load by name; only one that rotted here is dropped."""
    good = zstd.compress(b"layer" * 1000)
    broken = good[:-5]
    stored = good if rotten else broken
    image = made_image([stored], diff_ids=[ImageDigest.of(b"layer" * 1000)])
    [layer] = image.layers
    async with ar.connect(docker_engine.url, store=tmp_path / "store") as runtime:
        assert not runtime._client.capabilities.reads_zstd
        await save(runtime.store, stored, layer.digest)
        await keep_image(runtime.store, image)
        if rotten:
            path = blob_path(runtime.store, layer.digest)
            path.chmod(0o600)
            path.write_bytes(good[:10] + bytes(len(good) - 10))
        with pytest.raises(DigestMismatch if rotten else InvalidManifest, match=layer.digest):
            await runtime.assemble_image(image.reference, image.layers)

        assert await runtime.store.has(layer.digest) is not rotten
