"""Manifests and indexes as they were served, or as they are known already (L2)."""

from __future__ import annotations

__all__ = ("Document", "KnownDocuments", "known_document", "named_document")

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aioruntime.errors import StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.registry.verify import check_size

if TYPE_CHECKING:
    from aioruntime.oci.documents import Descriptor
    from aioruntime.oci.reference import OciRef


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest or an index as it was served.

    Args:
        raw: its bytes, which *digest* is the hash of.
        media_type: what the registry says that it is; None if it says nothing of use.
        digest: what it is addressed by.
        host: who served it.
    """

    raw: bytes = field(repr=False)
    media_type: str | None
    digest: ImageDigest
    host: str


class KnownDocuments(Protocol):
    """Where documents may already be; what a digest names never changes."""

    async def read(self, digest: ImageDigest) -> bytes:
        """Return what *digest* names, its hash checked; a `StoreError` tells that it is not there."""


async def known_document(
    image: OciRef, digest: ImageDigest | None, documents: KnownDocuments | None, size: int | None = None
) -> Document | None:
    """Return what *documents* know under *digest*; None if the registry has to be asked.

    Raises:
        SizeMismatch: it has not *size* bytes, so whoever declared that is wrong.
    """
    if digest is None or documents is None:
        return None
    try:
        raw = await documents.read(digest)
    except StoreError:
        return None  # not there, or damaged there: the registry has it
    check_size(raw, size, f"{image} ({digest})", "what is already known")
    return Document(raw, None, digest, image.api_host)


async def named_document(
    image: OciRef, descriptor: Descriptor, documents: KnownDocuments | None
) -> Document | None:
    """Return what *descriptor* names, from its own ``data`` or as `known_document` does.

    Raises:
        SizeMismatch: what is known has another size than it says.
    """
    if descriptor.data is not None:  # checked against digest and size when it was decoded
        return Document(descriptor.data, None, descriptor.digest, image.api_host)
    return await known_document(image, descriptor.digest, documents, descriptor.size)
