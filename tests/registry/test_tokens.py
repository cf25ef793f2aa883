"""Tokens by POST, whose they are, and what they allow."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import traceback
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import pytest

from aioruntime.errors import RegistryError, RequestRefused, Unauthorized
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import Credentials, Secret
from tests.registry.behind_tokens import SCOPE, Clock, challenge, read, serve_behind_token, token_requests
from tests.registry.helpers import DATA, blob_path, layer_of
from tests.support.registries import OneKey
from tests.support.scripted import Fault, Reply, Request, ScriptedServer
from tests.support.served_image import make_image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USER = Credentials("user", Secret("canary"))
BASIC = "Basic dXNlcjpjYW5hcnk="
IDENTITY = Credentials("", Secret(""), identity_token=Secret("identity-canary"))


def gives(token: str, **more: object) -> Reply:
    return Reply(body=json.dumps({"token": token, **more}).encode())


def form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode()))


async def test_identity_token(server: ScriptedServer) -> None:
    """An identity token goes in the body of a POST, with what it is for, and nowhere else."""
    serve_behind_token(server, challenge(server))
    server.on("POST", "/token", gives("t1"))
    image = OciRef.parse(f"{server.origin}/org/tool:1")
    async with (
        RegistryClient(keychain=OneKey(IDENTITY)) as client,
        client.blob(image, layer_of()) as stream,
    ):
        assert not stream.public

    (request,) = token_requests(server)
    assert request.target == "/token?a=%2f"
    assert request.header("Content-Type") == "application/x-www-form-urlencoded"
    assert request.header("Authorization") is None
    assert form(request) == {
        "grant_type": "refresh_token",
        "service": "a service",
        "client_id": "aioruntime",
        "scope": SCOPE,
        "refresh_token": "identity-canary",
    }


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize(
    ("credentials", "basic"),
    [
        (IDENTITY, "Basic OmlkZW50aXR5LWNhbmFyeQ=="),
        (Credentials("user", Secret("canary"), identity_token=Secret("x")), BASIC),
    ],
)
async def test_no_post(server: ScriptedServer, status: int, credentials: Credentials, basic: str) -> None:
    """A token server that takes no POST is asked by GET, with the identity token if there is no password."""
    serve_behind_token(server, challenge(server))
    server.on("POST", "/token", Reply(status))
    server.on("GET", "/token", gives("t1"), requires={"Authorization": basic})
    async with RegistryClient(keychain=OneKey(credentials)) as client:
        assert await read(client, server) == DATA


async def test_identity_token_refused(server: ScriptedServer) -> None:
    """An identity token that is refused is told as such, without being shown."""
    serve_behind_token(server, challenge(server))
    server.on("POST", "/token", Reply(401, body=b'{"details": "expired"}'))
    async with RegistryClient(keychain=OneKey(IDENTITY)) as client:
        with pytest.raises(Unauthorized, match="expired") as caught:
            await read(client, server)

    assert len(token_requests(server)) == 1
    assert "canary" not in str(caught.value)


async def test_refresh_token_is_kept(server: ScriptedServer) -> None:
    """A refresh token is used for the next token; once it is refused, the password is sent again."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", gives("t1", refresh_token="r1"), requires={"Authorization": BASIC})
    server.on("POST", "/token", gives("t1", refresh_token="r2"), gives("t1"), Reply(400))
    clock = Clock()
    async with RegistryClient(keychain=OneKey(USER), clock=clock) as client:
        for _ in range(4):
            assert await read(client, server) == DATA
            clock.time += 1000

    asked = [(request.method, form(request).get("refresh_token")) for request in token_requests(server)]
    assert asked == [("GET", None), ("POST", "r1"), ("POST", "r2"), ("POST", "r2"), ("GET", None)]


async def test_anonymous_refresh_token(server: ScriptedServer) -> None:
    """Without credentials, tokens are had by GET alone: what anybody gets is told from what is ours."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", gives("t1", refresh_token="r1"))
    clock = Clock()
    async with RegistryClient(clock=clock) as client:
        for _ in range(2):
            assert await read(client, server) == DATA
            clock.time += 1000

    assert [request.method for request in token_requests(server)] == ["GET", "GET"]


class Changing:
    """A keychain that has somebody else's credentials each time."""

    def __init__(self, *all_of_them: Credentials) -> None:
        self.left = list(all_of_them)

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        return self.left.pop(0)


