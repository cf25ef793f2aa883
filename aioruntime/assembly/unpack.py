"""Inflate layers into scratch files, each once, and prove what they hold (L3, blocking)."""

from __future__ import annotations

__all__ = ("UnpackedLayer", "check_diff_id", "false_claim", "unpack_layer")

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioruntime.assembly.inflate import CHUNK, Inflated, InflatedReader, telling_damage
from aioruntime.errors import DigestMismatch
from aioruntime.store.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.store.store import ImageStore


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """The archive in a layer, as a part of a scratch file.

    Attributes:
        content: its digest and size.
        scratch: the file that it is in.
        offset: where it begins there.
    """

    content: Inflated
    scratch: Scratch
    offset: int

    def read(self, offset: int, count: int) -> bytes:
        """Return up to *count* bytes from *offset* on, none at the end."""
        return self.scratch.read(self.offset + offset, max(0, min(count, self.content.size - offset)))

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Give what is from *start* up to *stop*, or the end, in pieces of 1 MiB."""
        stop = self.content.size if stop is None else stop
        while piece := self.read(start, min(CHUNK, stop - start)):
            start += len(piece)
            yield piece


def unpack_layer(
    image: ResolvedImage, layer: LayerSpec, store: ImageStore, scratch: Scratch
) -> UnpackedLayer:
    """Inflate a layer at the end of *scratch*, and check that it holds what the image's config says.

    Args:
        image: which image's layer it is.
        layer: the layer.
        store: has it.
        scratch: where its archive goes.

    Raises:
        DigestMismatch: its blob was altered, or the image is broken at its source.
        InvalidManifest: it can't be inflated, or is a decompression bomb.
        StoreFull: the disk is full.
    """
    offset = scratch.size
    with store.open_blob(layer.digest) as blob, telling_damage(blob, layer.digest):
        reader = InflatedReader(blob, layer)
        while piece := reader.read(CHUNK):
            scratch.write(piece)
        unpacked = UnpackedLayer(reader.read_all(), scratch, offset)
    check_diff_id(image, layer, unpacked.content.diff_id)
    return unpacked


def check_diff_id(image: ResolvedImage, layer: LayerSpec, found: ImageDigest) -> None:
    """Compare what a layer holds with what the image's config says, wherever the image has it.

    Raises:
        DigestMismatch: the image is broken at its source.
    """
    for position, diff_id in enumerate(image.config.rootfs.diff_ids):
        if image.layers[position].digest == layer.digest and diff_id != found:
            raise false_claim(image, position, found)


def false_claim(image: ResolvedImage, position: int, found: str) -> DigestMismatch:
    """Make the error for a layer that holds *found*, which is not what the image's config says."""
    diff_id = image.config.rootfs.diff_ids[position]
    return DigestMismatch(
        f"{image.reference}: layer {position} ({image.layers[position].digest}) holds {found}, but the "
        f"config names {diff_id}; the image is broken at its source",
        expected=diff_id,
        actual=found,
        position=position,
    )
