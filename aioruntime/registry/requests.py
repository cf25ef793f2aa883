"""Send requests to a repository with the authorization that its registry asks for (L2)."""

from __future__ import annotations

__all__ = ("Requests",)

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aioruntime.registry.failures import CHECK_NAME
from aioruntime.registry.origins import same_origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping

    from yarl import URL

    from aioruntime.registry.answer import Answer
    from aioruntime.registry.auth import Authenticator
    from aioruntime.registry.endpoints import Endpoint
    from aioruntime.registry.http import Http, Method


class Requests:
    """Requests to registries.

    Args:
        http: what they are made with.
        authenticator: answers challenges.
    """

    def __init__(self, http: Http, authenticator: Authenticator) -> None:
        self._http = http
        self._authenticator = authenticator

    @asynccontextmanager
    async def open(
        self,
        method: Method,
        url: URL,
        endpoint: Endpoint | None,
        what: str,
        headers: Mapping[str, str] | None = None,
        *,
        scopes: Collection[str] = (),
        body: AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[Answer]:
        """Send a request, and once more with what the registry's challenge asks for.

        Args:
            method: the method.
            url: where to: within *endpoint*, or a foreign URL that has passed `Rules.may_send`.
            endpoint: the repository whose credentials may be used, at its registry's own origin; None to
                stay anonymous.
            what: the image or blob concerned, for messages.
            headers: further fields.
            scopes: what the token has to allow besides pulling, such as ``repository:org/tool:pull,push``.
            body: what is sent; iterated over once for each time that it has to be sent.

        Raises:
            Unauthorized: the registry wants other credentials.
            RequestRefused: a redirect or a token server is where no request may go.
            RegistryError: no answer came, or no token.
        """
        registry = endpoint.root if endpoint else url.origin()
        authorization = None
        if endpoint and same_origin(url, registry):
            authorization = await self._authenticator.known(endpoint, what, scopes)
        async with self._http.request(
            method, url, registry=registry, what=what, headers=headers, authorization=authorization, body=body
        ) as answer:
            # A challenge from where a redirect led is not the registry's: nothing of ours goes there.
            if answer.status != 401 or not answer.at_origin or not endpoint:
                yield answer
                return
            denied = await answer.error(CHECK_NAME)
            challenges = answer.challenges
        authorization = await self._authenticator.answer(endpoint, challenges, authorization, what, scopes)
        if authorization is None:
            raise denied
        async with self._http.request(
            method, url, registry=registry, what=what, headers=headers, authorization=authorization, body=body
        ) as answer:
            yield answer
