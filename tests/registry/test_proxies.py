"""Proxies of the environment."""

from __future__ import annotations

import logging
import ssl
import traceback
from typing import TYPE_CHECKING

import pytest
import trustme
from yarl import URL

from aioruntime.errors import InvalidSpec, RegistryError, RequestRefused
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import Credentials, Secret
from aioruntime.registry.proxies import Proxies
from tests.registry.helpers import DATA, blob_path, image_at, layer_of
from tests.support.httpproxy import HttpProxy
from tests.support.registries import OneKey, write_certificates
from tests.support.scripted import Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.scripted import Request

pytestmark = pytest.mark.usefixtures("example_names")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that no system knows."""
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs to believe the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
async def tls(authority: trustme.CA) -> AsyncIterator[ScriptedServer]:
    """A registry with TLS, at `registry.example`, that wants a password for the blob."""
    async with ScriptedServer(tls=server_context(authority, "registry.example")) as running:
        want_password(running)
        yield running


def want_password(server: ScriptedServer) -> None:
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}), times=1)
    server.on("GET", blob_path(), Reply(body=DATA))


async def read(client: RegistryClient, server: ScriptedServer, host: str = "registry.example") -> bytes:
    image = OciRef.parse(f"{host}:{server.port}/org/tool:1")
    async with client.blob(image, layer_of()) as stream:
        return b"".join([chunk async for chunk in stream])


def headers(requests: list[Request], name: str) -> list[str | None]:
    return [request.header(name) for request in requests]


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
async def test_tunnel(
    tls: ScriptedServer, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """C7: through a tunnel, the proxy sees its own password and no other, the registry never the proxy's."""
    async with HttpProxy("open sesame") as proxy:
        monkeypatch.setenv(variable, f"http://user:open%20sesame@{proxy.origin}")
        keychain = OneKey(Credentials("user", Secret("canary")))
        async with RegistryClient(keychain=keychain, ssl_context=trusting) as client:
            monkeypatch.delenv(variable)  # read when the client was opened
            assert await read(client, tls) == DATA
            assert await read(client, tls) == DATA

    assert {(r.method, r.target) for r in proxy.requests} == {("CONNECT", f"registry.example:{tls.port}")}
    assert set(headers(proxy.requests, "Authorization")) == {None}
    assert headers(tls.requests, "Authorization") == [None, *["Basic dXNlcjpjYW5hcnk="] * 2]
    assert set(headers(tls.requests, "Proxy-Authorization")) == {None}


