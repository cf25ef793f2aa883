"""Find out what a reference names: manifest, config and layers of an image for one platform (L2).

Follows "Pulling manifests" of the OCI distribution specification.
"""

from __future__ import annotations

__all__ = ("fetch_document", "has_blob", "has_manifest", "resolve_image")

from functools import partial
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidManifest
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Manifest, choose_manifest, decode_config, decode_document
from aioruntime.oci.image import ResolvedImage, layers_of
from aioruntime.oci.platform import Platform
from aioruntime.registry.failures import CHECK_BLOB, CHECK_NAME
from aioruntime.registry.served import Document, known_document, named_document
from aioruntime.registry.verify import (
    check_declared,
    check_digest,
    check_kind,
    check_platform,
    check_size,
    served_digest,
    served_type,
)

if TYPE_CHECKING:
    from aioruntime.oci.documents import Descriptor, DescriptorPlatform
    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.reference import OciRef
    from aioruntime.registry.http import Method
    from aioruntime.registry.mirrors import Place
    from aioruntime.registry.places import Places
    from aioruntime.registry.requests import Requests
    from aioruntime.registry.served import KnownDocuments

_MANIFEST_LIMIT = 4 * 1024 * 1024
_CONFIG_LIMIT = 16 * 1024 * 1024
_INDEX_DEPTH = 3
_ACCEPT = {"Accept": ", ".join(media_types.ACCEPTED)}


async def resolve_image(
    requests: Requests,
    places: Places,
    image: OciRef,
    platform: Platform | None,
    documents: KnownDocuments | None,
) -> ResolvedImage:
    """Do what `RegistryClient.resolve` promises."""
    source = str(image)
    top = served = await known_document(image, image.pinned, documents) or await _valid_document(
        requests, places, image, image.selector
    )
    document = decode_document(served.raw, served.media_type, source)
    listed: DescriptorPlatform | None = None
    for _ in range(_INDEX_DEPTH):
        if isinstance(document, Manifest):
            break
        chosen = choose_manifest(document, platform or Platform.host(), source)
        listed = chosen.platform or listed
        check_declared(chosen, _MANIFEST_LIMIT, source)
        known = await named_document(image, chosen, documents)
        served = known or await _valid_document(
            requests, places, image, chosen.digest, chosen.size, chosen.media_type
        )
        document = decode_document(served.raw, served.media_type or chosen.media_type, source)
        check_kind(chosen, document, source)
    if not isinstance(document, Manifest):
        raise InvalidManifest(f"{source}: indexes are nested more than {_INDEX_DEPTH} deep")
    check_declared(document.config, _CONFIG_LIMIT, source)
    kept = await named_document(image, document.config, documents)
    attempt = partial(_config, requests, image, document.config)
    raw_config = kept.raw if kept else await places.ask(image, attempt)
    config = decode_config(raw_config, document, source)
    if platform is not None:
        check_platform(config, platform, source, listed)
    return ResolvedImage(
        reference=image,
        digest=top.digest,
        manifest=document,
        config=config,
        layers=layers_of(document),
        manifest_digest=served.digest,
        raw_manifest=served.raw,
        raw_config=raw_config,
    )


async def _valid_document(
    requests: Requests,
    places: Places,
    image: OciRef,
    selector: str,
    size: int | None = None,
    media_type: str | None = None,
) -> Document:
    """Fetch a manifest or an index from the first place that gives one, and no other page."""

    async def attempt(place: Place) -> Document:
        served = await _document(requests, image, selector, size, place)
        source = str(image) if place.own else f"{image} (of {served.host})"
        decode_document(served.raw, served.media_type or media_type, source)
        return served

    return await places.ask(image, attempt, by_digest=":" in selector)


async def fetch_document(
    requests: Requests, places: Places, image: OciRef, selector: str, size: int | None
) -> Document:
    """Do what `RegistryClient.document` promises."""
    attempt = partial(_document, requests, image, selector, size)
    return await places.ask(image, attempt, by_digest=":" in selector)


async def _document(
    requests: Requests, image: OciRef, selector: str, size: int | None, place: Place
) -> Document:
    what = str(image) if selector == image.selector else f"{image} ({selector})"
    endpoint = place.repository
    url = endpoint.url(f"manifests/{selector}")
    async with requests.open("GET", url, endpoint, what, _ACCEPT) as answer:
        if answer.status != 200:
            raise await answer.error(CHECK_NAME)
        raw = await answer.read(_MANIFEST_LIMIT)
    pinned = ImageDigest(selector) if ":" in selector else None
    if pinned is not None:
        check_digest(raw, pinned, what, answer.host)
    check_size(raw, size, what, answer.host)
    digest = pinned or served_digest(raw, answer.headers, what, answer.host)
    return Document(raw, served_type(answer.headers), digest, answer.host)


async def _config(requests: Requests, image: OciRef, descriptor: Descriptor, place: Place) -> bytes:
    what = f"{image}: config {descriptor.digest}"
    endpoint = place.repository
    url = endpoint.url(f"blobs/{descriptor.digest}")
    async with requests.open("GET", url, endpoint, what) as answer:
        if answer.status != 200:
            raise await answer.error(CHECK_BLOB)
        raw = await answer.read(_CONFIG_LIMIT)
    check_size(raw, descriptor.size, what, answer.host)
    check_digest(raw, descriptor.digest, what, answer.host)
    return raw


async def has_manifest(requests: Requests, image: OciRef, place: Place) -> None:
    """Return if *place* has what *image* names; its error comes out if not."""
    endpoint = place.repository
    url = endpoint.url(f"manifests/{image.selector}")
    methods: tuple[Method, ...] = ("HEAD", "GET")
    for method in methods:
        async with requests.open(method, url, endpoint, str(image), _ACCEPT) as answer:
            if answer.status == 200:
                return
            if (method, answer.status) != ("HEAD", 405):
                raise await answer.error(CHECK_NAME)


async def has_blob(requests: Requests, image: OciRef, layer: LayerSpec, place: Place) -> None:
    """Return if *place* says that it has *layer*; its error comes out if not."""
    endpoint = place.repository
    url = endpoint.url(f"blobs/{layer.digest}")
    async with requests.open("HEAD", url, endpoint, f"{image}: layer {layer.digest}") as answer:
        if answer.status != 200:
            raise await answer.error(CHECK_BLOB)
