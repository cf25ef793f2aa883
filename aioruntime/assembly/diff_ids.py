"""Prove which tar each layer blob in the store holds, once for each blob (L3)."""

from __future__ import annotations

__all__ = ("DiffIds",)

from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import msgspec

from aioruntime.assembly.inflate import measure
from aioruntime.assembly.unpack import false_claim
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioruntime.assembly.arrivals import Arrivals
    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.store.store import ImageStore

_NOTE = "diff-ids"
# Older proofs are forgotten; to forget costs inflating a layer again.
_LIMIT = 4000
_AT_ONCE = 2


class DiffIds:
    """The diff IDs of the blobs in one store: what came out when each was inflated.

    Args:
        store: has the layers, or will; the results are noted in it.
    """

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def check(self, image: ResolvedImage, positions: Sequence[int], arrivals: Arrivals) -> None:
        """Make sure that layers of *image* hold what its config claims.

        Args:
            image: whose config is not believed.
            positions: of the layers to look at.
            arrivals: tells when each layer is in the store.

        Raises:
            DigestMismatch: one holds something else, or its blob is damaged.
            InvalidManifest: one can't be inflated.
        """
        found = await self.prove([image.layers[position] for position in positions], arrivals)
        for position in positions:
            holds = found[image.layers[position].digest]
            if holds != image.config.rootfs.diff_ids[position]:
                raise false_claim(image, position, holds)

    async def prove(self, layers: Iterable[LayerSpec], arrivals: Arrivals) -> dict[str, str]:
        """Tell each layer's diff ID, by the digest of its blob; unknown ones are inflated as they arrive.

        Raises:
            DigestMismatch: a blob is damaged.
            InvalidManifest: a layer can't be inflated.
        """
        known = _decode(await self._store.read_note(_NOTE))
        unknown = [layer for layer in layers if layer.digest not in known]
        if not unknown:
            return known
        found: dict[str, str] = {}
        limiter = anyio.CapacityLimiter(_AT_ONCE)

        async def inflate(layer: LayerSpec) -> None:
            found[str(layer.digest)] = await in_thread(self._measure, layer, limiter=limiter)

        async with task_group() as group, aclosing(arrivals.ordered(unknown)) as arriving:
            async for layer in arriving:
                group.start_soon(inflate, layer)

        def change(raw: bytes | None) -> bytes:
            proven = {**_decode(raw), **found}
            return msgspec.json.encode(dict(list(proven.items())[-_LIMIT:]))

        await self._store.update_note(_NOTE, change)
        return known | found

    def _measure(self, layer: LayerSpec) -> str:
        with self._store.open_blob(layer.digest) as blob:
            return str(measure(blob, layer).diff_id)


def _decode(raw: bytes | None) -> dict[str, str]:
    try:
        return msgspec.json.decode(raw or b"{}", type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}  # of another version, or damaged: to know nothing is always safe
