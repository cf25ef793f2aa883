"""Where the bytes of an image's layers are while it goes to an engine (L3)."""

from __future__ import annotations

__all__ = ("InflatedLayer", "LayerContent", "WithInflated", "stream_inflated")

from typing import TYPE_CHECKING, Protocol

from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from aioruntime.assembly.inflate import Inflated
    from aioruntime.oci.digest import ImageDigest


class LayerContent(Protocol):
    """Has layers, whole; a store is one."""

    def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes]:
        """Give a layer in pieces; the last one only if the whole has the right hash."""


class InflatedLayer(Protocol):
    """A layer whose archive is in scratch files."""

    @property
    def content(self) -> Inflated:
        """Digest and size of the archive."""

    def pieces(self) -> Iterator[bytes]:
        """Give the archive in pieces; blocking."""


class WithInflated:
    """Layers of which some are in scratch files, and all others elsewhere.

    Args:
        inflated: the former, by their digests.
        others: has the latter.
    """

    def __init__(self, inflated: Mapping[ImageDigest, InflatedLayer], others: LayerContent) -> None:
        self._inflated = inflated
        self._others = others

    def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes]:
        """Give a layer in pieces."""
        inflated = self._inflated.get(digest)
        return self._others.stream(digest, size) if inflated is None else stream_inflated(inflated)


async def stream_inflated(layer: InflatedLayer) -> AsyncGenerator[bytes]:
    """Give a layer's archive in pieces."""
    pieces = layer.pieces()
    while piece := await in_thread(next, pieces, b""):
        yield piece
