"""Check documents against what they were said to be (L2, pure): digest, size, media type, platform."""

from __future__ import annotations

__all__ = (
    "check_declared",
    "check_digest",
    "check_kind",
    "check_platform",
    "check_size",
    "served_digest",
    "served_type",
    "surplus",
)

from dataclasses import replace
from typing import TYPE_CHECKING

from aioruntime.errors import (
    DigestMismatch,
    InvalidManifest,
    InvalidReference,
    InvalidSpec,
    RegistryError,
    SizeMismatch,
    one_line,
)
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Manifest
from aioruntime.oci.platform import Platform, matching_platforms, with_default_variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.oci.documents import Config, Descriptor, DescriptorPlatform, Index

# Served by plain file servers for anything; they tell nothing of the document.
_GENERIC = frozenset(
    {"", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain"}
)


def served_type(headers: Mapping[str, str]) -> str | None:
    """Return the media type that a document is served as; None if it is one that tells nothing."""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return None if media_type in _GENERIC else media_type


def check_digest(raw: bytes, digest: ImageDigest, what: str, host: str) -> None:
    """Check that *raw* is what *digest* names.

    Raises:
        DigestMismatch: it is not.
    """
    found = digest.actual(raw)
    if found != digest:
        raise DigestMismatch(
            f"{what}: {host} served a document with digest {found} for {digest}; it was thrown away",
            expected=digest,
            actual=found,
        )


def served_digest(raw: bytes, headers: Mapping[str, str], what: str, host: str) -> ImageDigest:
    """Return the digest of a document that was asked for by tag: what we hash, never what is claimed.

    ``Docker-Content-Digest`` only chooses the algorithm, and is itself checked.

    Raises:
        DigestMismatch: the header names another document.
        RegistryError: the header is no digest.
    """
    claimed = headers.get("Docker-Content-Digest", "").strip()
    if not claimed:
        return ImageDigest.of(raw)
    try:
        digest = ImageDigest(claimed)
    except InvalidReference as exc:
        raise RegistryError(f"{what}: {host} sent a malformed Docker-Content-Digest: {exc}") from None
    check_digest(raw, digest, what, host)
    return digest


def check_declared(descriptor: Descriptor, limit: int, what: str) -> None:
    """Check a descriptor before what it names is fetched.

    Raises:
        InvalidManifest: it declares more than *limit* bytes.
    """
    if descriptor.size > limit:
        raise InvalidManifest(
            f"{what}: {descriptor.digest} is said to have {descriptor.size} bytes; "
            f"at most {limit} are accepted"
        )


def check_size(raw: bytes, size: int | None, what: str, host: str) -> None:
    """Check that *raw* has *size* bytes, if that is known.

    Raises:
        SizeMismatch: it has not.
    """
    if size is not None and len(raw) != size:
        raise SizeMismatch(
            f"{what}: {host} gave {len(raw)} bytes where {size} were declared",
            expected=size,
            actual=len(raw),
        )


def surplus(what: str, host: str, seen: int, size: int) -> SizeMismatch:
    """Return the error that *host* sends at least *seen* bytes where *size* were declared."""
    return SizeMismatch(
        f"{what}: {host} sends at least {seen} bytes where {size} were declared", expected=size, actual=seen
    )


def check_kind(descriptor: Descriptor, document: Manifest | Index, what: str) -> None:
    """Check that an index and its entry agree on whether the entry is a manifest or an index.

    Raises:
        InvalidManifest: they don't, so that others could take the entry for something else.
    """
    other = media_types.INDEXES if isinstance(document, Manifest) else media_types.MANIFESTS
    if descriptor.media_type in other:
        raise InvalidManifest(
            f"{what}: {descriptor.digest} is listed as {one_line(descriptor.media_type)} "
            f"but is an image {'manifest' if isinstance(document, Manifest) else 'index'}"
        )


def check_platform(
    config: Config, wanted: Platform, what: str, listed: DescriptorPlatform | None = None
) -> None:
    """Check that an image runs on the platform that the user has named.

    Args:
        config: the image's config.
        wanted: the platform.
        what: the image, for messages.
        listed: what an index lists it for, if one does; many tools write the variant there alone.

    Raises:
        InvalidManifest: it is made for another one.
    """
    try:
        variant = config.variant or (listed.variant if listed else None) or None
        made_for = with_default_variant(Platform(config.os, config.architecture, variant))
    except InvalidSpec as exc:
        raise InvalidManifest(f"{what} (config): {exc}") from exc
    # No engine tells the level (amd64/v2 …) of its machine's processor.
    if wanted.architecture == "amd64" and wanted.variant is None:
        made_for = replace(made_for, variant=None)
    if made_for not in matching_platforms(wanted):
        raise InvalidManifest(f"{what}: is made for {made_for}, not for {wanted}")
