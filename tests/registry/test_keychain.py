"""Where a client's credentials come from: the caller, the places where tools keep them, in which order."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.demo.registry import LocalRegistry
from aioruntime.registry.keychain import DefaultKeychain, StaticKeychain
from tests.registry.helpers import DATA, blob_path, image_at, layer_of
from tests.support.helper_programs import calls_of, counting, make_helper, telling
from tests.support.scripted import Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HUB = "registry-1.docker.io"


def auth(username: str, password: str = "pw") -> dict[str, str]:
    return {"auth": b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, document: Mapping[str, Any], mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    path.chmod(mode)
    return path


async def user(keychain: ar.Keychain, host: str = "q.io", repository: str = "a/b") -> str | None:
    found = await keychain.credentials(host, repository)
    return found.username if found else None


async def test_precedence(clean_environ: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first place that has an entry counts: taken away one after another, each is found once."""
    places = {
        "REGISTRY_AUTH_FILE": tmp_path / "auth.json",
        "XDG_RUNTIME_DIR": clean_environ / "xdg_runtime_dir/containers/auth.json",
        "XDG_CONFIG_HOME": clean_environ / "xdg_config_home/containers/auth.json",
        "DOCKER_CONFIG": tmp_path / "docker/config.json",
        "HOME": clean_environ / ".docker/config.json",
    }
    for name, path in places.items():
        write(path, {"auths": {"q.io": auth(name)}})
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {"q.io": auth("DOCKER_AUTH_CONFIG")}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(places["REGISTRY_AUTH_FILE"]))
    monkeypatch.setenv("DOCKER_CONFIG", str(places["DOCKER_CONFIG"].parent))
    keychain = DefaultKeychain()
    assert await user(keychain) == "DOCKER_AUTH_CONFIG"
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", '{"auths": {"p.io": {"auth": "broken"}}}')
    for name, path in places.items():
        assert await user(keychain) == name
        write(path, {"auths": {"p.io": auth("other"), "q.io": {}}})
    assert await user(keychain) is None


