"""A secret from any source of credentials shows nowhere but in the request that it is for."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.engine.service import podman_program, private_podman
from aioruntime.registry.auth_files import Place, read_auth_file, usual_places
from aioruntime.tasks import in_thread
from tests.registry.helpers import blob_path, image_at, layer_of
from tests.support.canary import shown_by, shown_by_children
from tests.support.helper_programs import make_helper, telling
from tests.support.scripted import Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "canary-7f3a"
ENCODED = b64encode(f"me:{SECRET}".encode()).decode()
# As it is, in base64, and in the base64 of what it is a part of.
FORMS = (SECRET, ENCODED, "2FuYXJ5LTdmM2", "jYW5hcnktN2YzY", "Y2FuYXJ5LTdmM2")


def assert_unseen(text: str, where: str) -> None:
    for form in FORMS:
        assert form not in text, f"{where}: {text[max(0, text.find(form) - 300) : text.find(form) + 100]}"


@pytest.fixture
def silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever is logged at any level, by whomever, has no secret."""
    caplog.set_level(logging.DEBUG)
    yield
    for record in caplog.get_records("call"):
        assert_unseen(f"{record.getMessage()} {record.args!r} {record.exc_text}", record.name)


SOURCES = {
    "auth": {"auths": {"HOST": {"auth": ENCODED}}},
    "password": {"auths": {"HOST": {"username": "me", "password": SECRET}}},
    "identity token": {"auths": {"HOST": {"auth": "bWU6", "identitytoken": SECRET}}},
    "registry token": {"auths": {"HOST": {"registrytoken": SECRET}}},
    "cut": f'{{"auths": {{"HOST": {{"auth": "{ENCODED}',
    "no JSON": SECRET,
    "no UTF-8": f'{{"auths": {{"HOST": {{"password": "{SECRET}\udcff"}}}}}}',
    "a list": {"auths": {"HOST": [SECRET, ENCODED]}},
    "lists": {"auths": [SECRET], "credsStore": [ENCODED]},
    "wrong type": {"auths": {"HOST": {"auth": [ENCODED], "password": SECRET}}},
    "no base64": {"auths": {"HOST": {"auth": SECRET + "!"}}},
    "no colon": {"auths": {"HOST": {"auth": b64encode(SECRET.encode()).decode()}}},
    "no UTF-8 within": {"auths": {"HOST": {"auth": b64encode(SECRET.encode() + b":\xff").decode()}}},
    "no header": {"auths": {"HOST": {"registrytoken": SECRET + "\n"}}},
    "helper": telling("me", SECRET),
    "helper's token": telling("<token>", SECRET),
    "helper that fails": f"echo {SECRET}; echo {ENCODED} >&2; exit 1",
    "helper that babbles": f"echo {SECRET}",
    "helper that floods": f"yes {SECRET}",
    "helper that hangs": f"echo {SECRET}; sleep 600",
}


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("by_variable", [True, False])
@pytest.mark.parametrize("source", SOURCES)
async def test_no_report_shows_a_secret(
    server: ScriptedServer,
    clean_environ: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    by_variable: bool,
) -> None:
    """THREATS C8, T11: a secret, in whatever form and however broken its source is, is in no log record at
    DEBUG, no message, no local variable of a frame of an error, and no `repr`."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    content = SOURCES[source]
    if source.startswith("helper"):
        make_helper(tmp_path, "mine", str(content))
        content = {"credsStore": "mine"}
    text = (content if isinstance(content, str) else json.dumps(content)).replace("HOST", server.origin)
    if by_variable:
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", text)
    else:
        config = clean_environ / ".docker/config.json"
        config.parent.mkdir()
        config.write_bytes(text.encode("utf-8", "surrogateescape"))
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    asyncio.get_running_loop().set_debug(True)
    keychain = ar.DefaultKeychain(helper_timeout=0.2 if "hangs" in source else 20.0)
    client = ar.RegistryClient(keychain=keychain)
    async with client:
        with pytest.raises(ar.RegistryError) as caught:
            async with client.blob(image_at(server), layer_of()):
                pass

    assert isinstance(caught.value, (ar.Unauthorized, ar.CredentialsError))
    assert_unseen(shown_by(caught.value), source)
    for place in usual_places(os.environ, clean_environ):
        assert_unseen(repr(place), source)
    try:
        found = await keychain.credentials(server.origin, "org/tool")
        assert_unseen(f"{found} {found!r}", source)
        assert_unseen(repr(read_auth_file(Place("x", ar.Secret(text)))), source)
    except ar.CredentialsError as again:
        assert_unseen(shown_by(again), source)
    assert_unseen(f"{client!r} {keychain!r} {vars(client)!r} {vars(keychain)['_helpers']!r}", source)
    assert_unseen(repr(vars(vars(keychain)["_helpers"])["_kept"]), source)


@pytest.mark.usefixtures("silent")
async def test_explicit_credentials(server: ScriptedServer) -> None:
    """THREATS C8, T11: credentials given in code show themselves as little."""
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    given = {server.origin: ar.Credentials("me", ar.Secret(SECRET))}
    client = ar.RegistryClient(credentials=given)
    async with client:
        with pytest.raises(ar.Unauthorized) as caught:
            async with client.blob(image_at(server), layer_of()):
                pass

    assert server.requests[-1].header("Authorization") == f"Basic {ENCODED}"
    assert_unseen(shown_by(caught.value) + repr(given) + repr(vars(client)), "explicit")


@pytest.mark.usefixtures("silent")
async def test_cancelled_while_a_helper_speaks(
    server: ScriptedServer, clean_environ: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THREATS C8, T11: nor is it in what a cancelled task leaves, or in what children are given."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"other": {"auth": ENCODED}}}))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    make_helper(tmp_path, "mine", f"{telling('me', SECRET)}; echo >{fifo}; sleep 600")
    (clean_environ / ".docker").mkdir()
    (clean_environ / ".docker/config.json").write_text('{"credsStore": "mine"}')
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))

    async def pull() -> None:
        async with ar.RegistryClient() as client, client.blob(image_at(server), layer_of()):
            pass

    task = asyncio.create_task(pull())
    await in_thread(fifo.read_text)  # the helper has spoken, and goes on
    children = shown_by_children()
    assert "docker-credential-mine\0get" in children
    assert_unseen(children, "children")
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert_unseen(shown_by(caught.value), "cancelled")


@pytest.mark.skipif(podman_program() is None, reason="needs podman")
async def test_a_private_engine_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """THREATS C8, T11: the Podman service that we start does not get what a variable holds for registries."""
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"q.io": {"auth": ENCODED}}}))
    async with private_podman():
        children = shown_by_children()
        assert "podman" in children
        assert_unseen(children, "podman")
