"""Anonymous tokens, and the credentials that a keychain has."""

from __future__ import annotations

import asyncio
import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import RateLimited, RegistryError, RequestRefused, Unauthorized
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import ANONYMOUS, Credentials, Secret
from aioruntime.registry.tokens import lifetime_of
from tests.registry.behind_tokens import Clock, Holder, challenge, read, serve_behind_token, token_requests
from tests.registry.helpers import DATA, blob_path
from tests.support.scripted import Fault, Reply, ScriptedServer


@pytest.mark.parametrize("key", ["token", "access_token"])
async def test_token(server: ScriptedServer, key: str) -> None:
    """A token is fetched as the challenge says, once, and goes along with every request from then on."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", Reply(body=json.dumps({key: "t1"}).encode()))
    async with RegistryClient() as client:
        for _ in range(3):
            assert await read(client, server) == DATA

    assert [r.target for r in token_requests(server)] == [
        "/token?a=%2f&service=a+service&scope=repository%3Aorg%2Ftool%3Apull"
    ]
    assert token_requests(server)[0].header("Authorization") is None
    assert len(server.requests) == 5


async def test_scope_of_our_own(server: ScriptedServer) -> None:
    """A challenge that names neither scope nor service is answered with the scope that is needed."""
    serve_behind_token(server, challenge(server, scope="", service=""))
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}'))
    async with RegistryClient() as client:
        assert await read(client, server) == DATA

    assert token_requests(server)[0].query == "a=%2f&scope=repository%3Aorg%2Ftool%3Apull"


async def test_several_challenges(server: ScriptedServer) -> None:
    """The bearer challenge is found among others, and in a field of its own."""
    value = (("WWW-Authenticate", 'Negotiate, Basic realm="x"'), ("WWW-Authenticate", challenge(server)))
    server.on("GET", blob_path(), Reply(body=DATA), requires={"Authorization": "Bearer t1"})
    server.on("GET", blob_path(), Reply(401, value))
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}'))
    async with RegistryClient() as client:
        assert await read(client, server) == DATA


async def test_one_request_in_flight(server: ScriptedServer) -> None:
    """Many downloads that need the same token cause one request for it."""
    stall = Fault("stall", 0)
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}', faults=(stall,)))
    async with RegistryClient() as client:
        tasks = [asyncio.create_task(read(client, server)) for _ in range(8)]
        await stall.reached.wait()
        stall.release.set()
        assert await asyncio.gather(*tasks) == [DATA] * 8

    assert len(token_requests(server)) == 1


async def test_cancelled_while_fetching(server: ScriptedServer) -> None:
    """Whoever fetches the token may be cancelled: the next one who needs it fetches it."""
    stall = Fault("stall", 0)
    serve_behind_token(server, challenge(server))
    token = Reply(body=b'{"token": "t1"}')
    server.on("GET", "/token", Reply(body=token.body, faults=(stall,)), token)
    async with RegistryClient() as client:
        first = asyncio.create_task(read(client, server))
        await stall.reached.wait()
        second = asyncio.create_task(read(client, server))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == DATA
        stall.release.set()

    assert len(token_requests(server)) == 2


async def test_expiry(server: ScriptedServer) -> None:
    """A token is renewed shortly before it expires, without a request that is refused first."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", Reply(body=b'{"token": "t1", "expires_in": 300}'))
    clock = Clock()
    async with RegistryClient(clock=clock) as client:
        for moment in (0, 289, 2, 280):
            clock.time += moment
            assert await read(client, server) == DATA

    assert len(token_requests(server)) == 2
    assert len(server.requests) == 1 + 2 + 4


async def test_refused_token(server: ScriptedServer) -> None:
    """A kept token that is refused all at once is replaced by a new one, once."""
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": challenge(server)}), times=1)
    server.on("GET", blob_path(), Reply(body=DATA), requires={"Authorization": "Bearer t1"}, times=1)
    serve_behind_token(server, challenge(server), valid="t2")
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}'), Reply(body=b'{"token": "t2"}'))
    async with RegistryClient() as client:
        assert await read(client, server) == DATA
        assert await read(client, server) == DATA

    assert len(token_requests(server)) == 2


