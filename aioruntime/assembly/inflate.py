"""Inflate layers: gzip and zstd, read from a file, in bounded memory (L3).

What a layer is compressed with is told by its first bytes (RFC 1952, RFC 8878), not by its media type.
"""

from __future__ import annotations

__all__ = ("Inflated", "measure", "open_inflated")

import hashlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from isal import igzip

from aioruntime.oci.digest import ImageDigest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
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
    return "zstd" if head.startswith(b"\x28\xb5\x2f\xfd") else "none"


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


def measure(blob: BinaryIO) -> Inflated:
    """Read *blob* to its end and tell what is inside; blocking, for a worker thread."""
    digest = hashlib.sha256()
    size = 0
    content = open_inflated(blob)
    while chunk := content.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return Inflated(ImageDigest(f"sha256:{digest.hexdigest()}"), size)
