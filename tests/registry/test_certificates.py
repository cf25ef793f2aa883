"""TLS: who is believed, and to whom a client shows who it is."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from aioruntime.errors import InvalidSpec, RegistryError
from aioruntime.oci.reference import OciRef
from aioruntime.registry import certificates
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import DATA, blob_path, layer_of
from tests.support.registries import write_certificates
from tests.support.scripted import Reply, ScriptedServer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aioruntime.registry.blobs import BlobStream

pytestmark = pytest.mark.usefixtures("example_names")


class TlsServer(ScriptedServer):
    """Speaks TLS, asks for a client's certificate, and notes whether each connection had one."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name, "127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        super().__init__(tls=context)
        self.name = name
        self.certified: list[bool] = []

    async def __aenter__(self) -> TlsServer:
        await super().__aenter__()
        return self

    @property
    def origin(self) -> str:
        return f"{self.name}:{self.port}"

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.certified.append(bool(writer.get_extra_info("peercert")))
        super()._connected(reader, writer)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that no system knows."""
    return trustme.CA()


@pytest.fixture
async def tls(authority: trustme.CA) -> AsyncIterator[TlsServer]:
    """A registry with TLS."""
    async with TlsServer(authority, "registry.example") as server:
        server.on("GET", blob_path(), Reply(body=DATA))
        yield server


@pytest.fixture
async def cdn(authority: trustme.CA) -> AsyncIterator[TlsServer]:
    """Another host with TLS."""
    async with TlsServer(authority, "cdn.example") as server:
        server.on("GET", "/blob", Reply(body=DATA))
        yield server


@pytest.fixture
def certs(clean_environ: Path) -> Path:
    """The user's `certs.d`."""
    return clean_environ / ".config/containers/certs.d"


