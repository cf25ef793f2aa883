"""Each kind of credential on each way out of its registry: no request carries one to whom it is not for."""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from aioruntime.errors import RegistryError
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import ANONYMOUS, Credentials, Secret
from tests.registry.helpers import DATA, blob_path, layer_of
from tests.support.registries import OneKey
from tests.support.scripted import Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.scripted import Request

pytestmark = pytest.mark.usefixtures("example_names")

PASSWORD = Credentials("user", Secret("canary-password"))
SOURCES = {
    "nothing": None,
    "a password": PASSWORD,
    "an identity token": Credentials("", Secret(""), identity_token=Secret("canary-identity")),
    "a registry token": Credentials("", Secret(""), registry_token=Secret("canary-registry")),
}
# As they are sent: the password in Basic, and the token that the registry's own token server gives.
NAMES = ("registry.example", "other.example", "registry.example.other.example")
SECRETS = (
    "dXNlcjpjYW5hcnktcGFzc3dvcmQ",
    "canary-password",
    "canary-identity",
    "canary-registry",
    "canary-token",
)


class Named(ScriptedServer):
    """A server that references and URLs call by a name."""

    def __init__(self, name: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.name = name

    async def __aenter__(self) -> Named:
        await super().__aenter__()
        return self

    @property
    def origin(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass
class World:
    """A registry, its token server on another port of its host, another host, and one without TLS."""

    registry: Named
    tokens: Named
    other: Named
    plain: Named

    def servers(self) -> tuple[Named, ...]:
        return (self.registry, self.tokens, self.other, self.plain)

    def wants(self, realm: str | None = None, scheme: str = "Bearer") -> None:
        """Let the registry refuse what carries no Authorization."""
        value = f'{scheme} realm="{realm or self.tokens.url + "/token"}",service="s"'
        absent = {"Authorization": None}
        self.registry.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": value}), requires=absent)

    def leads_to(self, location: str) -> None:
        """Let the registry redirect what carries an Authorization."""
        self.registry.on("GET", blob_path(), Reply(307, {"Location": location}))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that no system knows."""
    return trustme.CA()


@pytest.fixture
async def world(authority: trustme.CA) -> AsyncIterator[World]:
    """All servers; what is not scripted otherwise is given, whatever is asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*NAMES).configure_cert(context)
    names = ("registry.example", "registry.example", "other.example")
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(Named(name, context)) for name in names]
        plain = await stack.enter_async_context(Named("plain.example"))
        yield World(started[0], started[1], started[2], plain)


def same_origin_redirect(world: World) -> None:
    world.wants()
    world.leads_to("/elsewhere")


def redirect(world: World) -> None:
    world.wants()
    world.leads_to(f"{world.other.url}/elsewhere?X-Sig=1")


def redirect_with_basic(world: World) -> None:
    world.wants(scheme="Basic")
    world.leads_to(f"{world.other.url}/elsewhere")


def redirect_to_a_port(world: World) -> None:
    world.wants()
    world.leads_to(f"{world.tokens.url}/elsewhere")


def redirect_to_plain_http(world: World) -> None:
    world.wants()
    world.leads_to(f"{world.plain.url}/elsewhere")


def redirect_and_back(world: World) -> None:
    world.wants()
    world.leads_to(f"{world.other.url}/back")
    world.other.on("GET", "/back", Reply(302, {"Location": f"{world.registry.url}/elsewhere"}))


def redirect_to_a_bearer_challenge(world: World) -> None:
    world.wants()
    world.leads_to(f"{world.other.url}/wants")
    value = f'Bearer realm="{world.other.url}/token"'
    world.other.on("GET", "/wants", Reply(401, {"WWW-Authenticate": value}))


def redirect_to_a_basic_challenge(world: World) -> None:
    world.wants()
    world.leads_to(f"{world.other.url}/wants")
    world.other.on("GET", "/wants", Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))


def redirect_before_any_challenge(world: World) -> None:
    world.leads_to(f"{world.other.url}/wants")
    world.other.on("GET", "/wants", Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))


def realm_of_another_host(world: World) -> None:
    world.wants(f"{world.other.url}/token")


def realm_of_a_name_alike(world: World) -> None:
    world.wants(f"https://registry.example.other.example:{world.other.port}/token")


def realm_without_tls(world: World) -> None:
    world.wants(f"{world.plain.url}/token")


def realm_that_redirects(world: World) -> None:
    world.wants(f"{world.tokens.url}/moved")
    world.tokens.on("*", "/moved", Reply(307, {"Location": f"{world.other.url}/token"}))


def own_realm(world: World) -> None:
    world.wants()


WAYS: tuple[Callable[[World], None], ...] = (
    same_origin_redirect,
    redirect,
    redirect_with_basic,
    redirect_to_a_port,
    redirect_to_plain_http,
    redirect_and_back,
    redirect_to_a_bearer_challenge,
    redirect_to_a_basic_challenge,
    redirect_before_any_challenge,
    realm_of_another_host,
    realm_of_a_name_alike,
    realm_without_tls,
    realm_that_redirects,
    own_realm,
)


def carried(request: Request) -> set[str]:
    """The secrets that a request has anywhere."""
    whole = f"{request.target} {request.headers} {request.body.decode()}"
    return {secret for secret in SECRETS if secret in whole}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_no_credential_goes_astray(
    world: World, authority: trustme.CA, way: Callable[[World], None], source: str
) -> None:
    """R1, R2, R3, R4, R5, T10: a credential goes to its registry and that one's token server, never on."""
    way(world)
    for server in world.servers():
        server.on("*", "/token", Reply(body=b'{"token": "canary-token"}'))
        server.on("GET", "/elsewhere", Reply(body=DATA))
    world.registry.on("GET", blob_path(), Reply(body=DATA))
    credentials = SOURCES[source]
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    keychain = OneKey(credentials) if credentials else ANONYMOUS
    image = OciRef.parse(f"{world.registry.origin}/org/tool:1")
    arrived = b""
    async with RegistryClient(ssl_context=trusting, keychain=keychain) as client:
        try:
            async with client.blob(image, layer_of()) as stream:
                arrived = b"".join([chunk async for chunk in stream])
        except RegistryError:
            pass

    if way is own_realm or way is same_origin_redirect:
        assert arrived == DATA
    at_registry = {secret for request in world.registry.requests for secret in carried(request)}
    at_tokens = {secret for request in world.tokens.requests for secret in carried(request)}
    # The token that a registry's own token server gives is for the registry, and no password is.
    basic = {SECRETS[0]} if way is redirect_with_basic else set()
    assert at_registry <= {"canary-token", "canary-registry"} | basic
    assert at_tokens <= {SECRETS[0], "canary-identity"}
    if way is own_realm and credentials:
        assert at_registry | at_tokens
    elsewhere = [request for server in (world.other, world.plain) for request in server.requests]
    assert [request for request in elsewhere if carried(request)] == []
    returned = [request for request in world.registry.requests if request.path == "/elsewhere"]
    assert way is same_origin_redirect or all(not carried(request) for request in returned)
    if way is redirect_to_plain_http or way is realm_without_tls:
        assert world.plain.connections == 0
