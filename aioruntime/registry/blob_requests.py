"""Ask for one layer wherever it can be had: at mirrors, at its registry, at the URLs of its manifest (L2)."""

from __future__ import annotations

__all__ = ("BlobRequests",)

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from aioruntime.registry.failures import CHECK_BLOB
from aioruntime.registry.origins import parse_url
from aioruntime.registry.verify import surplus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from yarl import URL

    from aioruntime.oci.image import LayerSpec
    from aioruntime.registry.answer import Answer
    from aioruntime.registry.mirrors import Place
    from aioruntime.registry.origins import Rules
    from aioruntime.registry.places import Places
    from aioruntime.registry.requests import Requests

# A whole blob, a range, and that there is no such range: what the reader of the blob goes on with.
_ANSWERS = (200, 206, 416)


class BlobRequests:
    """The requests for one layer.

    Args:
        requests: what they are made with.
        rules: where they may go.
        places: knows which places failed lately.
        where: the places that may have the layer, in order.
        layer: the layer.
        what: the layer and its image, for messages.
        avoiding: places that gave wrong bytes.
    """

    def __init__(
        self,
        requests: Requests,
        rules: Rules,
        places: Places,
        where: Sequence[Place],
        layer: LayerSpec,
        what: str,
        avoiding: Collection[Place],
    ) -> None:
        self._requests = requests
        self._rules = rules
        self._places = places
        self._where = where
        self._layer = layer
        self._what = what
        self._avoiding = avoiding

    @asynccontextmanager
    async def open(self, headers: Mapping[str, str]) -> AsyncIterator[tuple[Place, Answer]]:
        """Send a request to one place after the other, until one has the layer; give place and answer.

        Raises:
            RequestRefused: the last place is where no request may go.
            SizeMismatch: it has more bytes than declared.
            RegistryError: what the last place said, with a note of what the others did.
        """
        async with AsyncExitStack() as stack:
            attempt = partial(self._at, stack, headers)
            yield await self._places.first(self._where, attempt, self._avoiding)

    async def _at(
        self, stack: AsyncExitStack, headers: Mapping[str, str], place: Place
    ) -> tuple[Place, Answer]:
        endpoint = place.endpoint if place.own or place.url is None else None
        opening = self._requests.open("GET", self._url(place), endpoint, self._what, headers)
        # What was not taken is closed before the next place is asked.
        async with AsyncExitStack() as opened:
            answer = await opened.enter_async_context(opening)
            if answer.status not in _ANSWERS:
                raise await answer.error(CHECK_BLOB)
            answer.check_encoding()
            if answer.status == 200 and (answer.length or 0) > self._layer.size:
                raise surplus(self._what, answer.host, answer.length or 0, self._layer.size)
            answer.public = answer.public and place.own
            stack.push_async_exit(opened.pop_all())
        return place, answer

    def _url(self, place: Place) -> URL:
        if place.url is None:
            return place.repository.url(f"blobs/{self._layer.digest}")
        name = "URL" if self._layer.blob_url is None else "blob_url"
        what = f"{name} of layer {self._layer.digest}"
        url = parse_url(place.url, what)
        registry = place.endpoint.root if place.endpoint else url.origin()
        self._rules.may_send(url, registry=registry, what=what)
        return url

    def failed(self, place: Place) -> None:
        """Note that *place* broke off, so that others are asked before it."""
        self._places.note_failure(place)

    def elsewhere(self, place: Place) -> bool:
        """Tell whether the layer may be had from another place than *place* and those that are avoided."""
        return bool(set(self._where) - {place, *self._avoiding})
