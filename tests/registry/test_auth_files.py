"""The files that hold credentials: which are read, who is in them, and what is wrong with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioruntime.errors import CredentialsError
from aioruntime.registry.auth_files import AuthFile, HelperCall, Place, read_auth_file, usual_places
from aioruntime.registry.credentials import Credentials, Secret
from tests.support.timing import cpu_seconds

SECONDS_A_FILE = 0.05


def auth(username: str, password: str = "pw") -> dict[str, str]:
    return {"auth": b64encode(f"{username}:{password}".encode()).decode()}


def read(document: object) -> AuthFile:
    text = document if isinstance(document, str) else json.dumps(document)
    file = read_auth_file(Place("the file", Secret(text)))
    assert file is not None
    return file


def user(auths: dict[str, Any], host: str, repository: str) -> str | None:
    found = read({"auths": auths}).credentials(host, repository)
    return found.username if found else None


def test_where_to_look() -> None:
    """The places of Podman, then those of Docker; a variable's own text comes before all files."""
    environ = {
        "DOCKER_AUTH_CONFIG": "{}",
        "REGISTRY_AUTH_FILE": "/auth",
        "XDG_RUNTIME_DIR": "/run/user/7",
        "XDG_CONFIG_HOME": "/settings",
        "DOCKER_CONFIG": "/docker",
    }

    assert [place.name for place in usual_places(environ, Path("/home/me"))] == [
        "$DOCKER_AUTH_CONFIG",
        "/auth",
        "/run/user/7/containers/auth.json",
        "/settings/containers/auth.json",
        "/docker/config.json",
        "/home/me/.docker/config.json",
    ]


def test_where_to_look_without_variables() -> None:
    """Without variables the home directory has the files, and a place that Podman has without a session."""
    assert [place.name for place in usual_places({}, Path("/home/me"))] == [
        f"/run/containers/{os.getuid()}/auth.json",
        "/home/me/.config/containers/auth.json",
        "/home/me/.docker/config.json",
    ]
    assert len(usual_places({"DOCKER_CONFIG": "/home/me/.docker"}, Path("/home/me"))) == 3
    assert len(usual_places({}, None)) == 1


HUB = "registry-1.docker.io"


