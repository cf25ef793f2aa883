"""Make every request to registries and to where they send us (L2): the only module that does.

Redirects are followed here, each by the rules of `origins`; nothing is inflated, no cookie is kept, no
``.netrc`` is read, and ``Authorization`` and client certificates do not leave their origin.
"""

from __future__ import annotations

__all__ = ("Http", "Method")

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import aiohttp

from aioruntime.errors import RegistryError, RequestRefused
from aioruntime.registry.answer import Answer
from aioruntime.registry.certificates import Tls
from aioruntime.registry.credentials import Secret
from aioruntime.registry.failures import retry_after_of
from aioruntime.registry.origins import Rules, follow, host_of, same_origin
from aioruntime.registry.proxies import Proxies, Proxy
from aioruntime.registry.unanswered import FAILURES, cause_of, may_be_over, proxy_status, unreached

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping

    from yarl import URL

    from aioruntime.registry.certificates import Certificates
    from aioruntime.registry.credentials import Authorization
    from aioruntime.registry.pace import Pace

Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 10
_ADDRESSES = 3
# Of 64 KiB, 256 KiB and 1 MiB, this was the fastest with a reader that hashes and writes in threads; pieces
# then have up to three times as much.
_READ_BUFFER = 256 * 1024
# Little enough for a slow line to take within the stall timeout.
_WRITE_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Way:
    """How to reach a host."""

    tls: Tls
    proxy: Proxy | None


