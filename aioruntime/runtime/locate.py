"""Find an image in the engine by the names users have for it: digests to pin, IDs, references (L4)."""

from __future__ import annotations

__all__ = ("ImageTarget", "Locator")

from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from aioruntime.assembly.catalog import find_image
from aioruntime.assembly.image_archive import expected_id
from aioruntime.assembly.load import engine_name
from aioruntime.engine.containers import list_by_image
from aioruntime.engine.image_list import ListedImage, find_by_digest, list_images
from aioruntime.engine.images import EngineImage, inspect_image, remove_image, tag_image
from aioruntime.errors import EngineError, ImageNotFound
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import ImageMetadata, ImageRef
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef, image_named

if TYPE_CHECKING:
    from aioruntime.assembly.memory import EngineMemory
    from aioruntime.assembly.plan import HeldImage
    from aioruntime.engine.client import EngineClient
    from aioruntime.store.store import ImageStore

ImageTarget: TypeAlias = ImageDigest | ImageRef | OciRef | str


class Locator:
    """Finds images in one engine.

    An engine's ID of an image need not be the digest that a registry knows it by. What was loaded is
    remembered, and never believed before the engine was asked.
    """

    def __init__(self, client: EngineClient, memory: EngineMemory, store: ImageStore) -> None:
        self._client = client
        self._memory = memory
        self._store = store
        self._noted: dict[str, ImageDigest] = {}

    def note(self, reference: OciRef, image_id: ImageDigest) -> None:
        """Note what *reference* named when it was pulled: that is what it means from now on."""
        self._noted[reference.canonical] = image_id

    async def locate(self, target: ImageTarget) -> tuple[EngineImage, ImageDigest]:
        """Return the image, and the digest to pin it by.

        Raises:
            ImageNotFound: the engine does not have it.
        """
        target = _parsed(target)
        if isinstance(target, OciRef) and target.pinned is None:
            held = await self._by_tag(target)
            return held, await self._pin(held)
        digest = target if isinstance(target, ImageDigest) else target.pinned
        assert digest is not None
        try:
            return await self._by_digest(digest), digest
        except ImageNotFound:
            raise ImageNotFound(f"the engine has no image {target}; pull it first", status=404) from None

    async def _by_tag(self, reference: OciRef) -> EngineImage:
        noted = self._noted.get(reference.canonical)
        if noted is not None:
            try:
                return await inspect_image(self._client, noted)
            except ImageNotFound:
                del self._noted[reference.canonical]
        try:
            return await inspect_image(self._client, engine_name(reference))
        except ImageNotFound:
            raise ImageNotFound(f"the engine has no image {reference}; pull it first", status=404) from None

    async def _by_digest(self, digest: ImageDigest) -> EngineImage:
        platform = self._client.capabilities.platform
        while (remembered := await self._memory.find(digest, platform)) is not None:
            try:
                return await inspect_image(self._client, remembered.image_id)
            except ImageNotFound:
                await self._memory.forget(remembered.image_id)
        # What was forgotten may be back, brought by somebody else: the store tells the ID that it has then.
        kept = await find_image(self._store, OciRef("localhost", "any", digest=digest), platform)
        own = (expected_id(kept, self._client.capabilities),) if kept is not None else ()
        for image_id in (*own, digest):
            with suppress(ImageNotFound):
                return await inspect_image(self._client, image_id)
        return await find_by_digest(self._client, digest)

    async def _pin(self, held: EngineImage) -> ImageDigest:
        remembered = await self._memory.find(held.id, self._client.capabilities.platform)
        if remembered is not None:
            return remembered.digests[0]
        return _told_digest(held)

    async def describe(self, target: ImageTarget) -> ImageMetadata:
        """Tell what the engine knows of an image.

        Raises:
            ImageNotFound: the engine does not have it.
        """
        held, digest = await self.locate(target)
        remembered = await self._memory.find(held.id, self._client.capabilities.platform)
        if remembered is None:
            digest = _told_digest(held) if digest == held.id else digest
        elif digest not in remembered.digests:
            digest = remembered.digests[0]
        return ImageMetadata(digest, held.size, held.labels, held.id, held.references, held.platform)

    async def images(self) -> list[ImageMetadata]:
        """Tell of each remembered image that the engine still holds; forget the others."""
        remembered = await self._memory.recall()
        if not remembered:
            return []
        listed = {image.id: image for image in await list_images(self._client)}
        if gone := [image.image_id for image in remembered if image.image_id not in listed]:
            await self._memory.forget(*gone)
        return [_told(image, listed[image.image_id]) for image in remembered if image.image_id in listed]

    async def tag(self, target: ImageTarget, name: OciRef) -> ImageRef:
        """Give an image the further name *name*, which means that image from now on.

        Raises:
            ImageNotFound: the engine does not have it.
            EngineError: it refused.
        """
        image = await self.describe(target)
        assert image.id is not None
        reference = engine_name(name)
        await tag_image(self._client, image.id, reference)
        self.note(name, image.id)
        return ImageRef(reference, image.digest)

    async def remove(self, target: ImageTarget) -> None:
        """Remove an image, or only the name *target* if it has others.

        Raises:
            ImageNotFound: the engine does not have it.
            EngineError: it refused.
        """
        target = _parsed(target)
        held, _ = await self.locate(target)
        name = engine_name(target) if isinstance(target, OciRef) and target.pinned is None else None
        # Another client may have given the name to another image: that one is not ours to remove.
        by_name = name is not None and _is_named(held, name)
        whole = name is None or not (by_name or held.references)
        if whole:
            await self._check_unused(held)
        if whole or by_name:
            await remove_image(self._client, name if name and by_name else held.id, force=whole)
        if isinstance(target, OciRef):
            self._noted.pop(target.canonical, None)
        try:
            await inspect_image(self._client, held.id)  # Podman keeps one that it pulled by its digest's name
        except ImageNotFound:
            await self._memory.forget(held.id)

    async def _check_unused(self, held: EngineImage) -> None:
        """Refuse to remove an image that containers use, where the engine would remove them too."""
        if self._client.capabilities.kind != "podman":
            return
        if users := await list_by_image(self._client, held.id):
            raise EngineError(
                f"image {held.id} is not removed: {len(users)} containers use it, the first is {users[0]}",
                status=409,
            )

    async def is_available(self, reference: ImageRef | OciRef | str, digest: str) -> bool:
        """Tell whether the engine has just the image that *digest* names."""
        if isinstance(reference, str):
            OciRef.parse(reference)  # a typing error shall not look like an absent image
        try:
            await self.locate(ImageDigest(digest))
        except ImageNotFound:
            return False
        return True


def _told(image: HeldImage, listed: ListedImage) -> ImageMetadata:
    platform = Platform.parse(image.platform) if image.platform else None
    return ImageMetadata(image.digests[0], listed.size, listed.labels, listed.id, listed.references, platform)


def _told_digest(held: EngineImage) -> ImageDigest:
    return held.repo_digests[0] if held.repo_digests else held.id


def _is_named(held: EngineImage, name: str) -> bool:
    return name in {OciRef.parse(reference).canonical for reference in held.references}


def _parsed(target: ImageTarget) -> ImageDigest | OciRef:
    if isinstance(target, ImageRef):
        return target.digest
    if isinstance(target, (ImageDigest, OciRef)):
        return target
    return image_named(target)
