"""What assembling needs of a registry client (L3)."""

from __future__ import annotations

__all__ = ("BlobSource", "BlobStream")

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from contextlib import AbstractAsyncContextManager

    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.reference import OciRef
    from aioruntime.registry.mirrors import Place


class BlobStream(Protocol):
    """The body of a blob as it arrives."""

    host: str
    offset: int
    end: int
    public: bool
    answers: int
    repeated: int
    place: Place | None

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class BlobSource(Protocol):
    """Where layers come from."""

    def blob(
        self,
        image: OciRef | None,
        layer: LayerSpec,
        *,
        offset: int = 0,
        length: int | None = None,
        avoiding: Collection[Place] = (),
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Open the blob's body, or a range of it if the registry can, but not from what is *avoiding*."""

    async def has_blob(self, image: OciRef, layer: LayerSpec) -> bool:
        """Tell whether the image's repository says that it serves the blob."""
