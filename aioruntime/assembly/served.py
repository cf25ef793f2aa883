"""What each repository was seen to serve: only that of the store counts for its images (L3).

A manifest may name the digest of a layer that its author never had, such as one of a private image. Were
any layer in the store good for any image, the author's program would get to read that layer here. What a
registry gives to anybody, the authors of all its images may have had. A mirror counts as far as a download
from it would go: what it serves for a repository is that repository's, but what it serves to anybody need not
be anybody's at the registry, whose credentials it may have.
"""

from __future__ import annotations

__all__ = ("Served",)

import hashlib
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Self

import msgspec

from aioruntime.errors import NotFound, RegistryError, SizeMismatch, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aioruntime.assembly.source import BlobSource
    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.reference import OciRef
    from aioruntime.store.store import ImageStore

# As many layers as one image may have. What is forgotten is asked for again.
_LIMIT = 10_000


class Served:
    """The layers that one repository was seen to serve, or its registry to anybody; made by `recall`.

    Without a repository, and for layers with a URL of their own, the caller answers for where they are from.
    """

    def __init__(
        self, image: OciRef | None, source: BlobSource, store: ImageStore, known: Collection[str]
    ) -> None:
        self._image = image
        self._source = source
        self._store = store
        self._known = known
        self._new: dict[str, None] = {}
        self._new_public: dict[str, None] = {}

    @classmethod
    async def recall(cls, image: OciRef | None, source: BlobSource, store: ImageStore) -> Self:
        """Return what is remembered of the repository of *image*.

        Args:
            image: whose repository is meant; None for none.
            source: asked for what is not remembered.
            store: keeps the notes, one a repository and one a registry.
        """
        notes = () if image is None else (_note(image), _public_note(image))
        known = [_decode(await store.read_note(note)) for note in notes]
        return cls(image, source, store, frozenset(chain.from_iterable(known)))

    def covers(self, layer: LayerSpec) -> bool:
        """Tell whether *layer*, if it is in the store, counts for the image without asking."""
        return (
            self._image is None
            or layer.blob_url is not None
            or layer.digest in self._known
            or layer.digest in self._new
            or layer.digest in self._new_public
        )

    def add(self, layer: LayerSpec, *, public: bool) -> None:
        """Note that *layer* came from the repository just now, unless it has a URL of its own.

        Args:
            layer: what came.
            public: whether anybody would have got it.
        """
        if not self.covers(layer):
            (self._new_public if public else self._new)[layer.digest] = None

    async def prove(self, layer: LayerSpec) -> None:
        """Make sure that the repository serves *layer*, which is in the store, to this caller.

        Raises:
            NotFound: it does not; the layer stays in the store for other images.
            Unauthorized: it does not without other credentials; likewise.
            RegistryError: it can't be asked.
        """
        if self._image is None or self.covers(layer):
            return
        if not await self._source.has_blob(self._image, layer):
            # Some storage behind registries answers GET alone; and of a refusal, the body tells why.
            try:
                async with self._source.blob(self._image, replace(layer, urls=())):
                    pass
            except (NotFound, Unauthorized) as exc:
                if layer.urls and await self._is_elsewhere(self._image, layer):
                    self._new[layer.digest] = None
                    return
                raise type(exc)(
                    f"{exc}; the layer lies in the store {self._store.path}, but it counts only for images "
                    "whose repository serves it",
                    status=exc.status,
                    code=exc.code,
                ) from exc
        self._new[layer.digest] = None

    async def _is_elsewhere(self, image: OciRef, layer: LayerSpec) -> bool:
        """Tell whether a URL that the image's manifest names gives the whole layer: an answer is no proof."""
        hasher = layer.digest.hasher()
        try:
            async with self._source.blob(image, layer) as body:
                async for chunk in body:
                    hasher.update(chunk)
        except (RegistryError, SizeMismatch):
            return False
        return hasher.hexdigest() == layer.digest.hex

    async def keep(self) -> None:
        """Remember what was found out.

        Raises:
            StoreError: the note can't be written.
        """
        if self._image is None:
            return
        if self._new:
            await self._store.update_note(_note(self._image), partial(_with_new, self._new))
        if self._new_public:
            await self._store.update_note(_public_note(self._image), partial(_with_new, self._new_public))


def _note(image: OciRef) -> str:
    return _named(f"{image.api_host}/{image.api_repository}")


def _public_note(image: OciRef) -> str:
    return _named(image.api_host)


def _named(where: str) -> str:
    return "served-" + hashlib.sha256(where.encode()).hexdigest()[:32]


def _with_new(new: Collection[str], raw: bytes | None) -> bytes:
    return _encode([*new, *(digest for digest in _decode(raw) if digest not in new)])


def _decode(raw: bytes | None) -> list[str]:
    if raw is None:
        return []
    try:
        return msgspec.json.decode(raw, type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []  # a note of another version, or a damaged one: the repository is asked again


def _encode(digests: Iterable[str]) -> bytes:
    return msgspec.json.encode([str(digest) for digest in digests][:_LIMIT])
