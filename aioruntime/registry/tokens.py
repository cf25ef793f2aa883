"""What a token server is asked for, and what it answers (L2, pure).

Follows "Token Authentication Specification" and "OAuth2 Token Authentication" of the distribution project.
"""

from __future__ import annotations

__all__ = ("Grant", "Token", "TokenRequest", "decode_token", "grant_for", "lifetime_of", "token_requests")

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlencode

import msgspec
from yarl import URL

from aioruntime.errors import RegistryError, one_line
from aioruntime.registry.credentials import Authorization, Secret
from aioruntime.registry.endpoints import Endpoint
from aioruntime.registry.failures import http_date
from aioruntime.registry.origins import parse_url

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from aioruntime.registry.challenge import Challenge
    from aioruntime.registry.credentials import Credentials

_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
# "expires_in: … If omitted, this defaults to 60 seconds."
_DEFAULT_LIFETIME = 60.0
_LONGEST_LIFETIME = 24 * 3600.0
_NO_POST = frozenset({404, 405})
_REFRESH_REFUSED = _NO_POST | {400, 401, 403}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is asked for.

    Args:
        endpoint: the repository whose registry wants it.
        realm: the token server.
        service: what the token server calls the registry.
        scopes: what shall be allowed.
    """

    endpoint: Endpoint
    realm: URL
    service: str | None
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request to a token server.

    Args:
        method: GET, or POST with a refresh token.
        url: where to.
        authorization: what goes with it.
        form: the body; None for GET.
        gives_way: at an answer with one of these statuses, the next request is tried.
    """

    method: Literal["GET", "POST"]
    url: URL
    authorization: Authorization | None = None
    form: Secret | None = None
    gives_way: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Token:
    """What a token server gave.

    Args:
        value: the ``Authorization`` value.
        lifetime: seconds for which to use it.
        refresh: what the next one can be had for; None if it gave none.
    """

    value: Secret
    lifetime: float
    refresh: Secret | None = None


class _TokenAnswer(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None
    issued_at: str | None = None


def grant_for(endpoint: Endpoint, challenge: Challenge, wanted: Collection[str] = ()) -> Grant:
    """Return what to ask for after a Bearer challenge.

    Args:
        endpoint: the repository whose registry has sent it.
        challenge: the challenge; it has a ``realm``.
        wanted: scopes needed besides those that it names.

    Raises:
        RequestRefused: the realm is no URL that a request may go to.
    """
    parameters = challenge.parameters
    realm = parse_url(parameters["realm"], f"{endpoint.host}: token realm")
    scopes = tuple(parameters.get("scope", "").split()) or (f"repository:{endpoint.repository}:pull",)
    joined = _joined([*scopes, *sorted(wanted)]) if wanted else scopes
    return Grant(endpoint, realm, parameters.get("service"), joined)


def _joined(scopes: Collection[str]) -> tuple[str, ...]:
    """Join the actions that are named for the same resource."""
    actions: dict[str, dict[str, None]] = {}
    for scope in scopes:
        resource, colon, named = scope.rpartition(":")
        actions.setdefault(resource + colon, {}).update(dict.fromkeys(named.split(",")))
    return tuple(resource + ",".join(named) for resource, named in actions.items())


def token_requests(
    grant: Grant, credentials: Credentials | None, refresh: Secret | None
) -> Iterator[TokenRequest]:
    """Give the requests to try for a token, each if the one before it gave way.

    Args:
        grant: what for.
        credentials: the user's; None to stay anonymous.
        refresh: what the token server has given to have the next token for.
    """
    if credentials is not None:
        if refresh is not None:
            yield _post(grant, refresh, _REFRESH_REFUSED)
        if credentials.identity_token is not None:
            yield _post(grant, credentials.identity_token, _NO_POST)
        if credentials.identity_token is not None and not credentials.password.reveal():
            credentials = replace(credentials, password=credentials.identity_token)
    basic = Authorization(credentials.basic(), anonymous=False) if credentials else None
    fields = [*_service(grant), *(("scope", scope) for scope in grant.scopes)]
    # Put together as text: the realm's own query has to stay as it is.
    joint = "&" if grant.realm.raw_query_string else "?"
    url = parse_url(str(grant.realm).rstrip("?&") + joint + urlencode(fields), "token realm")
    yield TokenRequest("GET", url, basic)


def _post(grant: Grant, token: Secret, gives_way: frozenset[int]) -> TokenRequest:
    fields = [
        ("grant_type", "refresh_token"),
        *_service(grant),
        ("client_id", "aioruntime"),
        ("scope", " ".join(grant.scopes)),
        ("refresh_token", token.reveal()),
    ]
    return TokenRequest("POST", grant.realm, form=Secret(urlencode(fields)), gives_way=gives_way)


def _service(grant: Grant) -> list[tuple[str, str]]:
    return [("service", grant.service)] if grant.service is not None else []


def decode_token(body: bytes, headers: Mapping[str, str], what: str, host: str) -> Token:
    """Decode the answer of a token server.

    Raises:
        RegistryError: it has no token, or one that can't be sent on.
    """
    # What holds the token is given up before an error can show the variables here.
    told, body = _told(body), b""
    if isinstance(told, str):
        raise RegistryError(f"{what}: {host} sent no valid token: {told}")
    token = Secret(told.token or told.access_token or "")
    refresh = Secret(told.refresh_token) if told.refresh_token else None
    lifetime = lifetime_of(told.expires_in, told.issued_at, headers)
    told = ""
    if _TOKEN.fullmatch(token.reveal()) is None:
        raise RegistryError(f"{what}: {host} sent no token, or one that can't be sent on")
    return Token(Secret(f"Bearer {token.reveal()}"), lifetime, refresh)


def _told(body: bytes) -> _TokenAnswer | str:
    """Return the answer, or what is wrong with it."""
    try:
        return msgspec.json.decode(body, type=_TokenAnswer, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        return one_line(str(exc))  # msgspec names the place, never the value


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
