"""Make every request to registries and to where they send us (L2): the only module that does.

Redirects are followed here, each by the rules of `origins`; nothing is inflated, no cookie is kept, no
``.netrc`` and no proxy is taken from the environment, and ``Authorization`` does not leave its origin.
"""

from __future__ import annotations

__all__ = ("Answer", "Http")

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, Self

import aiohttp
from aiohttp.http import HttpProcessingError

from aioruntime.errors import RegistryError, RequestRefused, one_line
from aioruntime.registry.failures import ERROR_BODY_LIMIT, error_for
from aioruntime.registry.origins import Rules, follow, host_of, same_origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from yarl import URL

    from aioruntime.registry.credentials import Authorization

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 10
# Of 64 KiB, 256 KiB and 1 MiB, this was the fastest with a reader that hashes and writes in threads; pieces
# then have up to three times as much.
_READ_BUFFER = 256 * 1024
# A document that drips may take so many stall times in all; blobs are bounded by their caller.
_DOCUMENT_STALLS = 5
_FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError)


class Answer:
    """The head of an answer, with its body still to be read.

    Attributes:
        status: the HTTP status.
        headers: the header fields, by case-insensitive name.
        host: who answered, after redirects.
        at_origin: whether no redirect has led away from the registry's own origin.
        public: whether it was sent to us as it would be to anybody, without credentials.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, *, what: str, host: str, at_origin: bool, stall_timeout: float
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.host = host
        self.at_origin = at_origin
        self.public = False
        self._response = response
        self._what = what
        self._stall_timeout = stall_timeout

    @property
    def length(self) -> int | None:
        """Bytes of the body as the header says; None if it does not."""
        return self._response.content_length

    @property
    def challenges(self) -> str:
        """All ``WWW-Authenticate`` fields as one value."""
        return ", ".join(self.headers.getall("WWW-Authenticate", ()))

    @property
    def content_range(self) -> str:
        """All ``Content-Range`` fields as one value; two of them fit nothing."""
        return ", ".join(self.headers.getall("Content-Range", ()))

    def check_encoding(self) -> None:
        """Refuse a body that was encoded on the way: its bytes are not those that a digest names.

        Raises:
            RegistryError: there is a ``Content-Encoding`` other than ``identity``, which alone was accepted.
        """
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise RegistryError(
                f"{self._what}: {self.host} sent it with Content-Encoding {one_line(encoding, 40)}, "
                "which was not asked for; a proxy may be in between",
                status=self.status,
            )

    async def chunk(self) -> bytes:
        """Wait for the body's next bytes; none at its end.

        Raises:
            RegistryError: nothing came for the stall timeout, or the connection broke.
        """
        try:
            return await self._response.content.readany()
        except _FAILURES as exc:
            raise self._broken(exc) from _cause(exc)

    async def read(self, limit: int) -> bytes:
        """Read the whole body.

        Args:
            limit: bytes that it may have at most.

        Raises:
            RegistryError: it is longer, content-encoded, too slow, or the connection broke.
        """
        self.check_encoding()
        body = await self._head(limit + 1)
        if len(body) > limit:
            raise RegistryError(
                f"{self._what}: {self.host} sent more than {limit} bytes, the most that is accepted",
                status=self.status,
            )
        return body

    async def error(self, hint: str) -> RegistryError:
        """Return the error that this answer amounts to; *hint* tells what to check if it is 404."""
        try:
            body = await self._head(ERROR_BODY_LIMIT)
        except RegistryError:
            body = b""  # the status says enough
        return error_for(
            self.status, self.headers, body[:ERROR_BODY_LIMIT], what=self._what, host=self.host, hint=hint
        )

    async def _head(self, limit: int) -> bytes:
        """Read up to about *limit* bytes of the body, in bounded time."""
        body = bytearray()
        content = self._response.content
        try:
            async with asyncio.timeout(self._stall_timeout * _DOCUMENT_STALLS):
                while len(body) < limit and (chunk := await content.readany()):
                    body += chunk
        except _FAILURES as exc:
            raise self._broken(exc) from _cause(exc)
        return bytes(body)

    def _broken(self, exc: Exception) -> RegistryError:
        if isinstance(exc, TimeoutError):
            return RegistryError(
                f"{self._what}: {self.host} stalled: nothing, or too little, came for "
                f"{self._stall_timeout:g} s"
            )
        return RegistryError(f"{self._what}: the connection to {self.host} broke: {_reason(exc)}")


class Http:
    """A pool of connections to registries; an async context manager.

    Args:
        rules: where requests may go.
        connections_per_host: connections to one host and port at most; more requests wait for one.
        connect_timeout: seconds for connecting, TLS included.
        stall_timeout: seconds without a byte after which an answer is given up.
        user_agent: what to call ourselves.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        connections_per_host: int,
        connect_timeout: float,
        stall_timeout: float,
        user_agent: str,
    ) -> None:
        self.rules = rules
        self._connections_per_host = connections_per_host
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, sock_read=stall_timeout
        )
        self._connect_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        if self._session is not None:
            raise RuntimeError("this registry client is already open")
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
    async def get(
        self,
        url: URL,
        *,
        registry: URL,
        what: str,
        headers: Mapping[str, str] | None = None,
        authorization: Authorization | None = None,
        redirects: bool = True,
        method: Literal["GET", "HEAD"] = "GET",
    ) -> AsyncIterator[Answer]:
        """Send a request and follow its redirects; the connection is given back or closed at the end.

        Args:
            url: where to; it has passed `Rules.may_send`, or is the registry that the user named.
            registry: root of that registry.
            what: the image or blob concerned, for messages.
            headers: further fields, which also go where redirects lead.
            authorization: value of ``Authorization``; it does not leave the origin of *url*.
            redirects: whether they may be followed.
            method: what to ask for: GET for the content, HEAD for its header fields alone.

        Raises:
            RequestRefused: a redirect leads where no request may go, or there are too many of them.
            RegistryError: no answer came.
        """
        at_origin = same_origin(url, registry)
        for _ in range(_HOPS + 1):
            async with await self._send(method, url, what, headers, authorization, registry) as response:
                location = response.headers.get("Location") if response.status in _REDIRECTS else None
                if location is None:
                    yield Answer(
                        response,
                        what=what,
                        host=host_of(url),
                        at_origin=at_origin,
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

    async def _send(
        self,
        method: str,
        url: URL,
        what: str,
        headers: Mapping[str, str] | None,
        authorization: Authorization | None,
        registry: URL,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("this registry client is not open; use it in an `async with` block")
        fields = dict(headers or {})
        if authorization is not None:
            fields["Authorization"] = authorization.value.reveal()
        try:
            return await self._session.request(method, url, headers=fields, allow_redirects=False)
        except _FAILURES as exc:
            raise RegistryError(f"{what}: {self._unreached(exc, url, registry)}") from _cause(exc)

    def _unreached(self, exc: Exception, url: URL, registry: URL) -> str:
        host = host_of(url)
        if isinstance(exc, aiohttp.ConnectionTimeoutError):
            text = f"{host} could not be reached within {self._connect_timeout:g} s"
        elif isinstance(exc, TimeoutError):
            return f"{host} did not answer within {self._stall_timeout:g} s"
        elif isinstance(exc, aiohttp.ClientConnectorError):
            text = f"{host} could not be reached: {_reason(exc)}"
        else:
            return f"{host} broke the connection off or answered no valid HTTP: {_reason(exc)}"
        certain = (aiohttp.ClientConnectorDNSError, aiohttp.ClientConnectorCertificateError)
        if url.scheme == "https" and same_origin(url, registry) and not isinstance(exc, certain):
            text += f"; if it speaks only plain HTTP, allow that with plain_http=[{host!r}]"
        return text


def _reason(exc: Exception) -> str:
    """Tell what went wrong in words that hold no URL: its query may be a signature."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid: {one_line(str(exc.certificate_error), 160)}"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return one_line(exc.os_error.strerror or str(exc.os_error) or type(exc.os_error).__name__, 160)
    if isinstance(exc, aiohttp.ClientResponseError | HttpProcessingError):
        return one_line(exc.message, 160) or type(exc).__name__
    if isinstance(exc, aiohttp.InvalidURL):
        return "not a valid URL"
    return one_line(str(exc), 160) or type(exc).__name__


def _cause(exc: Exception) -> Exception | None:
    """Return *exc* to be shown as the cause, unless it holds a URL."""
    return None if isinstance(exc, aiohttp.ClientResponseError | aiohttp.InvalidURL) else exc
