"""Inflate layers: gzip and zstd, read from a file, in bounded memory (L3).

What a layer is compressed with is told by its first bytes (RFC 1952, RFC 8878), not by its media type.
"""

from __future__ import annotations

__all__ = ("CHUNK", "Inflated", "InflatedReader", "measure", "open_inflated", "telling_damage")

import hashlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from typing import TYPE_CHECKING, BinaryIO, cast

from isal import igzip, isal_zlib

from aioruntime.assembly.zstd_frames import ZstdFrames
from aioruntime.errors import DigestMismatch, InvalidManifest, one_line
from aioruntime.oci.digest import ImageDigest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.media_types import Compression

CHUNK = 1024 * 1024
# No layer of files inflates 200 times but by large holes; up to 1 GiB even these pass.
_MOST_INFLATION = 200
_ALWAYS_ALLOWED = 2**30


@dataclass(frozen=True, slots=True)
class Inflated:
    """The tar inside a layer blob: its digest (the layer's diff ID) and its size in bytes."""

    diff_id: ImageDigest
    size: int


def compression_of(head: bytes) -> Compression:
    """Tell the compression from the first four bytes."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    # Some writers, such as pzstd, begin with a skippable frame, whose magic has a free last digit.
    skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5
    return "zstd" if skippable or head.startswith(b"\x28\xb5\x2f\xfd") else "none"


def open_inflated(blob: BinaryIO) -> BinaryIO:
    """Return a file that reads the inflated content of *blob*; closing it leaves *blob* open."""
    head = blob.read(4)
    blob.seek(0)
    match compression_of(head):
        case "gzip":
            return cast("BinaryIO", igzip.IGzipFile(fileobj=blob, mode="rb"))  # type: ignore[no-untyped-call]
        case "zstd":
            return cast("BinaryIO", ZstdFrames(blob))
        case _:
            return blob


class InflatedReader:
    """What is inside a layer blob, read from the front: bounded, and hashed on the way.

    Args:
        blob: the open blob.
        layer: which layer it is, for messages and for the bound.
        hashed: whether it is hashed.
    """

    def __init__(self, blob: BinaryIO, layer: LayerSpec, *, hashed: bool = True) -> None:
        self._content = open_inflated(blob)
        self._layer = layer
        self._limit = max(_ALWAYS_ALLOWED, layer.size * _MOST_INFLATION)
        self._hasher = hashlib.sha256() if hashed else None
        self._size = 0

    def read(self, count: int) -> bytes:
        """Return up to *count* bytes more; none at the end.

        Raises:
            InvalidManifest: there is more than a layer of that size can sensibly hold.
        """
        piece = self._content.read(count)
        self._size += len(piece)
        if self._size > self._limit:
            raise InvalidManifest(
                f"layer {self._layer.digest} has {self._layer.size} bytes and inflates to more than "
                f"{self._limit}; it is refused as a decompression bomb"
            )
        if self._hasher is not None:
            self._hasher.update(piece)
        return piece

    def read_all(self) -> Inflated:
        """Read what is left, and tell what all of it was; only if it is hashed."""
        while self.read(CHUNK):
            pass
        assert self._hasher is not None
        return Inflated(ImageDigest.of_hash(self._hasher), self._size)


@contextmanager
def telling_damage(blob: BinaryIO, layer: ImageDigest) -> Iterator[None]:
    """Turn what the decompressors raise into an error that names the layer.

    Args:
        blob: what is inflated within the context.
        layer: the digest that it should have.

    Raises:
        DigestMismatch: *blob* is not what *layer* names.
        InvalidManifest: it is, but it can't be inflated.
    """
    try:
        yield
    except (EOFError, OverflowError, BadGzipFile, isal_zlib.IsalError, zstd.ZstdError) as exc:  # type: ignore[misc]
        actual = _digest_of(blob, layer)
        if actual != layer:
            raise DigestMismatch(
                f"layer {layer} was altered in the store: it is {actual} now",
                expected=layer,
                actual=actual,
            ) from exc
        raise InvalidManifest(
            f"layer {layer} can't be inflated: {one_line(str(exc))}; the image is broken at its source"
        ) from exc


def _digest_of(blob: BinaryIO, layer: ImageDigest) -> str:
    hasher = layer.hasher()
    blob.seek(0)
    while chunk := blob.read(CHUNK):
        hasher.update(chunk)
    return ImageDigest.of_hash(hasher)


def measure(blob: BinaryIO, layer: LayerSpec) -> Inflated:
    """Read *blob* to its end and tell what is inside; blocking, for a worker thread.

    Raises:
        DigestMismatch: it is damaged, not what *layer* names.
        InvalidManifest: it is what *layer* names, but can't be inflated.
    """
    with telling_damage(blob, layer.digest):
        return InflatedReader(blob, layer).read_all()
