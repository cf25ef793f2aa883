"""The named images in a store (L2): a value, and what is said of a name that it has not."""

from __future__ import annotations

__all__ = ("Named", "not_stored")

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec, NotStored, one_line
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Named:
    """The named images in a store.

    Args:
        images: manifest or index by name; by digest where another tool gave no name.
        pinned: names that are kept when others are collected.
        others: what the index names beside them, in entries that are not understood, or of a name that means
            something else to us.
        given: names that we have just given, be it to what they meant before.
    """

    images: Mapping[str, Descriptor] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    others: frozenset[ImageDigest] = frozenset()
    given: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def roots(self) -> frozenset[ImageDigest]:
        """All that is named."""
        return self.others.union(descriptor.digest for descriptor in self.images.values())

    def having(self, name: str, descriptor: Descriptor) -> Named:
        """Return them with *name* for what *descriptor* describes."""
        return replace(self, images={**self.images, name: descriptor}, given=self.given | {name})

    def means(self, name: str, digest: ImageDigest) -> bool:
        """Tell whether *name*, which may be the digest of an entry without a usable name, means *digest*."""
        found = self.images.get(name)
        return found.digest == digest if found else name == digest and digest in self.others

    def names_of(self, image: OciRef | str) -> list[str]:
        """Return the names of an image, given a name of it, as it was pulled or in full, or its digest.

        Raises:
            InvalidReference: *image* is no reference.
            InvalidSpec: *image* is neither text nor a reference.
        """
        if not isinstance(image, str | OciRef):
            raise InvalidSpec(
                f"image is {one_line(repr(image))}; it has to be a reference, a name or a digest"
            )
        if isinstance(image, str) and image.startswith(("sha256:", "sha512:")):
            return [name for name, found in self.images.items() if found.digest == image]
        if isinstance(image, str) and image in self.images:
            return [image]
        name = (OciRef.parse(image) if isinstance(image, str) else image).canonical
        return [name] if name in self.images else []

    def pinning(self, names: Collection[str]) -> Named:
        """Return them with those names pinned."""
        return replace(self, pinned=self.pinned.union(names))

    def unpinning(self, names: Collection[str]) -> Named:
        """Return them with those names not pinned."""
        return replace(self, pinned=self.pinned.difference(names))

    def without(self, names: Collection[str]) -> Named:
        """Return them without those names, and their pins."""
        images = {name: found for name, found in self.images.items() if name not in names}
        pinned, others = self.pinned.difference(names), self.others.difference(names)
        return replace(self, images=images, pinned=pinned, others=others)


def not_stored(image: OciRef | str, root: Path) -> NotStored:
    """Return the error for an image that the store at *root* has not."""
    return NotStored(
        f"{one_line(str(image))} is not in the store at {root}; `aioruntime store ls` lists what is, "
        "others have to be pulled or imported first"
    )
