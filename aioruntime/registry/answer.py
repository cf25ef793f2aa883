"""An answer of a registry, or of where it sent us: its head, and its body in bounded pieces (L2)."""

from __future__ import annotations

__all__ = ("Answer",)

import asyncio
import re
from typing import TYPE_CHECKING

from aioruntime.errors import RegistryError, one_line
from aioruntime.registry.failures import ERROR_BODY_LIMIT, error_for
from aioruntime.registry.origins import host_of
from aioruntime.registry.unanswered import FAILURES, cause_of, reason_of

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

# A document that drips may take so many stall times in all; blobs are bounded by their caller.
_DOCUMENT_STALLS = 5
# What Go, and so most registries, and nginx say to plain HTTP where they speak TLS.
_WANTS_TLS = re.compile(rb"HTTP request (?:was sent )?to (?:an )?HTTPS (?:server|port)")


class Answer:
    """The head of an answer, with its body still to be read.

    Attributes:
        status: the HTTP status.
        headers: the header fields, by case-insensitive name.
        url: what was answered, after redirects. Its query may be a signature: not to be shown.
        host: who answered, after redirects.
        at_origin: whether no redirect has led away from the registry's own origin.
        public: whether it was sent to us as it would be to anybody: without credentials, and without TLS that
            could tell who we are.
        given: whether it answers credentials, or a token that took them.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        what: str,
        url: URL,
        at_origin: bool,
        public: bool,
        given: bool,
        stall_timeout: float,
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self.url = url
        self.host = host_of(url)
        self.at_origin = at_origin
        self.public = public
        self.given = given
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
        except FAILURES as exc:
            # What came before the connection broke is still there, but no public method gives it any more.
            if rest := self._response.content._read_nowait(-1):
                return rest
            broken, cause = self._broken(exc), cause_of(exc)
        raise broken from cause

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
        if self.status == 400 and self.url.scheme == "http" and _WANTS_TLS.search(body):
            return RegistryError(
                f"{self._what}: {self.host} was asked by plain HTTP but speaks TLS; put its authority into "
                f"~/.config/containers/certs.d/{self.host}/ca.crt, and take it out of plain_http=",
                status=self.status,
            )
        return error_for(
            self.status,
            self.headers,
            body[:ERROR_BODY_LIMIT],
            what=self._what,
            host=self.host,
            hint=hint,
            given=self.given,
        )

    async def _head(self, limit: int) -> bytes:
        """Read up to about *limit* bytes of the body, in bounded time."""
        body = bytearray()
        content = self._response.content
        try:
            async with asyncio.timeout(self._stall_timeout * _DOCUMENT_STALLS):
                while len(body) < limit and (chunk := await content.readany()):
                    body += chunk
        except FAILURES as exc:
            broken, cause = self._broken(exc), cause_of(exc)
        else:
            return bytes(body)
        body, chunk = bytearray(), b""  # an error shows no variable that may hold a token
        raise broken from cause

    def _broken(self, exc: Exception) -> RegistryError:
        if isinstance(exc, TimeoutError):
            return RegistryError(
                f"{self._what}: {self.host} stalled: nothing, or too little, came for "
                f"{self._stall_timeout:g} s",
                temporary=True,
            )
        return RegistryError(
            f"{self._what}: the connection to {self.host} broke: {reason_of(exc)}", temporary=True
        )
