"""List a repository's tags, page by page (L2).

Follows "Listing Tags" of the OCI distribution specification.
"""

from __future__ import annotations

__all__ = ("list_tags",)

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from aioruntime.errors import InvalidReference, RegistryError, RequestRefused, one_line
from aioruntime.oci.reference import OciRef
from aioruntime.registry.links import next_link
from aioruntime.registry.origins import follow, host_of, same_origin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from yarl import URL

    from aioruntime.registry.answer import Answer
    from aioruntime.registry.endpoints import Endpoint
    from aioruntime.registry.requests import Requests
    from aioruntime.registry.retry import Retry

# Some registries refuse to be asked for more.
_PAGE = 1000
_PAGES = 1000
_PAGE_LIMIT = 4 * 1024 * 1024


class _Page(msgspec.Struct):
    tags: list[str] | None = None


async def list_tags(
    requests: Requests, endpoint: Endpoint, image: OciRef, retry: Retry
) -> AsyncGenerator[str]:
    """Do what `RegistryClient.tags` promises."""
    what = f"{image.full_name}: tags"
    url: URL | None = endpoint.url("tags/list").with_query(n=_PAGE)
    seen: set[URL] = set()
    while url is not None:
        if url in seen or len(seen) == _PAGES:
            why = "leads from page to page in a circle" if url in seen else f"has more than {_PAGES} pages"
            raise RegistryError(f"{what}: {endpoint.host} {why}")
        seen.add(url)
        raw, url = await retry(partial(_page, requests, endpoint, what, url))
        for tag in _decode(raw, endpoint, what):
            _check(tag, image, what, endpoint)
            yield tag


async def _page(requests: Requests, endpoint: Endpoint, what: str, url: URL) -> tuple[bytes, URL | None]:
    async with requests.open("GET", url, endpoint, what) as answer:
        if answer.status != 200:
            raise await answer.error("check the repository's name")
        return await answer.read(_PAGE_LIMIT), _next_page(answer, endpoint, what)


def _next_page(answer: Answer, endpoint: Endpoint, what: str) -> URL | None:
    link = next_link(", ".join(answer.headers.getall("Link", ())))
    if link is None:
        return None
    url = follow(answer.url, link, "next page")
    # No registry needs to; so there is no reason to let it send us anywhere.
    if not same_origin(url, endpoint.root):
        raise RequestRefused(f"{what}: {endpoint.host}: next page at {host_of(url)} refused: another origin")
    return url


def _decode(raw: bytes, endpoint: Endpoint, what: str) -> list[str]:
    try:
        return msgspec.json.decode(raw, type=_Page).tags or []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise RegistryError(f"{what}: {endpoint.host} sent no valid list: {one_line(str(exc))}") from None


def _check(tag: str, image: OciRef, what: str, endpoint: Endpoint) -> None:
    try:
        OciRef(image.registry, image.repository, tag)
    except InvalidReference as exc:
        raise RegistryError(f"{what}: {endpoint.host} lists what is no tag: {exc}") from None