async def test_never_enough(server: ScriptedServer) -> None:
    """A registry that refuses its own token is not asked for ever."""
    body = b'{"errors": [{"code": "DENIED", "message": "private"}]}'
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": challenge(server)}, body))
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}'))
    async with RegistryClient() as client:
        with pytest.raises(Unauthorized, match="private or does not exist") as caught:
            await read(client, server)

    assert caught.value.code == "DENIED"
    assert len(server.requests) == 3


@pytest.mark.parametrize("value", ["", 'Basic realm="x"', "Negotiate", "Bearer", 'Bearer service="s"'])
async def test_nothing_to_offer(server: ScriptedServer, value: str) -> None:
    """A challenge that an anonymous client can't answer is an error that says what the registry wants."""
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": value} if value else {}))
    async with RegistryClient() as client:
        with pytest.raises(Unauthorized, match="wants credentials"):
            await read(client, server)

    assert len(server.requests) == 1


async def test_malformed_challenge(server: ScriptedServer) -> None:
    """A challenge that can't be read is an error of its own."""
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Bearer realm="'}))
    async with RegistryClient() as client:
        with pytest.raises(Unauthorized, match="malformed"):
            await read(client, server)


@pytest.mark.parametrize(
    "realm",
    [
        "http://registry.example/token",
        "https://169.254.169.254/token",
        "https://10.0.0.1/token",
        "https://[::ffff:169.254.169.254]/token",
        "ftp://127.0.0.1/token",
        "https://user:pw@auth.example/token",
        "/token",
        "",
    ],
)
async def test_realm_refused(server: ScriptedServer, realm: str) -> None:
    """R2: a token server where no request may go is not asked."""
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}))
    async with RegistryClient() as client:
        with pytest.raises(RequestRefused):
            await read(client, server)

    assert len(server.requests) == 1


async def test_token_redirect(server: ScriptedServer, other: ScriptedServer) -> None:
    """R2: a redirect of the token server is not followed."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", Reply(307, {"Location": f"{other.url}/token"}))
    async with RegistryClient() as client:
        with pytest.raises(RequestRefused, match="redirect"):
            await read(client, server)

    assert other.connections == 0


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(401), Unauthorized),
        (Reply(403), Unauthorized),
        (Reply(429, {"Retry-After": "3"}), RateLimited),
        (Reply(500), RegistryError),
        (Reply(body=b"<html>"), RegistryError),
        (Reply(body=b"{}"), RegistryError),
        (Reply(body=b'{"token": 3}'), RegistryError),
        (Reply(body=b'{"token": ""}'), RegistryError),
        (Reply(body=b'{"token": "a\\r\\nX: y"}'), RegistryError),
        (Reply(body=b'{"token": "a", "expires_in": ' + b"9" * 9999 + b"}"), RegistryError),
        (Reply(body=b'{"token": "' + b"a" * 300_000 + b'"}'), RegistryError),
        (Reply(body=b"[" * 100_000), RegistryError),
        (Reply(body=b"{}", headers={"Content-Encoding": "gzip"}), RegistryError),
    ],
)
async def test_token_server_fails(server: ScriptedServer, reply: Reply, kind: type[RegistryError]) -> None:
    """What a token server does wrong is told as such, with its host, and in bounded memory."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", reply)
    async with RegistryClient(retries=0) as client:
        with pytest.raises(kind) as caught:
            await read(client, server)

    assert server.origin in str(caught.value)
    assert len(str(caught.value)) < 600


async def test_credentials_for_a_token(server: ScriptedServer) -> None:
    """The keychain is asked once the registry has refused, and its answer goes to the token server alone."""
    serve_behind_token(server, challenge(server))
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}'))
    keychain = Holder()
    async with RegistryClient(keychain=keychain) as client:
        assert await read(client, server) == DATA

    assert keychain.asked == [(server.origin, "org/tool")]
    assert [r.header("Authorization") for r in server.requests] == [
        None,
        "Basic dXNlcjpjYW5hcnk=",
        "Bearer t1",
    ]