class Http:
    """A pool of connections to registries; an async context manager.

    Args:
        rules: where requests may go.
        certificates: how to speak TLS to each host.
        pace: when requests may go.
        connections_per_host: connections to one host and port at most; more requests wait for one.
        connect_timeout: seconds for connecting, TLS included.
        stall_timeout: seconds without a byte after which an answer, or the sending of a body, is given up.
        user_agent: what to call ourselves.
    """

    def __init__(
        self,
        rules: Rules,
        certificates: Certificates,
        pace: Pace,
        *,
        connections_per_host: int,
        connect_timeout: float,
        stall_timeout: float,
        user_agent: str,
    ) -> None:
        self.rules = rules
        self._certificates = certificates
        self._proxies = Proxies({})
        self._pace = pace
        self._connections_per_host = connections_per_host
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=stall_timeout
        )
        self._connect_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        # A host may have several addresses to be tried.
        self._answer_timeout = _ADDRESSES * connect_timeout + 2 * stall_timeout
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        if self._session is not None:
            raise RuntimeError("this registry client is already open")
        await self._certificates.open()
        self._proxies = Proxies()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._connections_per_host),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
            requote_redirect_url=False,
            read_bufsize=_READ_BUFFER,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def request(
        self,
        method: Method,
        url: URL,
        *,
        registry: URL,
        what: str,
        headers: Mapping[str, str] | None = None,
        authorization: Authorization | None = None,
        redirects: bool = True,
        body: Secret | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[Answer]:
        """Send a request and follow its redirects; the connection is given back or closed at the end.

        Args:
            method: the method.
            url: where to; it has passed `Rules.may_send`, or is the registry that the user named.
            registry: root of that registry.
            what: the image or blob concerned, for messages.
            headers: further fields, which also go where redirects lead.
            authorization: value of ``Authorization``; it does not leave the origin of *url*.
            redirects: whether they may be followed.
            body: what is sent, chunked unless *headers* tell its length; iterated over once for each time
                that it has to be sent.

        Raises:
            RequestRefused: a redirect leads where no request may go, or there are too many of them.
            RegistryError: no answer came.
            InvalidSpec: a certificate or a proxy that the user has set up can't be used.
        """
        at_origin = same_origin(url, registry)
        public = authorization is None or authorization.anonymous
        for _ in range(_HOPS + 1):
            way = await self._way(url)
            public = public and not way.tls.personal
            async with (
                self._pace.turn(host_of(url)) as turn,
                await self._send(method, url, what, headers, authorization, registry, body, way) as response,
            ):
                turn.answered(response.status, retry_after_of(response.headers))
                location = response.headers.get("Location") if response.status in _REDIRECTS else None
                if location is None:
                    yield Answer(
                        response,
                        what=what,
                        url=url,
                        at_origin=at_origin,
                        public=public,
                        # A secret body is what a token server takes in place of a password.
                        given=isinstance(body, Secret)
                        or not (authorization is None or authorization.anonymous),
                        stall_timeout=self._stall_timeout,
                    )
                    return
            if not redirects:
                raise RequestRefused(f"{what}: {host_of(url)} redirects where no redirect is followed")
            target = follow(url, location)
            self.rules.may_send(target, registry=registry, what="redirect", previous=url)
            if not same_origin(target, url):
                # Not given back either if a later hop returns: RFC 9110, 15.4.
                authorization, at_origin = None, False
            url = target
        raise RequestRefused(f"{what}: {host_of(registry)} redirects more than {_HOPS} times")

    async def _way(self, url: URL) -> _Way:
        way = _Way(await self._certificates.tls_for(url), self._proxies.find(url))
        if way.proxy is not None and way.proxy.encrypted and not self._certificates.is_usual(way.tls):
            # aiohttp would use the same settings, and show the same certificate, to the proxy.
            raise RequestRefused(
                f"{host_of(url)}: has certificates of its own, which can't be used through the https proxy "
                f"{way.proxy.host}; add the host to NO_PROXY, or name the proxy by http"
            )
        return way

    async def _send(
        self,
        method: str,
        url: URL,
        what: str,
        headers: Mapping[str, str] | None,
        authorization: Authorization | None,
        registry: URL,
        body: Secret | AsyncIterable[bytes] | None,
        way: _Way,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("this registry client is not open; use it in an `async with` block")
        try:
            # Secrets are revealed in the call alone: no variable here shows them in a traceback with locals.
            # aiohttp stops its own clock at an early answer (1xx), of which there may be no end.
            async with asyncio.timeout(self._answer_timeout) as patience:
                return await self._session.request(
                    method,
                    url,
                    headers=_fields(headers, authorization),
                    data=_data(body, patience, self._stall_timeout, self._answer_timeout),
                    allow_redirects=False,
                    ssl=way.tls.context,
                    proxy=way.proxy.url.reveal() if way.proxy else None,
                )
        except FAILURES as exc:
            why = unreached(
                exc,
                url,
                registry,
                connect_timeout=self._connect_timeout,
                stall_timeout=self._stall_timeout,
                proxy=way.proxy.host if way.proxy else None,
            )
            failed = RegistryError(f"{what}: {why}", status=proxy_status(exc), temporary=may_be_over(exc))
            cause = cause_of(exc)
        # Here the error gets no context: aiohttp's frames have what was sent, with its secrets.
        raise failed from cause


def _fields(headers: Mapping[str, str] | None, authorization: Authorization | None) -> dict[str, str]:
    own = {"Authorization": authorization.value.reveal()} if authorization else {}
    return {**(headers or {}), **own}


def _data(
    body: Secret | AsyncIterable[bytes] | None,
    patience: asyncio.Timeout,
    stall_timeout: float,
    answer_timeout: float,
) -> bytes | AsyncIterable[bytes] | None:
    if isinstance(body, Secret):
        return body.reveal().encode()
    return body if body is None else _watched(body, patience, stall_timeout, answer_timeout)


async def _watched(
    body: AsyncIterable[bytes], patience: asyncio.Timeout, stall_timeout: float, answer_timeout: float
) -> AsyncIterator[bytes]:
    """Give out *body*, and let *patience* end when none of it was taken for the stall timeout."""
    now = asyncio.get_running_loop().time
    async for piece in body:
        for start in range(0, len(piece), _WRITE_PIECE):
            patience.reschedule(now() + stall_timeout)
            yield piece[start : start + _WRITE_PIECE]
        patience.reschedule(None)  # while the next piece is made
    patience.reschedule(now() + answer_timeout)
