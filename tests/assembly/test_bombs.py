"""Layers made to take all memory, all disk or all day: refused in a moment, or as harmless as they look."""

from __future__ import annotations

import io
import struct
import sys
import tarfile
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from isal import igzip

import aioruntime as ar
from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.inflate import measure
from aioruntime.errors import AioRuntimeError, InvalidManifest
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from tests.assembly.images import made_image
from tests.assembly.stacks import entry, packed
from tests.assembly.test_merge import merged
from tests.store.helpers import save

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engines import Engine

MIB = 2**20
GIB = 2**30
MANY = 10**6
SECONDS = 15  # of the processor; it takes 3 at most where nobody else uses the machine
MEMORY = 64 * MIB


def endless_member() -> bytes:
    """2.5 GiB of one gzip member that goes on after that."""
    packer = zlib.compressobj(9, wbits=31)
    start = packer.compress(bytes(64 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return start + (packer.compress(bytes(64 * MIB)) + packer.flush(zlib.Z_SYNC_FLUSH)) * 39


def zstd_zeros() -> bytes:
    """4 GiB of zeros."""
    packer = zstd.ZstdCompressor()
    return b"".join(packer.compress(bytes(64 * MIB)) for _ in range(64)) + packer.flush()


def wide_window() -> bytes:
    """A frame that asks for a window of 2 GiB (RFC 8878, 3.1.1.1.2), with one block of one byte."""
    return b"\x28\xb5\x2f\xfd" + bytes([0, 21 << 3]) + b"\x09\x00\x00x"


def named(kind: bytes, size: int = 200 * MIB) -> bytes:
    """An extension header of *size* bytes, all there."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return igzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + igzip.compress(bytes(MIB)) * (size // MIB)


def sized(size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A file that says to have *size* bytes; of a sparse one (GNU), all but 512 of them are holes."""
    info = tarfile.TarInfo("huge")
    info.type, info.size = kind, 512 if kind == tarfile.GNUTYPE_SPARSE else size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if kind == tarfile.GNUTYPE_SPARSE:
        block[386:410] = b"%011o\0%011o\0" % (0, 512)
        block[483:495] = struct.pack(">B3xQ", 0x80, size)
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1536)


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip, 1000 to 1": lambda: igzip.compress(bytes(64 * MIB)) * 40,
    "gzip, a member without end": endless_member,
    "gzip, a name of 200 MB": lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (200 * MIB),
    "gzip, 10^6 members": lambda: zlib.compress(b"x", wbits=31) * MANY,
    "zstd, 30000 to 1": zstd_zeros,
    "zstd, a window of 2 GiB": wide_window,
    "zstd, 10^6 frames": lambda: zstd.compress(b"x") * MANY,
    "zstd, 10^6 skippable frames": lambda: b"\x5a\x2a\x4d\x18\x00\x00\x00\x00" * MANY,
    "tar, pax records of 200 MB": lambda: named(tarfile.XHDTYPE),
    "tar, a name of 200 MB": lambda: named(tarfile.GNUTYPE_LONGNAME),
    "tar, a file of 8 EiB": lambda: sized(2**63 - 1),
    "tar, a sparse file of 8 EiB": lambda: sized(2**63 - 1, tarfile.GNUTYPE_SPARSE),
}
ZSTD = [name for name in BOMBS if name.startswith("zstd")]


@pytest.fixture(scope="module", params=BOMBS)
def bomb(request: pytest.FixtureRequest) -> bytes:
    """Each of the bombs."""
    return BOMBS[request.param]()


def peak() -> int:
    """The most bytes of memory that this process had since the last `bounded`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def bounded() -> Iterator[None]:
    """See to it that what is done within takes little memory, and little time of the processor."""
    Path("/proc/self/clear_refs").write_text("5")
    before, started = peak(), time.process_time()
    yield
    assert peak() - before <= MEMORY
    assert time.process_time() - started <= SECONDS


def test_a_bomb_is_measured(bomb: bytes) -> None:
    """THREATS I1, I5, T14: inflating ends, or is given up by name, within 5 s and 64 MiB."""
    blob, layer = io.BytesIO(bomb), LayerSpec(ImageDigest.of(bomb), len(bomb), "x")
    told, size = str(layer.digest), 0
    with bounded():
        try:
            size = measure(blob, layer).size
        except InvalidManifest as exc:
            told = str(exc)

    assert layer.digest in told
    assert size < GIB


async def test_a_bomb_is_merged(store: ar.ImageStore, bomb: bytes) -> None:
    """THREATS I1, I5, T14: so with merging, where the archive inside is read too."""
    base = packed([entry("base")])
    digest = ImageDigest.of(bomb)
    await save(store, bomb, digest)
    told, archive = str(digest), b""
    with bounded():
        try:
            archive = await merged(store, [base, bomb, base], 1)
        except AioRuntimeError as exc:
            told = str(exc)

    assert digest in told
    assert len(archive) < MIB


@pytest.mark.parametrize("name", ZSTD)
async def test_a_bomb_is_inflated_for_docker(docker_engine: Engine, store: ar.ImageStore, name: str) -> None:
    """THREATS I1, T14: where layers are inflated for an engine that can't, a bomb never reaches it."""
    data = BOMBS[name]()
    image = made_image([data])
    async with ar.connect(docker_engine.url, store=store) as runtime:
        await save(store, data, image.layers[0].digest)
        await keep_image(store, image)
        with bounded(), pytest.raises(InvalidManifest, match=image.layers[0].digest):
            await runtime.assemble_image(image.reference, image.layers)
        with pytest.raises(ar.ImageNotFound):
            await runtime.inspect(image.reference)


@pytest.mark.parametrize(("size", "accepted"), [(1, False), (9, False), (40, True)])
def test_small_frames_may_be_many(size: int, accepted: bool) -> None:
    """THREATS I1: 100,000 zstd frames are read if they hold something, as those of a `zstd:chunked` layer."""
    data = zstd.compress(bytes(range(size))) * 100_000
    blob, layer = io.BytesIO(data), LayerSpec(ImageDigest.of(data), len(data), "x")
    if accepted:
        assert measure(blob, layer).size == size * 100_000
    else:
        with pytest.raises(InvalidManifest, match="frames"):
            measure(blob, layer)