async def test_credentials_not_asked(server: ScriptedServer) -> None:
    """A registry that wants none sees none, and the keychain is not even asked."""
    server.on("GET", blob_path(), Reply(body=DATA))
    keychain = Holder()
    async with RegistryClient(keychain=keychain) as client:
        assert await read(client, server) == DATA

    assert keychain.asked == []
    assert server.requests[0].header("Authorization") is None


async def test_credentials_refused_to_strangers(server: ScriptedServer, other: ScriptedServer) -> None:
    """R1: a token server at another origin gets no credentials, and no request."""
    serve_behind_token(server, challenge(server, realm=f"{other.url}/token"))
    async with RegistryClient(keychain=Holder()) as client:
        with pytest.raises(RequestRefused, match=other.origin) as caught:
            await read(client, server)

    assert other.connections == 0
    assert "canary" not in "".join(traceback.format_exception(caught.value))


async def test_anonymous_token_of_another_host(server: ScriptedServer, other: ScriptedServer) -> None:
    """R1: without credentials, a token server elsewhere may be asked."""
    serve_behind_token(server, challenge(server, realm=f"{other.url}/token"))
    other.on("GET", "/token", Reply(body=b'{"token": "t1"}'))
    async with RegistryClient() as client:
        assert await read(client, server) == DATA


async def test_basic(server: ScriptedServer) -> None:
    """A registry that wants Basic gets the keychain's credentials, from then on at once."""
    server.on("GET", blob_path(), Reply(body=DATA), requires={"Authorization": "Basic dXNlcjpjYW5hcnk="})
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    async with RegistryClient(keychain=Holder()) as client:
        assert await read(client, server) == DATA
        assert await read(client, server) == DATA

    assert len(server.requests) == 3


async def test_basic_refused(server: ScriptedServer) -> None:
    """Credentials that are refused are not sent for ever."""
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    async with RegistryClient(keychain=Holder()) as client:
        for _ in range(2):
            with pytest.raises(Unauthorized):
                await read(client, server)

    assert len(server.requests) == 3


DATE = {"Date": "Thu, 01 Jan 2026 00:01:00 GMT"}


@pytest.mark.parametrize(
    ("expires_in", "issued_at", "headers", "expected"),
    [
        (None, None, {}, 50.0),
        (300, None, {}, 290.0),
        (20, None, {}, 15.0),
        (0, None, {}, 0.0),
        (-5, None, {}, 0.0),
        (float("nan"), None, {}, 0.0),
        (1e300, None, {}, 86390.0),
        (300, "2026-01-01T00:00:00Z", DATE, 230.0),
        (300, "2026-01-01T00:00:00.123456789Z", DATE, 230.123456),
        (300, "2026-01-01T00:00:00Z", {}, 290.0),
        (300, "2099-01-01T00:00:00Z", DATE, 290.0),
        (300, "1970-01-01T00:00:00Z", DATE, 0.0),
        (300, "yesterday", DATE, 290.0),
        (300, "2026-01-01T00:00:00", DATE, 290.0),
    ],
)
def test_lifetime(
    expires_in: float | None, issued_at: str | None, headers: dict[str, str], expected: float
) -> None:
    """A token's life is what its server says by its own clock, with a margin, a minute if it says nothing."""
    assert lifetime_of(expires_in, issued_at, headers) == pytest.approx(expected)


@given(st.none() | st.floats(), st.none() | st.text(max_size=40), st.text(max_size=40))
def test_any_lifetime(expires_in: float | None, issued_at: str | None, date: str) -> None:
    """No answer at all makes a token live longer than a day, or fails."""
    assert 0 <= lifetime_of(expires_in, issued_at, {"Date": date}) <= 86400


def test_secrets_do_not_show() -> None:
    """A password shows in no form but the one that is sent."""
    credentials = Credentials("user", Secret("canary"))

    shown = f"{credentials} {credentials!r} {credentials.password} {credentials.basic()!r} {ANONYMOUS!r}"

    assert "canary" not in shown
    assert "Y2FuYXJ5" not in shown
    assert credentials.password.reveal() == "canary"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
