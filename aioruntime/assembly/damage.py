"""Blobs that rotted in the store: put aside when they stand in the way, and fetched again (L3)."""

from __future__ import annotations

__all__ = ("discard_damaged",)

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioruntime.oci.image import LayerSpec
    from aioruntime.store.store import ImageStore


async def discard_damaged(store: ImageStore, layers: Iterable[LayerSpec]) -> list[LayerSpec]:
    """Put aside those of *layers* that are damaged in the store, and list them: each digest once."""
    distinct = {layer.digest: layer for layer in layers}
    return [layer for layer in distinct.values() if await store.discard_damaged(layer.digest)]
