"""Answer a registry's challenges: bearer tokens, fetched once and kept until they expire (L2).

Follows "Token Authentication Specification" of the distribution project, and RFC 7617 for Basic.
"""

from __future__ import annotations

__all__ = ("Authenticator",)

import asyncio
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import msgspec
from yarl import URL

from aioruntime.errors import RegistryError, RequestRefused, one_line
from aioruntime.registry.challenge import Challenge, parse_challenges
from aioruntime.registry.clock import SYSTEM_CLOCK
from aioruntime.registry.credentials import Authorization, Secret
from aioruntime.registry.endpoints import Endpoint
from aioruntime.registry.failures import http_date
from aioruntime.registry.origins import host_of, may_carry_credentials, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.registry.answer import Answer
    from aioruntime.registry.clock import Clock
    from aioruntime.registry.credentials import Keychain
    from aioruntime.registry.http import Http

_BODY_LIMIT = 256 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
# "expires_in: … If omitted, this defaults to 60 seconds."
_DEFAULT_LIFETIME = 60.0
_LONGEST_LIFETIME = 24 * 3600.0
_REMEMBERED = 1024
_K = TypeVar("_K")
_V = TypeVar("_V")


class _TokenAnswer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None
    issued_at: str | None = None


@dataclass(frozen=True, slots=True)
class _Grant:
    """What a token is asked for."""

    endpoint: Endpoint
    realm: URL
    service: str | None
    scopes: tuple[str, ...]

    def url(self) -> URL:
        query = [("service", self.service)] if self.service is not None else []
        query += [("scope", scope) for scope in self.scopes]
        # Put together as text: the realm's own query has to stay as it is.
        joint = "&" if self.realm.raw_query_string else "?"
        return parse_url(str(self.realm).rstrip("?&") + joint + urlencode(query), "token realm")


@dataclass(slots=True)
class _Kept:
    """The token of one grant; the lock is held by the one request for it that is in flight."""

    value: Authorization | None = None
    until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Authenticator:
    """Finds what to put into ``Authorization``.

    Args:
        http: what requests are made with.
        keychain: asked for credentials once a registry has refused an anonymous request.
        clock: tells when a token has expired.
    """

    def __init__(self, http: Http, keychain: Keychain, clock: Clock = SYSTEM_CLOCK) -> None:
        self._http = http
        self._keychain = keychain
        self._clock = clock
        self._ways: dict[Endpoint, _Grant | Authorization] = {}
        self._kept: dict[_Grant, _Kept] = {}

    async def known(self, endpoint: Endpoint, what: str) -> Authorization | None:
        """Return the ``Authorization`` that *endpoint* took last, renewed if it has expired; None if none.

        Raises:
            RegistryError: it had to be renewed, which failed.
        """
        way = self._ways.get(endpoint)
        return await self._token(way, None, what) if isinstance(way, _Grant) else way

    async def answer(
        self, endpoint: Endpoint, challenges: str, refused: Authorization | None, what: str
    ) -> Authorization | None:
        """Answer the challenges of a 401.

        Args:
            endpoint: the repository whose registry has sent it.
            challenges: value of ``WWW-Authenticate``.
            refused: the ``Authorization`` that was sent and not taken; None if none was.
            what: the image or blob concerned, for messages.

        Returns:
            The ``Authorization`` to try next; None if there is nothing that could help.

        Raises:
            RequestRefused: the token server is where no request may go, or our credentials may not.
            RegistryError: the challenge is malformed, or the token server gave no token.
        """
        offered = parse_challenges(challenges)
        for challenge in offered:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                grant = _grant(endpoint, challenge)
                root = endpoint.root
                self._http.rules.may_send(grant.realm, registry=root, what="token realm", previous=root)
                _remember(self._ways, endpoint, grant)
                return await self._token(grant, refused, what)
        if any(challenge.scheme == "basic" for challenge in offered):
            basic = await self._basic(endpoint.root, endpoint)
            if basic is not None and basic != refused:
                _remember(self._ways, endpoint, basic)
                return basic
        return None

    async def _basic(self, target: URL, endpoint: Endpoint) -> Authorization | None:
        """Return the user's credentials for *endpoint*, if there are any and *target* may have them."""
        credentials = await self._keychain.credentials(endpoint.host, endpoint.repository)
        if credentials is None:
            return None
        if not may_carry_credentials(target, endpoint.root):
            raise RequestRefused(
                f"{endpoint.host}: credentials for {endpoint.repository} were not sent to {host_of(target)}, "
                "which is not known to belong to that registry or is not encrypted"
            )
        return Authorization(credentials.basic(), anonymous=False)

    async def _token(self, grant: _Grant, refused: Authorization | None, what: str) -> Authorization:
        kept = self._kept.get(grant) or _remember(self._kept, grant, _Kept())
        async with kept.lock:
            if kept.value is not None and kept.value != refused and self._clock.now() < kept.until:
                return kept.value
            asked_at = self._clock.now()
            kept.value, lifetime = await self._fetch(grant, what)
            kept.until = asked_at + lifetime
            return kept.value

    async def _fetch(self, grant: _Grant, what: str) -> tuple[Authorization, float]:
        basic = await self._basic(grant.realm, grant.endpoint)
        async with self._http.request(
            "GET",
            grant.url(),
            registry=grant.endpoint.root,
            what=f"{what}: token",
            authorization=basic,
            # A token server that moves away could be anybody's by then.
            redirects=False,
        ) as answer:
            if answer.status != 200:
                raise await answer.error("the registry names a token server that is not there")
            token, lifetime = _decode(await answer.read(_BODY_LIMIT), answer, what)
            return Authorization(token, anonymous=basic is None), lifetime


