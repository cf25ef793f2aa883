"""A token server whose signed tokens Debian's docker-registry takes: for Basic, and for a refresh token."""

from __future__ import annotations

import json
import secrets
import ssl
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

import jwt

from tests.support.scripted import Reply, Request, ScriptedServer

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import trustme

__all__ = ("PASSWORD", "REFRESH_TOKEN", "USER", "TokenServer")

USER = "user"
PASSWORD = "open sesame"
REFRESH_TOKEN = "refresh-me"
_SERVICE = "the registry"


class TokenServer:
    """Gives tokens for whatever scope is asked for, to whom it knows; an async context manager.

    Args:
        authority: whose certificate the registry trusts for signatures.
        folder: where the registry reads it.
        posts: whether it takes POST, with the refresh token; it answers 405 if not.
    """

    def __init__(self, authority: trustme.CA, folder: Path, *, posts: bool = True) -> None:
        self.server = ScriptedServer()
        self._bundle = folder / "signers.pem"
        self._bundle.write_bytes(authority.cert_pem.bytes())
        signer = authority.issue_cert("tokens.example")
        self._key = signer.private_key_pem.bytes()
        chain = (pem.bytes().decode() for pem in signer.cert_chain_pems[:1])
        self._chain = [b64encode(ssl.PEM_cert_to_DER_cert(pem)).decode() for pem in chain]
        self.server.on("GET", "/token", self._by_basic)
        self.server.on("POST", "/token", self._by_refresh_token if posts else Reply(405))

    @property
    def origin(self) -> str:
        """`host:port`, as in `trusted_realms=`."""
        return self.server.origin

    @property
    def requests(self) -> list[Request]:
        """What it was asked, oldest first."""
        return self.server.requests

    @property
    def auth_section(self) -> dict[str, Any]:
        """The registry's configuration."""
        return {
            "token": {
                "realm": f"{self.server.url}/token",
                "service": _SERVICE,
                "issuer": "tokens",
                "rootcertbundle": str(self._bundle),
            }
        }

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.__aexit__(kind, error, trace)

    def _by_basic(self, request: Request) -> Reply:
        known = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        asked = parse_qs(request.query)
        return self._answer(request.header("Authorization") == known, asked, asked.get("scope", []))

    def _by_refresh_token(self, request: Request) -> Reply:
        asked = parse_qs(request.body.decode())
        right = asked.get("grant_type") == ["refresh_token"] and asked.get("refresh_token") == [REFRESH_TOKEN]
        return self._answer(
            right and bool(asked.get("client_id")), asked, asked.get("scope", [""])[0].split()
        )

    def _answer(self, known: bool, asked: dict[str, list[str]], scopes: list[str]) -> Reply:
        if not known or asked.get("service") != [_SERVICE]:
            return Reply(401, body=b'{"details": "who are you?"}')
        body = {"token": self._signed(scopes), "expires_in": 300}
        return Reply(headers={"Content-Type": "application/json"}, body=json.dumps(body).encode())

    def _signed(self, scopes: list[str]) -> str:
        now = int(time.time())
        claims = {
            "iss": "tokens",
            "sub": USER,
            "aud": _SERVICE,
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [_access(scope) for scope in scopes],
        }
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"x5c": self._chain})


def _access(scope: str) -> dict[str, Any]:
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return {"type": kind, "name": name, "actions": actions.split(",")}