def trusted(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def read(client: RegistryClient, server: ScriptedServer) -> BlobStream:
    async with client.blob(OciRef.parse(f"{server.origin}/org/tool:1"), layer_of()) as stream:
        assert b"".join([chunk async for chunk in stream]) == DATA
        return stream


async def test_private_authority(tls: TlsServer, certs: Path, authority: trustme.CA) -> None:
    """A private authority is believed for the host in whose directory it lies; it is anybody's answer."""
    write_certificates(certs / tls.origin, authority)
    async with RegistryClient() as client:
        assert (await read(client, tls)).public


async def test_authority_of_another_host(
    tls: TlsServer, cdn: TlsServer, certs: Path, authority: trustme.CA
) -> None:
    """An authority counts for its own host and port alone; the error tells where to put one."""
    write_certificates(certs / cdn.origin, authority)
    write_certificates(certs / "registry.example", authority)
    async with RegistryClient() as client:
        with pytest.raises(RegistryError, match=rf"certs\.d/{tls.origin}/ca\.crt"):
            await read(client, tls)

    assert tls.requests == []


async def test_first_directory(
    tls: TlsServer, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first directory for a host decides alone; those that can't be listed do not matter."""
    (tmp_path / "file").write_text("")
    parents = [str(tmp_path / name) for name in ("absent", "file", "one", "two")]
    monkeypatch.setattr(certificates, "_PARENTS", parents)
    write_certificates(tmp_path / "one" / tls.origin, trustme.CA())
    write_certificates(tmp_path / "two" / tls.origin, authority)
    async with RegistryClient() as client:
        with pytest.raises(RegistryError, match="certificate is not valid"):
            await read(client, tls)


async def test_read_once(tls: TlsServer, certs: Path, authority: trustme.CA) -> None:
    """A host's directory is read once; what becomes of it later does not matter."""
    write_certificates(certs / tls.origin, authority)
    async with RegistryClient() as client:
        await read(client, tls)
        (certs / tls.origin / "ca.crt").write_text("broken")
        await read(client, tls)

    assert tls.connections == 1


async def test_given_context(tls: TlsServer, certs: Path, authority: trustme.CA) -> None:
    """A context of the caller's stands for all hosts in place of `certs.d`, and may tell who we are."""
    (certs / tls.origin).mkdir(parents=True)
    (certs / tls.origin / "ca.crt").write_text("broken")
    async with RegistryClient(ssl_context=trusted(authority)) as client:
        assert not (await read(client, tls)).public


@pytest.mark.parametrize(
    "words",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<center>The plain HTTP request was sent to HTTPS port</center>",
    ],
)
async def test_plain_http_where_tls_is_spoken(server: ScriptedServer, words: bytes) -> None:
    """A registry of this machine that speaks TLS is told as such, with where to put its authority."""
    server.on("GET", blob_path(), Reply(400, body=words), Reply(400))
    image = OciRef.parse(f"{server.origin}/org/tool:1")
    async with RegistryClient() as client:
        for told in (
            f"speaks TLS; put its authority into .*/certs.d/{server.origin}/ca.crt",
            "400 Bad Request$",
        ):
            with pytest.raises(RegistryError, match=told) as caught:
                async with client.blob(image, layer_of()):
                    pass
            assert caught.value.status == 400


async def test_given_context_on_this_machine(authority: trustme.CA) -> None:
    """With a context, TLS is spoken to this machine too, unless plain HTTP is allowed by name."""
    async with TlsServer(authority, "127.0.0.1") as server, ScriptedServer() as plain:
        for each in (server, plain):
            each.on("GET", blob_path(), Reply(body=DATA))
        async with RegistryClient(ssl_context=trusted(authority), plain_http=[plain.origin]) as client:
            await read(client, server)
            assert (await read(client, plain)).public


@pytest.mark.parametrize("named", ["registry.example", "REGISTRY.example:{port}"])
async def test_insecure(tls: TlsServer, cdn: TlsServer, named: str) -> None:
    """Certificates are not verified for hosts that are named, and for no other, redirects included."""
    tls.on("GET", blob_path(b"moved"), Reply(307, {"Location": f"{cdn.url}/blob"}))
    async with RegistryClient(insecure=[named.format(port=tls.port)]) as client:
        assert (await read(client, tls)).public
        image = OciRef.parse(f"{tls.origin}/org/tool:1")
        with pytest.raises(RegistryError, match=rf"{cdn.origin} could not be reached: its certificate"):
            async with client.blob(image, layer_of(b"moved")):
                pass

    assert cdn.requests == []


async def test_insecure_on_this_machine(authority: trustme.CA) -> None:
    """A host of this machine that is named as insecure is spoken to with TLS."""
    async with TlsServer(authority, "127.0.0.1") as server:
        server.on("GET", blob_path(), Reply(body=DATA))
        async with RegistryClient(insecure=["127.0.0.1"]) as client:
            await read(client, server)


async def test_insecure_is_not_plain(server: ScriptedServer) -> None:
    """A host that is named as insecure is never spoken to without TLS."""
    async with RegistryClient(insecure=["registry.example"], connect_timeout=0.3) as client:
        with pytest.raises(RegistryError, match="plain_http="):
            await client.resolve(OciRef.parse(f"registry.example:{server.port}/org/tool:1"))

    assert server.requests == []


async def test_client_certificate(tls: TlsServer, cdn: TlsServer, certs: Path, authority: trustme.CA) -> None:
    """R3: a client's certificate is shown to its own host alone; what came by it is not anybody's."""
    write_certificates(certs / tls.origin, authority, client=True)
    write_certificates(certs / cdn.origin, authority)
    tls.on("GET", blob_path(b"moved"), Reply(307, {"Location": f"{cdn.url}/blob"}))
    cdn.on("GET", blob_path(), Reply(body=DATA))
    async with RegistryClient() as client:
        assert not (await read(client, tls)).public
        image = OciRef.parse(f"{tls.origin}/org/tool:1")
        async with client.blob(image, layer_of(b"moved", size=len(DATA))) as stream:
            # The registry may have signed that URL for nobody else.
            assert not stream.public
        assert (await read(client, cdn)).public

    assert set(tls.certified) == {True}
    assert set(cdn.certified) == {False}


async def test_token_by_certificate(tls: TlsServer, certs: Path, authority: trustme.CA) -> None:
    """A token that was had by a client's certificate is not anybody's, though it took no password."""
    write_certificates(certs / tls.origin, authority, client=True)
    async with ScriptedServer() as plain:
        # The registry itself learns nothing of the certificate.
        challenge = f'Bearer realm="{tls.url}/token"'
        plain.on("GET", blob_path(), Reply(body=DATA), requires={"Authorization": "Bearer t1"})
        plain.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": challenge}))
        tls.on("GET", "/token", Reply(body=b'{"token": "t1"}'))
        async with RegistryClient() as client:
            assert not (await read(client, plain)).public


BROKEN: dict[str, dict[str, Any]] = {
    "an authority that is none": {"ca.crt": "nothing"},
    "an empty authority": {"ca.crt": ""},
    "a certificate that is none": {"client.cert": "nothing", "client.key": "nothing"},
    "a certificate without key": {"client.cert": "{cert}"},
    "a key without certificate": {"client.key": "{key}"},
    "another key": {"client.cert": "{cert}", "client.key": "{other}"},
    "a key with password": {"client.cert": "{cert}", "client.key": "{locked}"},
}


@pytest.mark.parametrize("files", BROKEN.values(), ids=BROKEN)
async def test_broken_files(
    tls: TlsServer, certs: Path, authority: trustme.CA, files: dict[str, str]
) -> None:
    """A file that can't be used is told by its path before anything is sent; nothing is asked for."""
    (certs / tls.origin).mkdir(parents=True)
    client_certificate = authority.issue_cert("client@example.com")
    known = {
        "cert": client_certificate.cert_chain_pems[0].bytes().decode(),
        "key": client_certificate.private_key_pem.bytes().decode(),
        "other": authority.issue_cert("client@example.com").private_key_pem.bytes().decode(),
        "locked": locked(client_certificate.private_key_pem.bytes()),
    }
    for name, content in files.items():
        (certs / tls.origin / name).write_text(content.format(**known))
    async with RegistryClient() as client:
        with pytest.raises(InvalidSpec) as caught:
            await read(client, tls)

    assert str(certs / tls.origin / next(iter(files))) in str(caught.value)
    assert "None" not in str(caught.value)
    assert tls.connections == 0


def locked(key: bytes) -> str:
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key, None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    ).decode()


async def test_directory_that_is_a_file(tls: TlsServer, certs: Path) -> None:
    """What lies where a host's directory should be is told by its path."""
    write_certificates(certs / "another.example", trustme.CA())
    (certs / tls.origin).write_text("")
    async with RegistryClient() as client:
        with pytest.raises(InvalidSpec, match=tls.origin):
            await read(client, tls)