def _grant(endpoint: Endpoint, challenge: Challenge) -> _Grant:
    parameters = challenge.parameters
    realm = parse_url(parameters["realm"], f"{endpoint.host}: token realm")
    scopes = tuple(parameters.get("scope", "").split()) or (f"repository:{endpoint.repository}:pull",)
    return _Grant(endpoint, realm, parameters.get("service"), scopes)


def _decode(body: bytes, answer: Answer, what: str) -> tuple[Secret, float]:
    """Return the ``Authorization`` value and the seconds for which to use it."""
    try:
        told = msgspec.json.decode(body, type=_TokenAnswer, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        # msgspec names the place, never the value.
        raise RegistryError(f"{what}: {answer.host} sent no valid token: {one_line(str(exc))}") from None
    token = told.token or told.access_token or ""
    if _TOKEN.fullmatch(token) is None:
        raise RegistryError(f"{what}: {answer.host} sent no token, or one that can't be sent on")
    return Secret(f"Bearer {token}"), lifetime_of(told.expires_in, told.issued_at, answer.headers)


def lifetime_of(expires_in: float | None, issued_at: str | None, headers: Mapping[str, str]) -> float:
    """Return the seconds for which to use a token, with a margin for the way.

    The token's age is told by the server's own ``Date`` field, so this machine's clock does not matter.
    """
    lifetime = _DEFAULT_LIFETIME if expires_in is None else expires_in
    # Written so that a NaN becomes 0 too.
    lifetime = min(lifetime, _LONGEST_LIFETIME) if lifetime > 0 else 0.0
    now = http_date(headers.get("Date", ""))
    age = 0.0
    if issued_at and now is not None:
        try:
            issued = datetime.fromisoformat(issued_at[:64])
            age = (now - issued).total_seconds() if issued.tzinfo else 0.0
        except ValueError:
            age = 0.0
    left = lifetime - max(age, 0.0)
    return max(0.0, left - min(10.0, left / 4))


def _remember(where: dict[_K, _V], key: _K, value: _V) -> _V:
    """Keep *value*; forget the oldest if a long-lived client has seen very many repositories."""
    where[key] = value
    if len(where) > _REMEMBERED:
        del where[next(iter(where))]
    return value
