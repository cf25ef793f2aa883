"""Answer a registry's challenges: bearer tokens, fetched once and kept until they expire (L2).

Follows "Token Authentication Specification" of the distribution project, and RFC 7617 for Basic.
"""

from __future__ import annotations

__all__ = ("Authenticator",)

import asyncio
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from aioruntime.errors import RegistryError, RequestRefused
from aioruntime.registry.challenge import parse_challenges
from aioruntime.registry.clock import SYSTEM_CLOCK
from aioruntime.registry.credentials import Authorization, Credentials, Secret
from aioruntime.registry.origins import host_of
from aioruntime.registry.tokens import Grant, decode_token, grant_for, token_requests

if TYPE_CHECKING:
    from collections.abc import Collection

    from yarl import URL

    from aioruntime.registry.answer import Answer
    from aioruntime.registry.clock import Clock
    from aioruntime.registry.credentials import Keychain
    from aioruntime.registry.endpoints import Endpoint
    from aioruntime.registry.http import Http

_BODY_LIMIT = 256 * 1024
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_REMEMBERED = 1024
_PULL: frozenset[str] = frozenset()
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class _Kept:
    """The token of one grant, and whose it is; the lock is held by the one request that is in flight."""

    value: Authorization | None = None
    fetched: int = 0
    until: float = 0.0
    identity: Credentials | None = None
    refresh: Secret | None = None
    failures: int = 0
    failure: RegistryError | None = None
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
        # What takes no scope (Basic) stands under `_PULL` and is good for all.
        self._ways: dict[tuple[Endpoint, frozenset[str]], Grant | Authorization] = {}
        self._kept: dict[Grant, _Kept] = {}

    async def known(
        self, endpoint: Endpoint, what: str, scopes: Collection[str] = ()
    ) -> Authorization | None:
        """Return the ``Authorization`` that *endpoint* took last for *scopes*, renewed if it has expired.

        Returns:
            None if there was none.

        Raises:
            RegistryError: it had to be renewed, which failed.
        """
        way = self._ways.get((endpoint, _PULL))
        if scopes and not isinstance(way, Authorization):
            way = self._ways.get((endpoint, frozenset(scopes)))
        return await self._token(way, None, what) if isinstance(way, Grant) else way

    async def answer(
        self,
        endpoint: Endpoint,
        challenges: str,
        refused: Authorization | None,
        what: str,
        scopes: Collection[str] = (),
    ) -> Authorization | None:
        """Answer the challenges of a 401.

        Args:
            endpoint: the repository whose registry has sent it.
            challenges: value of ``WWW-Authenticate``.
            refused: the ``Authorization`` that was sent and not taken; None if none was.
            what: the image or blob concerned, for messages.
            scopes: what is needed besides what the challenge names.

        Returns:
            The ``Authorization`` to try next; None if there is nothing that could help.

        Raises:
            RequestRefused: the token server is where no request may go, or our credentials may not.
            RegistryError: the challenge is malformed, or the token server gave no token.
        """
        offered = parse_challenges(challenges)
        for challenge in offered:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                grant = grant_for(endpoint, challenge, scopes)
                root = endpoint.root
                self._http.rules.may_send(grant.realm, registry=root, what="token realm", previous=root)
                _remember(self._ways, (endpoint, frozenset(scopes)), grant)
                return await self._token(grant, refused, what)
        if any(challenge.scheme == "basic" for challenge in offered):
            credentials = await self._credentials(endpoint)
            if credentials is not None and (credentials.username or credentials.password.reveal()):
                self._check_entitled(endpoint.root, endpoint)
                basic = Authorization(credentials.basic(), anonymous=False)
                if basic != refused:
                    _remember(self._ways, (endpoint, _PULL), basic)
                    return basic
        return None

    async def _credentials(self, endpoint: Endpoint) -> Credentials | None:
        return await self._keychain.credentials(endpoint.host, endpoint.repository)

    def _check_entitled(self, target: URL, endpoint: Endpoint) -> None:
        if not self._http.rules.may_carry_credentials(target, endpoint.root):
            host, repository = host_of(target), endpoint.repository
            why = "which is not encrypted"
            if target.scheme == endpoint.root.scheme == "https":
                why = (
                    "which is not known to belong to that registry; if it does, name "
                    f"{host!r} in trusted_realms="
                )
            raise RequestRefused(
                f"{endpoint.host}: credentials for {repository} were not sent to {host}, {why}"
            )

    async def _token(self, grant: Grant, refused: Authorization | None, what: str) -> Authorization:
        kept = self._kept.get(grant) or _remember(self._kept, grant, _Kept())
        fetched, failures = kept.fetched, kept.failures
        async with kept.lock:
            # What came while we waited for the lock is as new as what we could ask for.
            fresh = self._clock.now() < kept.until or kept.fetched != fetched
            # By identity: a token server may give the same token again, and not all shall ask for it.
            if kept.value is not None and kept.value is not refused and fresh:
                return kept.value
            # Else a wrong password would be sent once for each layer, which locks accounts.
            if kept.failure is not None and kept.failures != failures:
                raise copy(kept.failure)
            try:
                kept.value = await self._fetch(grant, kept, what)
            except RegistryError as exc:
                kept.failures += 1
                kept.failure = copy(exc)  # who raises it may add notes
                raise
            kept.fetched += 1
            kept.failure = None
            return kept.value

    async def _fetch(self, grant: Grant, kept: _Kept, what: str) -> Authorization:
        """Get a token for the user whom the keychain names now."""
        asked_at = self._clock.now()
        credentials = await self._credentials(grant.endpoint)
        if credentials != kept.identity:
            kept.identity, kept.refresh = credentials, None
        if credentials is not None and credentials.registry_token is not None:
            self._check_entitled(grant.endpoint.root, grant.endpoint)
            kept.until = float("inf")
            return Authorization(Secret(f"Bearer {credentials.registry_token.reveal()}"), anonymous=False)
        if credentials is not None:
            self._check_entitled(grant.realm, grant.endpoint)
        for request in token_requests(grant, credentials, kept.refresh):
            async with self._http.request(
                request.method,
                request.url,
                registry=grant.endpoint.root,
                what=f"{what}: token",
                headers=_FORM if request.form else None,
                authorization=request.authorization,
                # A token server that moves away could be anybody's by then.
                redirects=False,
                body=request.form,
            ) as answer:
                if answer.status not in request.gives_way:
                    return await self._take(answer, kept, asked_at, what)
        raise AssertionError("the last request gives way to none")

    async def _take(self, answer: Answer, kept: _Kept, asked_at: float, what: str) -> Authorization:
        if answer.status != 200:
            raise await answer.error("the registry names a token server that is not there")
        token = decode_token(await answer.read(_BODY_LIMIT), answer.headers, what, answer.host)
        kept.until = asked_at + token.lifetime
        kept.refresh = token.refresh or kept.refresh
        return Authorization(token.value, anonymous=kept.identity is None and answer.public)


def _remember(where: dict[_K, _V], key: _K, value: _V) -> _V:
    """Keep *value*; forget the oldest if a long-lived client has seen very many repositories."""
    where[key] = value
    if len(where) > _REMEMBERED:
        del where[next(iter(where))]
    return value
