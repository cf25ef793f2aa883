"""Debian's docker-registry behind each kind of door, and what a client needs to come in.

``RegistryClient(**guarded.options)`` may pull from ``guarded.host`` and push to it.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trustme

from aioruntime.demo.registry import LocalRegistry
from aioruntime.registry.credentials import Credentials, Secret
from tests.support.tokens import PASSWORD, REFRESH_TOKEN, USER, TokenServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ("DOORS", "Guarded", "OneKey", "guarded_registry", "write_certificates")

DOORS = (
    "anonymous",
    "htpasswd",
    "token",
    "identity-token",
    "identity-token-without-post",
    "certs.d",
    "ssl-context",
    "client-certificate",
)
# PASSWORD under bcrypt, the only hash that docker-registry takes.
_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"


class OneKey:
    """A keychain that has the same for every repository of one host, and notes who asked."""

    def __init__(self, credentials: Credentials, host: str | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self._credentials = credentials
        self._host = host

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        self.asked.append((host, repository))
        return self._credentials if self._host in (None, host) else None


@dataclass(frozen=True, slots=True)
class Guarded:
    """A running registry, the host to put into references, and the arguments of a client that may come in."""

    registry: LocalRegistry
    options: dict[str, Any] = field(default_factory=dict)
    tokens: TokenServer | None = None

    @property
    def host(self) -> str:
        return self.registry.host


@asynccontextmanager
async def guarded_registry(door: str, storage: Path, folder: Path, home: Path) -> AsyncIterator[Guarded]:
    """Run a registry behind *door*.

    *folder* takes its files; certificates for the client are put into *home*, which HOME has to be.
    """
    authority = trustme.CA()
    if door == "anonymous":
        async with LocalRegistry(storage) as registry:
            yield Guarded(registry)
    elif door == "htpasswd":
        (folder / "htpasswd").write_text(_HTPASSWD)
        section = {"auth": {"htpasswd": {"realm": "here", "path": str(folder / "htpasswd")}}}
        async with LocalRegistry(storage, config=section) as registry:
            yield Guarded(registry, {"keychain": OneKey(Credentials(USER, Secret(PASSWORD)), registry.host)})
    elif "token" in door:
        async with _by_token(door, storage, folder, authority) as guarded:
            yield guarded
    else:
        async with _by_tls(door, storage, folder, home, authority) as guarded:
            yield guarded


@asynccontextmanager
async def _by_token(door: str, storage: Path, folder: Path, authority: trustme.CA) -> AsyncIterator[Guarded]:
    credentials = Credentials(USER, Secret(PASSWORD))
    if door == "identity-token":
        credentials = Credentials("", Secret(""), identity_token=Secret(REFRESH_TOKEN))
    elif door == "identity-token-without-post":
        credentials = Credentials(USER, Secret(PASSWORD), identity_token=Secret(REFRESH_TOKEN))
    async with (
        TokenServer(authority, folder, posts=door != "identity-token-without-post") as tokens,
        LocalRegistry(storage, config={"auth": tokens.auth_section}) as registry,
    ):
        keychain = OneKey(credentials, registry.host)
        yield Guarded(registry, {"keychain": keychain, "trusted_realms": [tokens.origin]}, tokens)


@asynccontextmanager
async def _by_tls(
    door: str, storage: Path, folder: Path, home: Path, authority: trustme.CA
) -> AsyncIterator[Guarded]:
    server, bundle = authority.issue_cert("127.0.0.1", "localhost"), folder / "clients.pem"
    authority.cert_pem.write_to_path(bundle)
    (folder / "server.pem").write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
    server.private_key_pem.write_to_path(folder / "server.key")
    tls: dict[str, Any] = {"certificate": str(folder / "server.pem"), "key": str(folder / "server.key")}
    if door == "client-certificate":
        tls["clientcas"] = [str(bundle)]
    async with LocalRegistry(storage, config={"http": {"tls": tls}}) as registry:
        if door == "ssl-context":
            yield Guarded(registry, {"ssl_context": ssl.create_default_context(cafile=str(bundle))})
            return
        directory = home / ".config/containers/certs.d" / registry.host
        write_certificates(directory, authority, client=door == "client-certificate")
        yield Guarded(registry)


def write_certificates(directory: Path, authority: trustme.CA, *, client: bool = False) -> None:
    """Fill a directory of `certs.d` with the authority, and with a client's certificate and key."""
    directory.mkdir(parents=True)
    authority.cert_pem.write_to_path(directory / "ca.crt")
    if client:
        certificate = authority.issue_cert("client@example.com", common_name="client")
        (directory / "client.cert").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(directory / "client.key")
