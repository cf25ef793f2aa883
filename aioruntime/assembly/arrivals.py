"""Layers as they arrive in the store, for an archive that is written meanwhile (L3)."""

from __future__ import annotations

__all__ = ("Arrivals",)

from contextlib import aclosing
from typing import TYPE_CHECKING, Self

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import LayerSpec


class Arrivals:
    """Tells in which order layers come to be in the store, to any number of listeners.

    Whoever fetches calls `arrived` for each layer; whoever listens waits until then.
    """

    def __init__(self) -> None:
        self._order: list[ImageDigest] = []
        self._news = anyio.Event()

    @classmethod
    def of(cls, layers: Iterable[LayerSpec]) -> Self:
        """Make the arrivals of layers that all are there."""
        arrivals = cls()
        arrivals._order = list(dict.fromkeys(layer.digest for layer in layers))
        return arrivals

    def arrived(self, digest: ImageDigest) -> None:
        """Note that a layer is in the store."""
        self._order.append(digest)
        self._news.set()
        self._news = anyio.Event()

    async def ordered(self, layers: Iterable[LayerSpec]) -> AsyncGenerator[LayerSpec]:
        """Give each distinct one of *layers* as soon as it is in the store."""
        awaited = {layer.digest: layer for layer in layers}
        seen = 0
        while awaited:
            while seen < len(self._order):
                layer = awaited.pop(self._order[seen], None)
                seen += 1
                if layer is not None:
                    yield layer
            if awaited:
                await self._news.wait()

    async def all_of(self, layers: Iterable[LayerSpec]) -> None:
        """Wait until all of *layers* are in the store."""
        async with aclosing(self.ordered(layers)) as arriving:
            async for _ in arriving:
                pass
