"""The list of the images in an engine, and what can be found in it (L2)."""

from __future__ import annotations

__all__ = ("ListedImage", "find_by_digest", "list_images")

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from aioruntime.engine.images import digests_in, image_id, inspect_image
from aioruntime.errors import EngineError, ImageNotFound, one_line
from aioruntime.oci.digest import ImageDigest

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.images import EngineImage


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as an engine lists it.

    Attributes:
        id: the engine's image ID.
        size: bytes on the engine's disk; None if it does not say.
        labels: the image's labels.
        references: names with tags.
        digests: manifest digests that the engine knows it by.
    """

    id: ImageDigest
    size: int | None
    labels: Mapping[str, str] = field(hash=False)
    references: tuple[str, ...]
    digests: tuple[ImageDigest, ...]


class _ListedImage(msgspec.Struct, rename="pascal"):
    id: str
    size: int | None = None
    labels: dict[str, str] | None = None
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    # Podman's alone; it stays when the image has lost its last name.
    digest: str | None = None


async def list_images(client: EngineClient) -> list[ListedImage]:
    """List the images that the engine holds, those without a name included.

    Raises:
        EngineError: it could not tell.
    """
    # Without `digests=1`: Docker tells them anyway, and Podman 4 answers it with nothing at all.
    listed = await client.json("GET", "/images/json", params={"all": "1"})
    try:
        return [_read_listed(item) for item in msgspec.convert(listed, list[_ListedImage])]
    except (msgspec.ValidationError, ValueError) as exc:
        raise EngineError(f"the engine lists its images in an unknown way: {one_line(str(exc))}") from exc


def _read_listed(item: _ListedImage) -> ListedImage:
    own = (ImageDigest(item.digest),) if item.digest else ()
    return ListedImage(
        id=image_id(item.id),
        size=item.size,
        labels=item.labels or {},
        references=tuple(
            name for name in item.repo_tags or () if not name.startswith("<none>") and "@" not in name
        ),
        digests=tuple(dict.fromkeys((*digests_in(item.repo_digests), *own))),
    )


async def find_by_digest(client: EngineClient, digest: ImageDigest) -> EngineImage:
    """Return the image that the engine knows under manifest *digest*, whatever its name.

    Raises:
        ImageNotFound: it knows none.
        EngineError: it could not tell.
    """
    for listed in await list_images(client):
        if digest in listed.digests:
            return await inspect_image(client, listed.id)
    raise ImageNotFound(f"the engine has no image {digest}", status=404)
