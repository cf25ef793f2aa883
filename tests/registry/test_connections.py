"""Hosts that can't be trusted, reached or waited for."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import NotFound, RegistryError
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import image_at
from tests.support.scripted import Fault, Reply, ScriptedServer

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/v2/org/tool/manifests/1"


@pytest.fixture
def unknown_tls(tmp_path: Path) -> ssl.SSLContext:
    """What a server needs for TLS with a certificate that nobody vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=registry.example"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context


@pytest.mark.usefixtures("example_names")
async def test_unknown_certificate(unknown_tls: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for ends it, and no way around TLS is suggested."""
    async with ScriptedServer(tls=unknown_tls) as server, RegistryClient() as client:
        with pytest.raises(RegistryError, match="certificate is not valid") as caught:
            await client.resolve(OciRef.parse(f"registry.example:{server.port}/org/tool:1"))

        assert "plain_http" not in str(caught.value)
        assert server.requests == []


async def test_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody knows is told as such."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with RegistryClient() as client:
        with pytest.raises(RegistryError, match=r"registry\.example could not be reached") as caught:
            await client.resolve(OciRef.parse("registry.example/org/tool:1"))

    assert "plain_http" not in str(caught.value)


async def test_document_stalls(server: ScriptedServer) -> None:
    """A manifest that stops in the middle is given up."""
    server.on("GET", PATH, Reply(body=b"x" * 100, faults=(Fault("stall", 50),)))
    async with RegistryClient(stall_timeout=0.1) as client:
        with pytest.raises(RegistryError, match="stalled"):
            await client.resolve(image_at(server))


async def test_document_drips(server: ScriptedServer) -> None:
    """A manifest that comes byte by byte, each in time, is given up too."""
    server.on("GET", PATH, Reply(body=b"x" * 100, drip=(1, 0.05)))
    async with RegistryClient(stall_timeout=0.4, retries=0) as client:
        with pytest.raises(RegistryError, match="too little"):
            await client.resolve(image_at(server))


async def test_error_body_is_cut(server: ScriptedServer) -> None:
    """An error whose body does not arrive is still that error."""
    server.on("GET", PATH, Reply(404, body=b"x" * 100, faults=(Fault("reset", 50),)))
    async with RegistryClient() as client:
        with pytest.raises(NotFound):
            await client.resolve(image_at(server))


async def test_opened_twice() -> None:
    """A client is opened once at a time, and can be opened again after it was closed."""
    client = RegistryClient()
    for _ in range(2):
        async with client:
            with pytest.raises(RuntimeError, match="already open"):
                await client.__aenter__()


async def test_no_proxy_to_this_machine_and_no_netrc(
    server: ScriptedServer, other: ScriptedServer, clean_environ: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C7: this machine is spoken to without a proxy, and passwords of ``.netrc`` are never sent."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url)
    (clean_environ / ".netrc").write_text("machine 127.0.0.1 login user password canary\n")
    (clean_environ / ".netrc").chmod(0o600)
    server.on("GET", PATH, Reply(404))
    async with RegistryClient() as client:
        with pytest.raises(NotFound):
            await client.resolve(image_at(server))

    assert other.connections == 0
    assert server.requests[0].header("Authorization") is None
