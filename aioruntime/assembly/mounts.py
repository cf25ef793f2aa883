"""Find out which repositories of a registry are likely to have layers that are in the store (L3)."""

from __future__ import annotations

__all__ = ("mount_sources",)

from typing import TYPE_CHECKING

from aioruntime.errors import InvalidManifest, InvalidReference, StoreError
from aioruntime.oci.documents import Manifest, decode_document
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.store.store import ImageStore


async def mount_sources(store: ImageStore, destination: OciRef) -> dict[ImageDigest, str]:
    """Return where a registry may take layers from that the store knows from it.

    A wrong answer costs nothing: the registry begins an upload then, as it has to anyway.

    Args:
        store: whose images are looked at.
        destination: where the layers shall go; other repositories of that registry count.

    Returns:
        Repositories, as they stand in request paths, by the digests of layers.

    Raises:
        StoreError: the store's index can't be read.
    """
    found: dict[ImageDigest, str] = {}
    for name, descriptor in (await store.references()).items():
        try:
            reference = OciRef.parse(name)
            if reference.api_host != destination.api_host or reference.full_name == destination.full_name:
                continue
            manifest = decode_document(await store.read(descriptor.digest), descriptor.media_type, name)
        except (InvalidReference, InvalidManifest, StoreError):
            continue  # another tool's, or damaged
        if isinstance(manifest, Manifest):
            for layer in (manifest.config, *manifest.layers):
                found.setdefault(layer.digest, reference.api_repository)
    return found
