"""Remember what an engine took from us, since its IDs are not the digests that users pin (L3).

The notes lie in the store, one an engine. They are hints: whoever uses one asks the engine first.
"""

from __future__ import annotations

__all__ = ("EngineMemory",)

import hashlib
from typing import TYPE_CHECKING, TypeVar

import msgspec

from aioruntime.assembly.plan import HeldImage
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import digest_hook
from aioruntime.oci.platform import matching_platforms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioruntime.oci.platform import Platform
    from aioruntime.store.store import ImageStore

# Older images are forgotten; to forget costs a full load, never a failure.
_LIMIT = 500

T = TypeVar("T")


class EngineMemory:
    """The images that one engine took from one store, newest first.

    Args:
        store: where the notes are kept.
        engine_id: the engine's own ID; two engines never share notes.

    Attributes:
        key: stands for the engine in the names of what is kept in the store for it.
    """

    def __init__(self, store: ImageStore, engine_id: str) -> None:
        self._store = store
        self.key = hashlib.sha256(engine_id.encode()).hexdigest()[:32]
        self._note = f"engine-{self.key}"
        self._others = f"{self._note}-others"

    async def recall(self) -> list[HeldImage]:
        """List what is remembered, newest first."""
        return _decode(await self._store.read_note(self._note))

    async def find(self, digest: ImageDigest, platform: Platform) -> HeldImage | None:
        """Return the image that a registry digest or an engine's ID names; None if none is remembered.

        Of several that came from one index, the one for *platform* is meant, else the newest.
        """
        held = await self.recall()
        named = [image for image in held if digest in (*image.digests, image.image_id, image.config)]
        wanted = {str(candidate) for candidate in matching_platforms(platform)}
        return next((image for image in named if image.platform in wanted), named[0] if named else None)

    async def remember(self, image: HeldImage) -> None:
        """Note that the engine holds *image*; several registry digests can lead to one image.

        One without layers leaves those that were noted before.
        """

        def change(raw: bytes | None) -> bytes:
            held = _decode(raw)
            same = [old for old in held if old.image_id == image.image_id]
            layers, diff_ids = image.layers, image.diff_ids
            if same and not layers:
                layers, diff_ids = same[0].layers, same[0].diff_ids
            digests = dict.fromkeys([*image.digests, *(d for old in same for d in old.digests)])
            merged = msgspec.structs.replace(image, digests=tuple(digests), layers=layers, diff_ids=diff_ids)
            return _encode([merged, *(old for old in held if old not in same)][:_LIMIT])

        await self._store.update_note(self._note, change)

    async def forget(self, *image_ids: ImageDigest) -> None:
        """Drop images that the engine turned out not to hold."""

        def change(raw: bytes | None) -> bytes:
            return _encode([old for old in _decode(raw) if old.image_id not in image_ids])

        await self._store.update_note(self._note, change)

    async def others(self) -> dict[ImageDigest, tuple[ImageDigest, ...]]:
        """Return the diff IDs of images that the engine has from elsewhere, by its IDs."""
        noted = _decode_as(list[_Other], await self._store.read_note(self._others))
        return {other.image_id: other.diff_ids for other in noted}

    async def keep_others(self, others: Mapping[ImageDigest, tuple[ImageDigest, ...]]) -> None:
        """Note the diff IDs of images that the engine has from elsewhere, in place of what was noted."""
        noted = [_Other(image_id, diff_ids) for image_id, diff_ids in others.items()]
        await self._store.update_note(self._others, lambda _: _encode(noted))


class _Other(msgspec.Struct, frozen=True):
    image_id: ImageDigest
    diff_ids: tuple[ImageDigest, ...]


def _decode(raw: bytes | None) -> list[HeldImage]:
    return _decode_as(list[HeldImage], raw)


def _decode_as(kind: type[list[T]], raw: bytes | None) -> list[T]:
    try:
        return msgspec.json.decode(raw or b"[]", type=kind, dec_hook=digest_hook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []  # a note of another version, or a damaged one: to know nothing is always safe


def _encode(noted: Iterable[object]) -> bytes:
    return msgspec.json.encode(list(noted), enc_hook=str)  # the hook is for digests