async def test_refresh_token_of_another_user(server: ScriptedServer) -> None:
    """C6: a refresh token that was given for one identity is not used for another."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", gives("t1", refresh_token="r1"))
    clock = Clock()
    keychain = Changing(USER, Credentials("other", Secret("word")))
    async with RegistryClient(keychain=keychain, clock=clock) as client:
        for _ in range(2):
            assert await read(client, server) == DATA
            clock.time += 1000

    asked = [(request.method, request.header("Authorization")) for request in token_requests(server)]
    assert asked == [("GET", BASIC), ("GET", "Basic b3RoZXI6d29yZA==")]


async def test_token_of_another_registry(server: ScriptedServer, other: ScriptedServer) -> None:
    """C6: two registries with one token server have a token each, whatever they say that it is for."""
    same = challenge(server)
    server.on("GET", "/token", gives("t1"), gives("t2"))
    serve_behind_token(server, same, valid="t1")
    serve_behind_token(other, same, valid="t2")
    async with RegistryClient() as client:
        assert await read(client, server) == DATA
        assert await read(client, other) == DATA

    assert [r.header("Authorization") for r in other.requests] == [None, "Bearer t2"]


class ByRepository:
    """A keychain with somebody else's credentials for each repository."""

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        return Credentials(repository, Secret("word"))


async def test_token_of_another_identity(server: ScriptedServer) -> None:
    """C6: repositories that the keychain tells apart share no token, even for the same scope."""
    for repository, token in (("org/a", "ta"), ("org/b", "tb")):
        path = f"/v2/{repository}/tags/list"
        server.on("GET", path, Reply(), requires={"Authorization": f"Bearer {token}"})
        server.on("GET", path, Reply(401, {"WWW-Authenticate": challenge(server)}))
    server.on("GET", "/token", gives("ta"), gives("tb"))
    async with RegistryClient(keychain=ByRepository()) as client:
        for repository in ("org/a", "org/b"):
            assert await ask(client, server, repository) == 200

    first, second = (request.header("Authorization") for request in token_requests(server))
    assert first != second


@pytest.mark.parametrize("ended_by", ["its time", "the registry"])
async def test_200_resolves_with_an_expired_token(server: ScriptedServer, ended_by: str) -> None:
    """200 calls that need a new token at once cause one request for it, whoever ended the old one."""
    valid = ["t1"]

    def serve(data: bytes) -> Callable[[Request], Reply]:
        wanted = Reply(401, {"WWW-Authenticate": challenge(server)})
        return lambda r: Reply(body=data) if r.header("Authorization") == f"Bearer {valid[0]}" else wanted

    for path, data in make_image("org/tool", "1", [b"layer"]).items():
        server.on("GET", path, serve(data))
    stall = Fault("stall", 0)
    renewed = gives("t2", expires_in=300)
    server.on("GET", "/token", gives("t1", expires_in=300), Reply(body=renewed.body, faults=(stall,)))
    clock = Clock()
    image = OciRef.parse(f"{server.origin}/org/tool:1")
    async with RegistryClient(clock=clock, connections_per_host=64) as client:
        expected = await client.resolve(image)
        valid[0] = "t2"
        clock.time += 1000 if ended_by == "its time" else 0
        tasks = [asyncio.create_task(client.resolve(image)) for _ in range(200)]
        await stall.reached.wait()
        stall.release.set()
        assert {found.digest for found in await asyncio.gather(*tasks)} == {expected.digest}

    assert len(token_requests(server)) == 2