async def test_home_config(clean_environ: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without XDG_CONFIG_HOME, Podman's file is looked for under `~/.config`."""
    write(clean_environ / ".config/containers/auth.json", {"auths": {"q.io": auth("me")}})
    assert await user(DefaultKeychain()) is None
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert await user(DefaultKeychain()) == "me"


async def test_a_login_is_seen(clean_environ: Path) -> None:
    """Who logs in while the program runs is seen at the next request."""
    keychain = DefaultKeychain()
    assert await user(keychain) is None
    write(clean_environ / ".docker/config.json", {"auths": {"q.io": auth("me")}})
    assert await user(keychain) == "me"


async def test_helper_before_entry(
    clean_environ: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with Docker, a file's helper comes before its entries, but one that has nothing hides none."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    make_helper(tmp_path, "has", telling("helped", "pw"))
    make_helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    file = {"auths": {"q.io": auth("me"), "q.io/a": auth("mine")}, "credHelpers": {"q.io": "has"}}
    write(clean_environ / ".docker/config.json", file)
    assert await user(DefaultKeychain()) == "helped"
    assert await user(DefaultKeychain(), "p.io") is None
    write(clean_environ / ".docker/config.json", {**file, "credHelpers": {"q.io": "none"}})
    assert await user(DefaultKeychain()) == "mine"
    write(clean_environ / ".docker/config.json", {"credsStore": "has"})
    assert await user(DefaultKeychain(), HUB) == "helped"
    assert (await DefaultKeychain().credentials("q.io", "a")) == ar.Credentials("helped", ar.Secret("pw"))


async def test_never_silently_anonymous(server: ScriptedServer, clean_environ: Path) -> None:
    """THREATS C1: where the helper is missing, the pull fails and names it; no other entry is used."""
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    config = write(
        clean_environ / ".docker/config.json",
        {"credsStore": "absent", "auths": {"other.example": auth("other"), server.origin: {}}},
    )
    async with ar.RegistryClient() as client:
        with pytest.raises(ar.CredentialsError, match="docker-credential-absent") as caught:
            async with client.blob(image_at(server), layer_of()):
                pass

    assert f"{config}: $.credsStore" in str(caught.value)
    assert [request.header("Authorization") for request in server.requests] == [None]


async def test_a_broken_file_is_told(server: ScriptedServer, clean_environ: Path) -> None:
    """THREATS C12: a half-written file fails the pull, and is named; what is public does not need it."""
    config = clean_environ / ".docker/config.json"
    config.parent.mkdir()
    config.write_text('{"auths": {"q.io": ')
    server.on("GET", blob_path(repository="org/public"), Reply(body=DATA))
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    async with ar.RegistryClient() as client:
        async with client.blob(image_at(server, "org/public:1"), layer_of()) as stream:
            assert b"".join([chunk async for chunk in stream]) == DATA
        with pytest.raises(ar.CredentialsError, match=f"^{config}: "):
            async with client.blob(image_at(server), layer_of()):
                pass


async def test_exposed_files_are_told_once(clean_environ: Path, caplog: pytest.LogCaptureFixture) -> None:
    """THREATS C12: that others can read a file is said once, and the file is used."""
    config = write(clean_environ / ".docker/config.json", {"auths": {"q.io": auth("me")}}, mode=0o644)
    keychain = DefaultKeychain()
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            assert await user(keychain) == "me"
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warned] == [
        f"{config}: other users can read the credentials in it; chmod 600 it"
    ]


async def test_static() -> None:
    """THREATS C5, C6: what the caller gives counts for the host and path it names, before all else."""
    given = {
        name: ar.Credentials(name, ar.Secret("pw")) for name in ("q.io", "q.io/a", "docker.io", "[::1]:80")
    }
    keychain = StaticKeychain(given, otherwise=StaticKeychain({"p.io": ar.Credentials("p", ar.Secret(""))}))
    assert await user(keychain, "q.io", "a/b") == "q.io/a"
    assert await user(keychain, "q.io", "ab") == "q.io"
    assert await user(keychain, HUB, "library/x") == "docker.io"
    assert await user(keychain, "[::1]:80") == "[::1]:80"
    assert await user(keychain, "p.io") == "p"
    for stranger in ("q.io:5000", "xq.io", "q.io.evil.example", "evil.example", "io", "[::1]"):
        assert await user(keychain, stranger, "q.io/a") is None


async def test_explicit_ones_win(
    server: ScriptedServer, clean_environ: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials in code are used before a keychain, a given keychain in place of this machine's files."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    make_helper(tmp_path, "has", counting(tmp_path) + telling("helped", "pw"))
    write(clean_environ / ".docker/config.json", {"credsStore": "has"})
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
    explicit = {f"{server.origin}/org": ar.Credentials("code", ar.Secret("pw"))}
    chain = StaticKeychain({server.origin: ar.Credentials("chain", ar.Secret("pw"))})
    options: list[dict[str, Any]] = [
        {"credentials": explicit, "keychain": chain},
        {"credentials": explicit},
        {"keychain": chain},
        {},
    ]
    seen = []
    for arguments in options:
        async with ar.RegistryClient(**arguments) as client:
            with pytest.raises(ar.Unauthorized):
                async with client.blob(image_at(server), layer_of()) as stream:
                    await anext(aiter(stream))
        seen.append(server.requests[-1].header("Authorization"))

    expected = [f"Basic {auth(name)['auth']}" for name in ("code", "code", "chain", "helped")]
    assert seen == expected
    assert calls_of(tmp_path) == 1


async def test_one_call_for_many_pulls(
    server: ScriptedServer, clean_environ: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty pulls of as many repositories ask the helper once, and only since the registry has refused."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    make_helper(tmp_path, "has", counting(tmp_path) + telling("helped", "pw"))
    write(clean_environ / ".docker/config.json", {"credsStore": "has"})
    basic = {"Authorization": f"Basic {auth('helped')['auth']}"}
    server.on("GET", blob_path(repository="org/public"), Reply(body=DATA))
    for number in range(50):
        path = blob_path(repository=f"org/n{number}")
        server.on("GET", path, Reply(body=DATA), requires=basic)
        server.on("GET", path, Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))

    async def read(client: ar.RegistryClient, name: str) -> bytes:
        async with client.blob(image_at(server, name), layer_of()) as stream:
            return b"".join([chunk async for chunk in stream])

    async with ar.RegistryClient() as client:
        assert await read(client, "org/public:1") == DATA
        assert calls_of(tmp_path) == 0
        read_all = [read(client, f"org/n{number}:1") for number in range(50)]
        assert await asyncio.gather(*read_all) == [DATA] * 50

    assert calls_of(tmp_path) == 1


# "me:own-canary" under bcrypt, the only hash that docker-registry takes.
HTPASSWD = "me:$2b$04$dxOe2t6WsUmgl2/QYiwEFO1A/qtIqRps34WH5jLB31Uf8DjgmhFK6\n"


@pytest.mark.skipif(
    not (shutil.which("docker-registry") and shutil.which("skopeo")),
    reason="needs Debian's docker-registry and skopeo",
)
async def test_skopeo_gets_in_where_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with passwords lets us in with just those files with which it lets skopeo in."""
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    make_helper(tmp_path, "has", telling("me", "own-canary"))
    make_helper(tmp_path, "none", "echo credentials not found in native keychain; exit 1")
    make_helper(tmp_path, "broken", "exit 1")
    right, wrong = auth("me", "own-canary"), auth("me", "wrong")
    section = {"auth": {"htpasswd": {"realm": "here", "path": str(tmp_path / "htpasswd")}}}
    async with LocalRegistry(config=section) as registry:
        host = registry.host
        cases: list[tuple[bool, dict[str, Any]]] = [
            (True, {"auths": {host: right}}),
            (False, {"auths": {host: wrong}}),
            (False, {"auths": {}}),
            (True, {"auths": {f"http://{host}/v2/": right}}),
            (False, {"auths": {f"x{host}": right, host[:-1]: right, "127.0.0.1": right}}),
            (True, {"auths": {host: wrong, f"{host}/org": right}}),
            (True, {"auths": {host: wrong, f"{host}/org": wrong, f"{host}/org/tool": right}}),
            (False, {"auths": {host: right, f"{host}/org/tool": wrong}}),
            (True, {"auths": {host: right, f"{host}/or": wrong, f"{host}/org/too": wrong}}),
            (True, {"credHelpers": {host: "has"}, "auths": {host: wrong}}),
            (False, {"credHelpers": {host: "broken"}, "auths": {host: right}}),
            (False, {"credHelpers": {host: "none"}}),
            (False, {"auths": {host: {"auth": "broken"}}}),
        ]
        for number, (lets_in, document) in enumerate(cases):
            path = write(tmp_path / f"{number}.json", document)
            monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))
            command = ["skopeo", "list-tags", "--tls-verify=false", f"docker://{host}/org/tool"]
            told = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=30
            )
            # Nothing was pushed: who is let in learns that.
            assert ("404 (Not Found)" in told.stderr) is lets_in, (document, told.stderr)
            expected = ar.NotFound if lets_in else (ar.Unauthorized, ar.CredentialsError)
            async with ar.RegistryClient() as client:
                with pytest.raises(expected):
                    await client.resolve(ar.OciRef.parse(f"{host}/org/tool:1"))
