"""Keep the documents of pulled images in the store, and find them again without a network (L3)."""

from __future__ import annotations

__all__ = ("find_image", "keep_image")

from typing import TYPE_CHECKING

from aioruntime.errors import InvalidReference, StoreError
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor, Manifest, decode_config, decode_document
from aioruntime.oci.image import ResolvedImage, layers_of
from aioruntime.oci.platform import matching_platforms, with_default_variant

if TYPE_CHECKING:
    from aioruntime.oci.platform import Platform
    from aioruntime.oci.reference import OciRef
    from aioruntime.store.store import ImageStore

# The index that a reference named, kept on the descriptor of the manifest chosen from it.
_INDEX = "aioruntime.index.digest"


async def keep_image(store: ImageStore, image: ResolvedImage) -> None:
    """Keep the manifest and config of *image*, and list it under its reference.

    The reference is written last, so that it never names what is not there.
    """
    await store.put(image.raw_config, image.manifest.config.digest)
    await store.put(image.raw_manifest, image.manifest_digest)
    descriptor = Descriptor(
        media_type=image.manifest.media_type or media_types.OCI_MANIFEST,
        digest=image.manifest_digest,
        size=len(image.raw_manifest),
        annotations={_INDEX: str(image.digest)} if image.digest != image.manifest_digest else None,
    )
    await store.set_reference(image.reference.canonical, descriptor)


async def find_image(store: ImageStore, reference: OciRef, platform: Platform | None) -> ResolvedImage | None:
    """Return the image that the store lists for *reference*; None if it can't tell.

    A pinned digest is found under any reference; a tag only under the very reference it was pulled by.
    Without a *platform*, that it is made for any will do.
    """
    for name, descriptor in (await store.references()).items():
        digests = _registry_digests(descriptor)
        pinned = reference.pinned
        if pinned in digests if pinned else name == reference.canonical:
            image = await _read(store, reference, descriptor, pinned or digests[-1])
            if image is not None and _runs_on(image, platform):
                return image
    return None


def _runs_on(image: ResolvedImage, platform: Platform | None) -> bool:
    return platform is None or with_default_variant(image.platform) in matching_platforms(platform)


def _registry_digests(descriptor: Descriptor) -> tuple[ImageDigest, ...]:
    index = (descriptor.annotations or {}).get(_INDEX)
    try:
        return (descriptor.digest, ImageDigest(index)) if index else (descriptor.digest,)
    except InvalidReference:
        return (descriptor.digest,)


async def _read(
    store: ImageStore, reference: OciRef, descriptor: Descriptor, digest: ImageDigest
) -> ResolvedImage | None:
    source = f"{reference} in the store {store.path}"
    try:
        raw_manifest = await store.read(descriptor.digest)
        manifest = decode_document(raw_manifest, descriptor.media_type, source)
        if not isinstance(manifest, Manifest):
            return None
        raw_config = await store.read(manifest.config.digest)
    except StoreError:
        return None  # lost, damaged or not to be read here; the registry has it
    return ResolvedImage(
        reference=reference,
        digest=digest,
        manifest=manifest,
        config=decode_config(raw_config, manifest, source),
        layers=layers_of(manifest),
        manifest_digest=descriptor.digest,
        raw_manifest=raw_manifest,
        raw_config=raw_config,
    )