async def test_plain(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain requests go to the proxy whole, with its password, which it does not pass on."""
    server.on("GET", blob_path(), Reply(body=DATA))
    async with HttpProxy("open sesame") as proxy:
        monkeypatch.setenv("http_proxy", f"user:open%20sesame@{proxy.origin}")
        async with RegistryClient(plain_http=["registry.example"]) as client:
            assert await read(client, server) == DATA

    assert [r.target for r in proxy.requests] == [f"http://registry.example:{server.port}{blob_path()}"]
    assert headers(server.requests, "Proxy-Authorization") == [None]


async def test_redirects(
    tls: ScriptedServer, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    """Each hop of a redirect goes through the proxy, or not, as its own host wants it."""
    async with (
        HttpProxy() as proxy,
        ScriptedServer(tls=server_context(authority, "cdn.example")) as cdn,
    ):
        monkeypatch.setenv("https_proxy", f"http://{proxy.origin}")
        monkeypatch.setenv("no_proxy", "registry.example")
        cdn.on("GET", "/blob", Reply(body=DATA))
        tls.on("GET", blob_path(b"moved"), Reply(307, {"Location": f"https://cdn.example:{cdn.port}/blob"}))
        image = OciRef.parse(f"registry.example:{tls.port}/org/tool:1")
        async with (
            RegistryClient(ssl_context=trusting) as client,
            client.blob(image, layer_of(b"moved", size=len(DATA))) as stream,
        ):
            assert b"".join([chunk async for chunk in stream]) == DATA

    assert [r.target for r in proxy.requests] == [f"cdn.example:{cdn.port}"]


async def test_this_machine(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is spoken to without a proxy, even if one is named that is none."""
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.example:1")
    server.on("GET", blob_path(), Reply(body=DATA))
    async with RegistryClient() as client, client.blob(image_at(server), layer_of()) as stream:
        assert b"".join([chunk async for chunk in stream]) == DATA


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_proxy_refuses(
    tls: ScriptedServer,
    trusting: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    """What a proxy answers is told with its host and status, without its password, in logs neither."""
    caplog.set_level(logging.DEBUG)
    async with HttpProxy("canary" if status != 407 else "other", status=status) as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:canary@{proxy.origin}")
        async with RegistryClient(ssl_context=trusting) as client:
            with pytest.raises(RegistryError, match=f"the proxy {proxy.origin}.* {status}") as caught:
                await read(client, tls)
    assert caught.value.status == status
    assert_hidden(caught.value, caplog)
    assert tls.requests == []


async def test_no_proxy_there(
    tls: ScriptedServer, monkeypatch: pytest.MonkeyPatch, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that can't be reached is told by its host, without its password."""
    monkeypatch.setenv("https_proxy", f"http://user:canary@127.0.0.1:{free_port}")
    async with RegistryClient() as client:
        with pytest.raises(RegistryError, match=rf"the proxy 127.0.0.1:{free_port}\) could not be") as caught:
            await read(client, tls)
    assert "plain_http" not in str(caught.value)
    assert_hidden(caught.value, caplog)


async def test_unknown_certificate_behind_a_proxy(
    tls: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate that is not believed is told as such through a proxy too, without the password."""
    async with HttpProxy("canary") as proxy:
        monkeypatch.setenv("https_proxy", f"http://user:canary@{proxy.origin}")
        async with RegistryClient() as client:
            with pytest.raises(RegistryError, match="certificate is not valid") as caught:
                await read(client, tls)
    assert_hidden(caught.value, caplog)
    assert "canary" not in repr(caught.value.__cause__)


def assert_hidden(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    for secret in ("canary", "dXNlcjpjYW5hcnk"):
        # The test itself has no such variable.
        assert secret not in "".join(shown)
        assert secret not in caplog.text


async def test_https_proxy(
    tls: ScriptedServer, clean_environ: Path, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    """R3: a proxy that speaks TLS is never shown the client certificate of a registry behind it."""
    directory = clean_environ / ".config/containers/certs.d" / f"registry.example:{tls.port}"
    write_certificates(directory, authority, client=True)
    async with HttpProxy(tls=server_context(authority, "proxy.example")) as proxy:
        monkeypatch.setenv("https_proxy", f"https://proxy.example:{proxy.port}")
        async with RegistryClient() as client:
            with pytest.raises(RequestRefused, match="NO_PROXY"):
                await read(client, tls)
    assert proxy.requests == []


async def test_https_proxy_of_a_known_authority(
    tls: ScriptedServer, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA
) -> None:
    """A proxy may speak TLS itself."""
    async with HttpProxy(tls=server_context(authority, "proxy.example")) as proxy:
        monkeypatch.setenv("https_proxy", f"https://proxy.example:{proxy.port}")
        keychain = OneKey(Credentials("user", Secret("canary")))
        async with RegistryClient(keychain=keychain, ssl_context=trusting) as client:
            assert await read(client, tls) == DATA
    assert len(proxy.requests) == 1


PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("exceptions", "url", "through"),
    [
        ("", "https://ghcr.io", True),
        ("*", "https://ghcr.io", False),
        ("ghcr.io", "https://ghcr.io", False),
        (" a.io , GHCR.io ", "https://ghcr.io", False),
        (".example.org", "https://a.example.org", False),
        ("*.example.org", "https://a.example.org", False),
        ("example.org", "https://a.example.org", False),
        ("example.org", "https://badexample.org", True),
        ("example.org:5000", "https://example.org:5000", False),
        ("example.org:5000", "https://example.org", True),
        ("example.org:443", "https://example.org", False),
        ("10.0.0.0/8", "https://10.1.2.3", False),
        ("10.0.0.0/8", "https://11.1.2.3", True),
        ("10.1.2.3", "https://10.1.2.3:5000", False),
        ("fd00::/8", "https://[fd00::1]:5000", False),
        ("fd00::/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://ghcr.io", True),
        (",", "https://ghcr.io", True),
    ],
)
def test_exceptions(exceptions: str, url: str, through: bool) -> None:
    """`NO_PROXY` names hosts, with or without port, domains, addresses and networks."""
    assert (Proxies({"https": PROXY, "no": exceptions}).find(URL(url)) is not None) is through


@pytest.mark.parametrize("url", ["http://127.0.0.1", "http://localhost:5000", "https://[::1]:5000"])
def test_loopback(url: str) -> None:
    """This machine is never reached through a proxy."""
    assert Proxies({"http": PROXY, "https": PROXY}).find(URL(url)) is None


def test_by_scheme() -> None:
    """Each scheme has its proxy, and what is named for all stands for the others."""
    proxies = Proxies({"http": "one.example:1", "all": "https://user:canary@two.example"})

    one, two = (proxies.find(URL(f"{scheme}://ghcr.io")) for scheme in ("http", "https"))

    assert one is not None
    assert two is not None
    assert (one.host, one.url.reveal(), one.encrypted) == ("one.example:1", "http://one.example:1", False)
    assert (two.host, two.encrypted) == ("two.example", True)
    assert "canary" not in repr(two)
    assert two.url.reveal() == "https://user:canary@two.example"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("socks5://user:canary@proxy.example:1080", "kind socks5"),
        ("http://", "not the URL"),
        ("http://user:canary@:80:80", "not the URL"),
        ("http://user:canary@proxy.example:99999", "not the URL"),
        ("canary canary://x", "something else"),
    ],
)
def test_unusable(named: str, why: str) -> None:
    """What is no HTTP proxy is told by the variables that could name it, without what they say."""
    with pytest.raises(InvalidSpec, match=why) as caught:
        Proxies({"https": named}).find(URL("https://ghcr.io"))

    assert "HTTPS_PROXY or ALL_PROXY" in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
