"""Hold what a registry offers against what the caller expects, before anything is fetched (L4)."""

from __future__ import annotations

__all__ = ("check_digest", "check_layers")

from typing import TYPE_CHECKING

from aioruntime.errors import DigestMismatch
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioruntime.oci.image import ResolvedImage


def check_digest(image: ResolvedImage, expected: str) -> None:
    """Refuse *image* unless its index or its manifest has the *expected* digest.

    Raises:
        InvalidReference: *expected* is not a digest.
        DigestMismatch: it has another; nothing was fetched.
    """
    wanted = ImageDigest(expected)
    if wanted not in (image.digest, image.manifest_digest):
        raise DigestMismatch(
            f"{image.reference}: expected digest {wanted}, but the registry has {image.digest}; "
            "nothing was fetched",
            expected=wanted,
            actual=image.digest,
        )


def check_layers(image: ResolvedImage, expected: Sequence[LayerSpec | str]) -> None:
    """Refuse *image* unless its layers are just the *expected* ones, in their order.

    Raises:
        InvalidReference: one of *expected* is not a digest.
        DigestMismatch: a layer differs, is missing or is one too many; ``position`` tells the first.
    """
    wanted = [e.digest if isinstance(e, LayerSpec) else ImageDigest(e) for e in expected]
    actual = [layer.digest for layer in image.layers]
    for position in range(max(len(wanted), len(actual))):
        want = wanted[position] if position < len(wanted) else "no layer"
        have = actual[position] if position < len(actual) else "no layer"
        if want != have:
            raise DigestMismatch(
                f"{image.reference}: layer {position}: expected {want}, but the image has {have} "
                f"({len(wanted)} layers expected, {len(actual)} in the image)",
                expected=want,
                actual=have,
                position=position,
            )
