"""A layer on its way from the store into an archive: as it lies there, or inflated (L3)."""

from __future__ import annotations

__all__ = ("measure_zstd", "stream_inflated")

from typing import TYPE_CHECKING

from aioruntime.assembly.inflate import (
    CHUNK,
    Inflated,
    InflatedReader,
    compression_of,
    measure,
    telling_damage,
)
from aioruntime.errors import DigestMismatch
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from aioruntime.oci.image import LayerSpec
    from aioruntime.store.store import ImageStore


def measure_zstd(store: ImageStore, layer: LayerSpec) -> Inflated | None:
    """Tell what is inside a layer that is compressed with zstd, None for another; blocking.

    Raises:
        DigestMismatch: its blob was altered.
        InvalidManifest: it can't be inflated.
    """
    with store.open_blob(layer.digest) as blob:
        head = blob.read(4)
        blob.seek(0)
        return measure(blob, layer) if compression_of(head) == "zstd" else None


async def stream_inflated(store: ImageStore, layer: LayerSpec, inflated: Inflated) -> AsyncGenerator[bytes]:
    """Give what is inside a layer, in pieces of 1 MiB; the last one only if the whole has the right hash.

    Raises:
        DigestMismatch: the blob was altered since *inflated* was measured.
    """
    pieces = _inflated_pieces(store, layer, inflated)
    try:
        while piece := await in_thread(next, pieces, b""):
            yield piece
    finally:
        pieces.close()


def _inflated_pieces(store: ImageStore, layer: LayerSpec, inflated: Inflated) -> Generator[bytes]:
    with store.open_blob(layer.digest) as blob, telling_damage(blob, layer.digest):
        content = InflatedReader(blob, layer)
        left = inflated.size
        while left:
            piece = content.read(min(CHUNK, left))
            left -= len(piece)
            if not piece or (not left and (found := content.read_all()) != inflated):
                raise DigestMismatch(
                    f"layer {layer.digest} in the store {store.path} changed while it was read",
                    expected=inflated.diff_id,
                    actual=found.diff_id if piece else "cut short",
                )
            yield piece
