"""Where the bytes of an image's layers are while it goes to an engine (L3)."""

from __future__ import annotations

__all__ = ("LayerContent", "WithUnpacked", "stream_unpacked")

from typing import TYPE_CHECKING, Protocol

from aioruntime.assembly.inflate import CHUNK
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from aioruntime.assembly.unpack import UnpackedLayer
    from aioruntime.oci.digest import ImageDigest


class LayerContent(Protocol):
    """Has layers, whole; a store is one."""

    def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes]:
        """Give a layer in pieces; the last one only if the whole has the right hash."""


class WithUnpacked:
    """Layers of which some are in scratch files, and all others elsewhere.

    Args:
        unpacked: the former, by their digests.
        others: has the latter.
    """

    def __init__(self, unpacked: Mapping[ImageDigest, UnpackedLayer], others: LayerContent) -> None:
        self._unpacked = unpacked
        self._others = others

    def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes]:
        """Give a layer in pieces."""
        unpacked = self._unpacked.get(digest)
        return self._others.stream(digest, size) if unpacked is None else stream_unpacked(unpacked)


async def stream_unpacked(unpacked: UnpackedLayer) -> AsyncGenerator[bytes]:
    """Give a layer from its scratch file, in pieces of 1 MiB."""
    offset = 0
    while piece := await in_thread(unpacked.read, offset, CHUNK):
        offset += len(piece)
        yield piece
