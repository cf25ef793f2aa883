"""Push an image that is in the store (L4)."""

from __future__ import annotations

__all__ = ("push",)

from dataclasses import replace
from typing import TYPE_CHECKING

from aioruntime.assembly.damage import discard_damaged
from aioruntime.assembly.mounts import mount_sources
from aioruntime.errors import DigestMismatch, InvalidSpec
from aioruntime.oci import media_types
from aioruntime.oci.image import ImageRef, LayerSpec
from aioruntime.oci.reference import OciRef
from aioruntime.runtime.kept import kept_image, reference_of

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.progress import ProgressReporter
    from aioruntime.runtime.locate import ImageTarget
    from aioruntime.runtime.session import Session


async def push(
    session: Session, target: ImageTarget, to: OciRef | None, progress: ProgressReporter
) -> ImageDigest:
    """Do what `ContainerRuntime.push` promises."""
    if to is None and isinstance(target, str) and target.startswith(("sha256:", "sha512:")):
        raise InvalidSpec(f"{target} tells no registry to push to; give to=")
    image = await kept_image(session, target)
    if to is None:
        name = OciRef.parse(target.reference) if isinstance(target, ImageRef) else reference_of(target)
        # A digest may be that of an index, of which the store has only this manifest.
        only_pinned = name.digest is not None and name.tag is None
        to = replace(name, digest=image.manifest_digest if only_pinned else None)
    config = image.manifest.config
    try:
        async with session.using(image):
            return await session.registry.push(
                to,
                image.raw_manifest,
                image.manifest.media_type or media_types.OCI_MANIFEST,
                [*image.layers, LayerSpec(config.digest, config.size, config.media_type)],
                session.store,
                mounts=await mount_sources(session.store, to),
                progress=progress,
            )
    except DigestMismatch:
        # A blob may have rotted on disk: without it, the next pull fetches it again.
        await discard_damaged(session.store, image.layers)
        raise
