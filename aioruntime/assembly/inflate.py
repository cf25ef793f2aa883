"""Inflate layers: gzip and zstd, read from a file, in bounded memory (L3).

What a layer is compressed with is told by its first bytes (RFC 1952, RFC 8878), not by its media type.
"""

from __future__ import annotations

__all__ = ("Inflated", "measure", "open_inflated", "telling_damage")

import hashlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from typing import TYPE_CHECKING, BinaryIO, cast

from isal import igzip, isal_zlib

from aioruntime.errors import DigestMismatch, InvalidManifest, one_line
from aioruntime.oci.digest import ImageDigest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.oci.media_types import Compression

CHUNK = 1024 * 1024
# 128 MiB, what the zstd program itself accepts unasked; a larger window is a memory bomb.
_WINDOW_LOG_MAX = 27


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
            options = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG_MAX}
            return cast("BinaryIO", zstd.ZstdFile(blob, mode="rb", options=options))
        case _:
            return blob


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
    except (EOFError, BadGzipFile, isal_zlib.IsalError, zstd.ZstdError) as exc:  # type: ignore[misc]
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
    return f"{layer.algorithm}:{hasher.hexdigest()}"


def measure(blob: BinaryIO, layer: ImageDigest) -> Inflated:
    """Read *blob* to its end and tell what is inside; blocking, for a worker thread.

    Raises:
        DigestMismatch: it is damaged, not what *layer* names.
        InvalidManifest: it is what *layer* names, but can't be inflated.
    """
    digest = hashlib.sha256()
    size = 0
    with telling_damage(blob, layer):
        content = open_inflated(blob)
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Inflated(ImageDigest(f"sha256:{digest.hexdigest()}"), size)
