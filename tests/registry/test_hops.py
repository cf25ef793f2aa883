"""Each source of credentials on each way by which a registry could have them sent elsewhere."""

from __future__ import annotations

import json
import logging
import ssl
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from aioruntime.errors import AioRuntimeError
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import Credentials, Secret
from tests.support.canary import shown_by
from tests.support.helper_programs import make_helper, telling
from tests.support.hops import DATA, HOPS, leaks, staged
from tests.support.served_image import MANIFEST

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from tests.support.hops import Hop, Stage

USER, SECRET = "user-canary-1f3b", "password-canary-9d2c4e"
SOURCES = (
    "given to the client",
    "DOCKER_AUTH_CONFIG",
    "REGISTRY_AUTH_FILE",
    "auth.json",
    "config.json",
    "credHelpers",
    "credsStore",
    "identity token",
)


def entry(**fields: str) -> dict[str, str]:
    return fields or {"auth": b64encode(f"{USER}:{SECRET}".encode()).decode()}


def put(source: str, host: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put the credentials for *host* where *source* says; return arguments of the client."""
    if source == "given to the client":
        return {"credentials": {host: Credentials(USER, Secret(SECRET))}}
    files = {
        "REGISTRY_AUTH_FILE": home / "file.json",
        "auth.json": home / "xdg_runtime_dir/containers/auth.json",
    }
    document: dict[str, Any] = {"auths": {host: entry()}}
    if source == "identity token":
        document = {"auths": {host: entry(identitytoken=SECRET)}}
    elif source in ("credHelpers", "credsStore"):
        make_helper(
            home, "canary", f'read server; [ "$server" = "{host}" ] || exit 1; ' + telling(USER, SECRET)
        )
        monkeypatch.setenv("PATH", str(home), prepend=":")
        document = {"credHelpers": {host: "canary"}} if source == "credHelpers" else {"credsStore": "canary"}
    if source == "DOCKER_AUTH_CONFIG":
        monkeypatch.setenv(source, json.dumps(document))
        return {}
    path = files.get(source, home / ".docker/config.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    if source == "REGISTRY_AUTH_FILE":
        monkeypatch.setenv(source, str(path))
    return {}


class Blobs:
    """Has the blobs to push."""

    def __init__(self, stage: Stage) -> None:
        self._contents = {path.rpartition("/")[2]: data for path, (_, data) in stage.contents.items()}

    async def stream(self, digest: str, size: int) -> AsyncGenerator[bytes]:
        yield self._contents[digest]


async def pull(client: RegistryClient, stage: Stage, image: OciRef) -> None:
    for layer in (await client.resolve(image)).layers:
        async with client.blob(image, layer) as body:
            assert b"".join([piece async for piece in body]) == DATA


async def push(client: RegistryClient, stage: Stage, image: OciRef) -> None:
    _, manifest = stage.contents["/v2/org/tool/manifests/1"]
    document = json.loads(manifest)
    blobs = [
        LayerSpec(b["digest"], b["size"], b["mediaType"]) for b in (document["config"], *document["layers"])
    ]
    await client.push(image, manifest, MANIFEST, blobs, Blobs(stage))


async def tags(client: RegistryClient, stage: Stage, image: OciRef) -> None:
    assert [tag async for tag in client.tags(image)]


ACTIONS: dict[str, Callable[..., Any]] = {"pull": pull, "push": push, "tags": tags}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who vouches for the registry's certificate."""
    return trustme.CA()


@pytest.mark.parametrize("hop", HOPS, ids=[hop.name for hop in HOPS])
@pytest.mark.parametrize("source", SOURCES)
async def test_who_gets_credentials(
    hop: Hop,
    source: str,
    authority: trustme.CA,
    clean_environ: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """THREATS R1, R2, R3, R4, R5, R6, R7, R8, C6, T10, T11: the registry alone gets them, no log or error."""
    caplog.set_level(logging.DEBUG)
    server, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(trusting)
    async with staged(hop, server) as stage:
        options = put(source, stage.home.origin, clean_environ, monkeypatch)
        if hop.tls:
            options["ssl_context"] = trusting
        if hop.mirror:
            options["mirrors"] = {stage.home.origin: [stage.host.origin]}
        failure: AioRuntimeError | None = None
        async with RegistryClient(**options, plain_http=[stage.host.origin], retries=0) as client:
            try:
                await ACTIONS[hop.action](client, stage, OciRef.parse(stage.image))
            except AioRuntimeError as exc:
                failure = exc

        assert leaks(stage, [USER, SECRET]) == []
    shown = caplog.text + (shown_by(failure) if failure else "")
    assert not [secret for secret in (SECRET, "home-token") if secret in shown]
    if hop.entitled and source != "identity token":
        basic = Credentials(USER, Secret(SECRET)).basic().reveal()
        assert basic in [request.header("Authorization") for request in stage.home.requests]