@pytest.mark.parametrize(
    ("keys", "host", "repository", "expected"),
    [
        # Host and port are those, and no others.
        (["ghcr.io"], "ghcr.io", "org/tool", "ghcr.io"),
        (["ghcr.io"], "evilghcr.io", "org/tool", None),
        (["ghcr.io"], "ghcr.io.evil.example", "org/tool", None),
        (["ghcr.io"], "evil.example", "ghcr.io/tool", None),
        (["ghcr.io"], "x.ghcr.io", "org/tool", None),
        (["x.ghcr.io"], "ghcr.io", "org/tool", None),
        (["io"], "ghcr.io", "org/tool", None),
        (["*.ghcr.io", "", "*", "/", "https://"], "ghcr.io", "org/tool", None),
        (["ghcr.io"], "ghcr.io:5000", "org/tool", None),
        (["ghcr.io:5000"], "ghcr.io", "org/tool", None),
        (["ghcr.io:5000"], "ghcr.io:5000", "org/tool", "ghcr.io:5000"),
        (["ghcr.io:443"], "ghcr.io", "org/tool", "ghcr.io:443"),
        (["GHCR.io"], "ghcr.io", "org/tool", "GHCR.io"),
        (["[::1]:5000"], "[::1]:5000", "org/tool", "[::1]:5000"),
        (["me@ghcr.io", "https://me@ghcr.io"], "ghcr.io", "org/tool", None),
        # The most specific key counts, and only whole parts of a path.
        (["q.io", "q.io/a", "q.io/a/b"], "q.io", "a/b", "q.io/a/b"),
        (["q.io/a/b", "q.io/a", "q.io"], "q.io", "a/c", "q.io/a"),
        (["q.io", "q.io/a", "q.io/a/b"], "q.io", "ab/c", "q.io"),
        (["q.io/a", "q.io/a/b"], "q.io", "b/a", None),
        (["q.io/a/"], "q.io", "a/b", "q.io/a/"),
        (["q.io/a/b/c"], "q.io", "a/b", None),
        # A key with a scheme is for all of its host, and behind one that is written just so.
        (["https://q.io"], "q.io", "a", "https://q.io"),
        (["http://q.io/"], "q.io", "a", "http://q.io/"),
        (["https://q.io/v2/"], "q.io", "a", "https://q.io/v2/"),
        (["https://q.io/v1/", "q.io"], "q.io", "a", "q.io"),
        (["https://q.io/a", "q.io/a"], "q.io", "a/b", "q.io/a"),
        (["ftp://q.io"], "q.io", "a", None),
        # Docker Hub has names of its own.
        (["https://index.docker.io/v1/"], HUB, "library/ubuntu", "https://index.docker.io/v1/"),
        (["index.docker.io/v1/"], HUB, "library/ubuntu", "index.docker.io/v1/"),
        (["https://index.docker.io/v1"], HUB, "library/ubuntu", "https://index.docker.io/v1"),
        (["https://registry-1.docker.io/v2/"], HUB, "me/x", "https://registry-1.docker.io/v2/"),
        (["index.docker.io"], HUB, "me/x", "index.docker.io"),
        (["docker.io"], HUB, "me/x", "docker.io"),
        (["https://index.docker.io/v1/", "docker.io"], HUB, "me/x", "docker.io"),
        (["docker.io", "docker.io/library"], HUB, "library/ubuntu", "docker.io/library"),
        (["docker.io", "docker.io/library"], HUB, "me/x", "docker.io"),
        (["https://index.docker.io/v1/", "docker.io"], "docker.io.evil.example", "me/x", None),
        (["https://index.docker.io/v1/", "docker.io"], "auth.docker.io", "me/x", None),
    ],
)
def test_who_is_meant(keys: list[str], host: str, repository: str, expected: str | None) -> None:
    """THREATS C5, C6: an entry counts for the host it names and the whole parts of a path, for no other."""
    assert user({key: auth(key.replace(":", ";")) for key in keys}, host, repository) == (
        expected and expected.replace(":", ";")
    )


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("me", "a:b"), Credentials("me", Secret("a:b"))),
        (auth("me", "pw\0\0"), Credentials("me", Secret("pw"))),
        (auth("mé", "ü"), Credentials("mé", Secret("ü"))),
        ({"auth": "bWU6\r\ncHc=\n"}, Credentials("me", Secret("pw"))),
        ({"username": "me", "password": "pw"}, Credentials("me", Secret("pw"))),
        ({**auth("me"), "username": "you", "password": "x"}, Credentials("me", Secret("pw"))),
        ({**auth("0", ""), "identitytoken": "id"}, Credentials("0", Secret(""), Secret("id"))),
        ({"identitytoken": "id"}, Credentials("", Secret(""), Secret("id"))),
        ({"registrytoken": "rt"}, Credentials("", Secret(""), None, Secret("rt"))),
        ({**auth("me"), "email": 7, "new": {}}, Credentials("me", Secret("pw"))),
        ({}, None),
        (None, None),
        ({"auth": "", "email": "x"}, None),
        ({"auth": None, "username": None, "identitytoken": ""}, None),
    ],
)
def test_entries(entry: object, expected: Credentials | None) -> None:
    """An entry is read as Docker and Podman write it; an empty one, which stands for a helper, is none."""
    assert read({"auths": {"q.io": entry}}).credentials("q.io", "a") == expected


def test_an_empty_entry_hides_none() -> None:
    """Behind an entry that is empty, the next one counts."""
    assert user({"q.io/a": {}, "q.io": auth("me")}, "q.io", "a") == "me"