@pytest.mark.parametrize("status", [401, 503])
async def test_a_failure_is_that_of_all_who_wait(server: ScriptedServer, status: int) -> None:
    """A password that is wrong is sent once for all who wait, not for each; who comes later tries again."""
    server.on("GET", re.compile("/v2/.*"), Reply(401, {"WWW-Authenticate": challenge(server)}))
    stall = Fault("stall", 0)
    server.on("GET", "/token", Reply(status, body=b"{}", faults=(stall,)), Reply(status))
    image = OciRef.parse(f"{server.origin}/org/tool:1")
    async with RegistryClient(keychain=OneKey(USER), connections_per_host=64, retries=0) as client:
        tasks = [asyncio.create_task(client.resolve(image)) for _ in range(30)]
        await stall.reached.wait()
        await asyncio.sleep(0.2)  # until the others wait for it
        stall.release.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {getattr(error, "status", None) for error in ended} == {status}
        assert len({id(error) for error in ended}) == 30
        assert len(token_requests(server)) <= 3  # some may have come later
        before = len(token_requests(server))
        with pytest.raises(RegistryError):
            await client.resolve(image)

    assert len(token_requests(server)) == before + 1


async def test_credentials_that_are_not_taken(server: ScriptedServer) -> None:
    """It is told apart whether there were no credentials, or wrong ones, at the registry or for a token."""
    server.on("GET", "/v2/org/basic/manifests/1", Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    server.on("GET", re.compile("/v2/.*"), Reply(401, {"WWW-Authenticate": challenge(server)}))
    server.on("GET", "/token", Reply(401))
    server.on("POST", "/token", Reply(401))
    for repository in ("org/basic", "org/token"):
        image = OciRef.parse(f"{server.origin}/{repository}:1")
        for given in (USER, IDENTITY) if repository == "org/token" else (USER,):
            async with RegistryClient(keychain=OneKey(given)) as client:
                for _ in range(2):
                    with pytest.raises(Unauthorized, match="did not take the credentials") as caught:
                        await client.resolve(image)
                    assert caught.value.status == 401
        async with RegistryClient() as client:
            with pytest.raises(Unauthorized, match="wants credentials; the repository is private"):
                await client.resolve(image)


async def test_the_same_token_again(server: ScriptedServer) -> None:
    """A token server that gives a refused token again is not asked by everybody who was refused."""
    server.on("GET", blob_path(), Reply(body=DATA), requires={"Authorization": "Bearer t1"}, times=1)
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": challenge(server)}))
    server.on("GET", "/token", gives("t1", expires_in=300))
    async with RegistryClient() as client:
        await read(client, server)
        ended = await asyncio.gather(*(read(client, server) for _ in range(8)), return_exceptions=True)

    assert {type(error) for error in ended} == {Unauthorized}
    assert len(token_requests(server)) == 2


async def test_a_token_of_no_duration(server: ScriptedServer) -> None:
    """A token that expires at once is good for all who wait for it, not for those who come later."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", gives("t1", expires_in=0))
    async with RegistryClient() as client:
        await read(client, server)
        await asyncio.gather(*(read(client, server) for _ in range(8)))

    assert len(token_requests(server)) == 2


PUSH = "repository:org/tool:pull,push"
MOUNT = "repository:org/from:pull"


async def ask(
    client: RegistryClient, server: ScriptedServer, repository: str = "org/tool", scopes: Sequence[str] = ()
) -> int:
    endpoint = client._endpoint(OciRef.parse(f"{server.origin}/{repository}:1"))
    url = endpoint.url("tags/list")
    async with client._requests.open("GET", url, endpoint, "test", scopes=scopes) as answer:
        return answer.status


async def test_scopes_besides_pulling(server: ScriptedServer) -> None:
    """A token that allows less is not used, nor one for other scopes; each is kept, and asked for once."""
    granted: list[str] = []

    def grant(request: Request) -> Reply:
        granted.append(" ".join(value for name, value in parse_qsl(request.query) if name == "scope"))
        return gives(f"t{len(granted)}")

    server.on("GET", "/token", grant)
    server.on(
        "GET", "/v2/org/tool/tags/list", Reply(), requires={"Authorization": re.compile("Bearer t[0-9]")}
    )
    server.on("GET", "/v2/org/tool/tags/list", Reply(401, {"WWW-Authenticate": challenge(server)}))
    wanted: list[tuple[str, ...]] = [(), (PUSH,), (MOUNT, PUSH), (), (PUSH,), (PUSH, MOUNT)]
    async with RegistryClient() as client:
        for scopes in wanted:
            assert await ask(client, server, scopes=scopes) == 200

    assert granted == [SCOPE, PUSH, f"{PUSH} {MOUNT}"]
    sent = [r.header("Authorization") for r in server.requests if r.path != "/token"]
    assert [s for s in sent if s] == [f"Bearer t{n}" for n in (1, 2, 3, 1, 2, 3)]


async def test_basic_for_all_scopes(server: ScriptedServer) -> None:
    """Credentials that a registry takes as they are go along at once, whatever is to be done."""
    path = "/v2/org/tool/tags/list"
    server.on("GET", path, Reply(), requires={"Authorization": BASIC})
    server.on("GET", path, Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    async with RegistryClient(keychain=OneKey(USER)) as client:
        for scopes in ((PUSH,), (), (PUSH, MOUNT)):
            assert await ask(client, server, scopes=scopes) == 200

    assert len(server.requests) == 4


async def test_registry_token(server: ScriptedServer) -> None:
    """A registry token is sent to the registry as it is; no token server is asked."""
    serve_behind_token(server, challenge(server), valid="canary")
    credentials = Credentials("", Secret(""), registry_token=Secret("canary"))
    async with RegistryClient(keychain=OneKey(credentials)) as client:
        assert await read(client, server) == DATA
        assert await read(client, server) == DATA

    assert len(server.requests) == 3


async def test_registry_token_refused(server: ScriptedServer) -> None:
    """A registry token that the registry refuses is not sent for ever."""
    serve_behind_token(server, challenge(server), valid="another")
    credentials = Credentials("", Secret(""), registry_token=Secret("canary"))
    async with RegistryClient(keychain=OneKey(credentials)) as client:
        with pytest.raises(Unauthorized) as caught:
            await read(client, server)

    assert len(server.requests) == 2
    assert "canary" not in str(caught.value)


@pytest.mark.usefixtures("example_names")
@pytest.mark.parametrize(
    "credentials", [USER, IDENTITY, Credentials("", Secret(""), registry_token=Secret("canary"))]
)
@pytest.mark.parametrize("wanted", ["Basic", "Bearer"])
async def test_unencrypted(server: ScriptedServer, credentials: Credentials, wanted: str) -> None:
    """C9: no password and no token of the user's goes unencrypted to another machine."""
    origin = f"registry.example:{server.port}"
    value = f'{wanted} realm="http://{origin}/token"'
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": value}))
    image = OciRef.parse(f"{origin}/org/tool:1")
    async with RegistryClient(
        keychain=OneKey(credentials), plain_http=["registry.example"], trusted_realms=["registry.example"]
    ) as client:
        with pytest.raises((RequestRefused, Unauthorized)):
            async with client.blob(image, layer_of()):
                pass

    assert [request.header("Authorization") for request in server.requests] == [None]


@pytest.mark.parametrize("credentials", [USER, IDENTITY])
async def test_trusted_realm(server: ScriptedServer, other: ScriptedServer, credentials: Credentials) -> None:
    """R1: a token server elsewhere gets the credentials if the user has named it, and only then."""
    serve_behind_token(server, challenge(server, realm=f"{other.url}/token"))
    other.on("*", "/token", gives("t1"))
    async with RegistryClient(keychain=OneKey(credentials)) as client:
        with pytest.raises(RequestRefused, match=other.origin):
            await read(client, server)
    assert other.connections == 0

    async with RegistryClient(keychain=OneKey(credentials), trusted_realms=[other.origin]) as client:
        assert await read(client, server) == DATA


@pytest.mark.parametrize("credentials", [USER, IDENTITY])
async def test_secrets_stay_out_of_tracebacks(
    server: ScriptedServer, credentials: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    """What breaks while credentials are sent shows none: not with all variables, and not in logs."""
    caplog.set_level(logging.DEBUG)
    serve_behind_token(server, challenge(server))
    server.on("*", "/token", Reply(faults=(Fault("reset", of="response"),)))
    async with RegistryClient(keychain=OneKey(credentials)) as client:
        with pytest.raises(RegistryError) as caught:
            await read(client, server)

    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    for secret in ("canary", "dXNlcjpjYW5hcnk"):
        assert secret not in shown
        assert secret not in caplog.text
