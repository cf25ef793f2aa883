"""Find images that are in the store with all their layers (L4)."""

from __future__ import annotations

__all__ = ("check_there", "kept_image", "reference_of", "shown")

from dataclasses import replace
from typing import TYPE_CHECKING

from aioruntime.assembly.catalog import find_image
from aioruntime.errors import LayersMissing
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import ImageRef
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.runtime.locate import ImageTarget
    from aioruntime.runtime.session import Session
    from aioruntime.store.store import ImageStore


async def kept_image(session: Session, target: ImageTarget) -> ResolvedImage:
    """Return an image that is in the store, one for the engine's own platform if there is.

    Raises:
        LayersMissing: it is not there, or not all of its layers are.
    """
    store, reference = session.store, reference_of(target)
    image = await find_image(store, reference, session.client.capabilities.platform)
    image = image or await find_image(store, reference, None)
    if image is None:
        raise LayersMissing(
            f"{shown(target)} is not in the store {store.path}; pull it by layers first",
            digests=[reference.pinned] if reference.pinned else [],
        )
    await check_there(store, image.layers, shown(target), "pull")
    return image


async def check_there(store: ImageStore, layers: Sequence[LayerSpec], what: str, remedy: str) -> None:
    """Check that the layers of *what* are in the store.

    Raises:
        LayersMissing: one is not; the message tells to call *remedy*.
    """
    if missing := await store.missing(layers):
        raise LayersMissing(
            f"{what}: {len(missing)} of {len(layers)} layers are not in the store {store.path}, the first is "
            f"{missing[0].digest}; call {remedy} first",
            digests=[layer.digest for layer in missing],
        )


def reference_of(target: ImageTarget) -> OciRef:
    """Return a reference by which the store knows *target*."""
    if isinstance(target, ImageRef):
        return replace(OciRef.parse(target.reference), digest=target.digest)
    if isinstance(target, OciRef):
        return target
    if target.startswith(("sha256:", "sha512:")):
        return OciRef("localhost", "image", digest=ImageDigest(target))  # a digest is found under any name
    return OciRef.parse(target)


def shown(target: ImageTarget) -> str:
    """Return *target* as its user calls it."""
    return target.reference if isinstance(target, ImageRef) else str(target)