@pytest.mark.parametrize(
    ("document", "host", "expected"),
    [
        ({"credsStore": "pass"}, "q.io", ("pass", "q.io")),
        ({"credsStore": "pass"}, HUB, ("pass", "https://index.docker.io/v1/")),
        ({"credHelpers": {"q.io": "ecr-login"}}, "q.io", ("ecr-login", "q.io")),
        ({"credHelpers": {"q.io": "ecr-login"}, "credsStore": "pass"}, "q.io", ("ecr-login", "q.io")),
        ({"credHelpers": {"q.io": "ecr-login"}, "credsStore": "pass"}, "p.io", ("pass", "p.io")),
        ({"credHelpers": {"docker.io": "a"}}, HUB, ("a", "docker.io")),
        ({"credHelpers": {"https://index.docker.io/v1/": "a"}}, HUB, ("a", "https://index.docker.io/v1/")),
        ({"credHelpers": {"q.io": "ecr-login"}}, "evilq.io", None),
        ({"credHelpers": {"q.io": ""}, "credsStore": ""}, "q.io", None),
        ({}, "q.io", None),
    ],
)
def test_helpers(document: object, host: str, expected: tuple[str, str] | None) -> None:
    """THREATS C5: the helper for just this registry comes before the one for all; it is asked for what
    the file, or Docker, calls the registry."""
    call = read(document).helper_for(host)
    assert (call and (call.name, call.server)) == expected


def test_a_helper_is_named_with_its_place() -> None:
    """A call knows which line of which file to blame."""
    assert read({"credHelpers": {"q.io": "x"}}).helper_for("q.io") == HelperCall(
        "x", "q.io", 'the file: $.credHelpers["q.io"]'
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "truncated"),
        ('{"auths": {"q.io": {"auth": "canary', "truncated"),
        ('{"auths": {"q.io": {"auth": canary}}}', "malformed"),
        ("[]", "Expected `object`"),
        ('{"auths": ["canary"]}', "$.auths"),
        ('{"credsStore": ["canary"]}', "$.credsStore"),
        ('{"credHelpers": {"q.io": {"canary": 1}}}', "$.credHelpers"),
        ('{"auths": {"q.io": ["canary"]}}', '$.auths["q.io"]: Expected'),
        ('{"auths": {"q.io": {"auth": ["canary"]}}}', '$.auths["q.io"].auth: Expected'),
        ('{"auths": {"q.io": {"auth": "canary!"}}}', '$.auths["q.io"].auth: is not base64'),
        ('{"auths": {"q.io": {"auth": "Y2FuYXJ5"}}}', '$.auths["q.io"].auth: is not base64 of USER:PASSWORD'),
        ('{"auths": {"q.io": {"auth": "Y2FuYXJ5Og"}}}', '$.auths["q.io"].auth: is not base64'),
        ('{"auths": {"q.io": {"auth": "/zo="}}}', '$.auths["q.io"].auth: is not base64'),
        ('{"auths": {"q.io": {"registrytoken": "canary\\r\\nX: y"}}}', '$.auths["q.io"].registrytoken: has'),
        ('{"auths": {"q.io": {"auth": "canary\udcff"}}}', "is not UTF-8"),
        ("[" * 200_000, ""),
        ('{"auths": {"q.io": ' + "[" * 200_000 + "]" * 200_000 + "}}", "nested too deep"),
    ],
)
def test_broken(text: str, told: str) -> None:
    """THREATS C12: what is broken is told with file and place, and without what stands there."""
    with pytest.raises(CredentialsError) as caught:
        read(text).credentials("q.io", "a")

    message = str(caught.value)
    assert message.startswith("the file: ")
    assert told in message
    assert "canary" not in message
    assert "Y2Fu" not in message


def test_an_entry_that_is_not_asked_for_may_be_broken() -> None:
    """A broken entry is told to those that need it: other registries are not concerned."""
    assert user({"p.io": {"auth": 7}, "q.io": auth("me")}, "q.io", "a") == "me"


def test_files_that_are_none(tmp_path: Path) -> None:
    """THREATS C12: a directory, a FIFO, a device or a huge file is an error, and none is waited for."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    for path in [*sorted(tmp_path.iterdir()), Path("/dev/zero")]:
        with pytest.raises(CredentialsError, match=f"^{path}: .*mend or remove it$"):
            read_auth_file(Place(str(path), path))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A file that is not there is no error, wherever its path ends; a link to a file is one."""
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to("file")
    for name in ("missing", "missing/config.json", "file/config.json"):
        assert read_auth_file(Place(name, tmp_path / name)) is None
    assert read_auth_file(Place("link", tmp_path / "link")) is not None


@pytest.mark.parametrize(
    ("mode", "document", "exposed"),
    [
        (0o600, {"auths": {"q.io": auth("me")}}, False),
        (0o644, {"auths": {"q.io": auth("me")}}, True),
        (0o640, {"auths": {"q.io": {"identitytoken": "x"}}}, True),
        (0o644, {"auths": {"q.io": {}}, "credsStore": "pass"}, False),
    ],
)
def test_exposed(tmp_path: Path, mode: int, document: object, exposed: bool) -> None:
    """A file is exposed if others can read it and there is something in it to be read."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(document))
    path.chmod(mode)
    file = read_auth_file(Place("file", path))
    assert file is not None
    assert file.exposed is exposed


_JSON = st.sampled_from([None, True, -1, 1e99, [], ["x"], {}, {"x": [1]}, {"auth": 1}]) | st.text(max_size=9)
_KEYS = st.sampled_from(["q.io", "q.io/a", "https://q.io/v1/", "docker.io", "", "//"]) | st.text(max_size=9)
_ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "auth": st.binary(max_size=30).map(lambda raw: b64encode(raw).decode()) | _JSON,
        "username": _JSON,
        "password": _JSON,
        "identitytoken": _JSON,
        "registrytoken": _JSON,
    },
)
_DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "auths": st.dictionaries(_KEYS, _ENTRIES | _JSON) | _JSON,
        "credHelpers": st.dictionaries(_KEYS, _JSON) | _JSON,
        "credsStore": _JSON,
    },
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A document, often cut or with other characters in it."""
    text = json.dumps(draw(_DOCUMENTS), ensure_ascii=draw(st.booleans()))
    cut = draw(st.integers(0, len(text)) | st.none())
    if cut is None:
        return text
    return text[:cut] + draw(st.text(max_size=4)) + text[cut + draw(st.integers(0, 4)) :]


@settings(max_examples=2000)
@given(texts() | st.text())
@example('{"auths":{' + ",".join(f'"https://q.io/{n}":{{}}' for n in range(10_000)) + "}}")
@example('{"auths":' * 50_000)
@example('{"auths":{"q.io":{"auth":"' + "A" * 900_000 + '"}}}')
def test_any_text(text: str) -> None:
    """THREATS C12, T16: any text at all is read, or refused with the one error, and within 50 ms."""

    refusals: list[str] = []

    def use() -> None:
        try:
            ask(text)
        except CredentialsError as exc:
            refusals.append(str(exc))

    assert cpu_seconds(use, enough=SECONDS_A_FILE) <= SECONDS_A_FILE
    for refusal in refusals:
        assert refusal.startswith("the file: ")
        assert len(refusal) < 600


def ask(text: str) -> None:
    """Read the text, and all that it tells of two registries."""
    file = read(text)
    file.helper_for("q.io")
    for host in ("q.io", HUB):
        found = file.credentials(host, "a/b/c")
        if found is not None:
            found.basic()


@pytest.mark.skipif(not shutil.which("podman"), reason="needs podman")
@pytest.mark.parametrize(
    "keys",
    [
        ["q.io"],
        ["q.io:5000"],
        ["https://q.io"],
        ["https://q.io/v1/"],
        ["http://q.io/v2/", "q.io"],
        ["q.io/a"],
        ["q.io", "q.io/a", "q.io/a/b"],
        ["docker.io"],
        ["https://index.docker.io/v1/"],
        ["registry-1.docker.io"],
        ["index.docker.io", "docker.io", "docker.io/library"],
    ],
)
def test_podman_finds_the_same(tmp_path: Path, keys: list[str]) -> None:
    """Podman names the same user for registries and repositories, given the same file."""
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {key: auth(key.replace(":", ";")) for key in keys}}))
    file = read_auth_file(Place("file", path))
    assert file is not None
    for host, api_host in (("q.io", "q.io"), ("q.io:5000", "q.io:5000"), ("docker.io", HUB)):
        for repository in ("", "/library/x", "/a/b")[: 1 if ":" in host else 3]:
            command = ["podman", "login", "--authfile", str(path), "--get-login", host + repository]
            told = subprocess.run(command, capture_output=True, text=True, timeout=30)
            found = file.credentials(api_host, repository[1:] or "none/such")
            assert (found.username if found else "") == told.stdout.strip(), (host + repository, told.stderr)
