from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from aioruntime.engine.endpoint import Endpoint, candidate_endpoints, check_url
from aioruntime.errors import EngineUnavailable

_HOME = Path("/home/u")
_ALL = [
    "unix:///run/user/1/docker.sock",
    "unix:///var/run/docker.sock",
    "unix:///home/u/.docker/run/docker.sock",
    "unix:///home/u/.docker/desktop/docker.sock",
    "unix:///home/u/.colima/default/docker.sock",
    "unix:///run/user/1/podman/podman.sock",
    "unix:///run/podman/podman.sock",
]


def urls(environ: dict[str, str], home: Path = _HOME, present: bool = False) -> list[str]:
    return [endpoint.url for endpoint in candidate_endpoints(environ, home, lambda _: present)]


def write_context(home: Path, name: str, host: str) -> None:
    directory = home / ".docker/contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
    directory.mkdir(parents=True)
    (directory / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, []),
        ({"DOCKER_HOST": "tcp://a:1"}, ["tcp://a:1"]),
        ({"CONTAINER_HOST": "ssh://u@b"}, ["ssh://u@b"]),
        ({"DOCKER_HOST": "tcp://a:1", "CONTAINER_HOST": "tcp://b:1"}, ["tcp://a:1", "tcp://b:1"]),
        ({"DOCKER_HOST": "unix:///x", "DOCKER_CONTEXT": "absent"}, ["unix:///x"]),
        ({"DOCKER_HOST": ""}, []),
        ({"DOCKER_CONTEXT": "default"}, []),
    ],
)
def test_configured_addresses(environ: dict[str, str], expected: list[str]) -> None:
    """DOCKER_HOST goes before CONTAINER_HOST, and both before contexts."""
    assert urls(environ) == expected


def test_usual_sockets_in_order() -> None:
    """Sockets that are there are tried in a fixed order, Docker's before Podman's; absent ones are not."""
    assert urls({"XDG_RUNTIME_DIR": "/run/user/1"}, present=True) == _ALL
    assert urls({"XDG_RUNTIME_DIR": "/run/user/1"}) == []


def test_contexts(tmp_path: Path) -> None:
    """DOCKER_CONTEXT, else the current context, gives an address and is remembered for its TLS files."""
    write_context(tmp_path, "one", "tcp://one:2376")
    write_context(tmp_path, "two", "ssh://two")
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "two"}')
    assert urls({}, tmp_path) == ["ssh://two"]
    assert urls({"DOCKER_CONTEXT": "default"}, tmp_path) == []
    found = candidate_endpoints({"DOCKER_CONTEXT": "one"}, tmp_path, lambda _: False)
    assert found == [Endpoint("tcp://one:2376", "DOCKER_CONTEXT one", "one")]


@pytest.mark.parametrize("content", ["{", '{"currentContext": "gone"}'])
def test_unreadable_context_is_an_error(tmp_path: Path, content: str) -> None:
    """A context that is configured but can't be read is told, not passed over."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(content)
    with pytest.raises(EngineUnavailable, match=r"JSON|can't be read"):
        urls({}, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:2375",
        "/run/docker.sock",
        "unix://",
        "unix:///",
        "unix://x",
        "tcp://",
        "ftp://x",
        "tcp://x:y",
    ],
)
def test_malformed_addresses(url: str) -> None:
    """What is no address is refused with the forms that are understood."""
    with pytest.raises(EngineUnavailable, match=r"DOCKER_HOST.*unix://.*tcp://.*http.*ssh://"):
        check_url(url, "DOCKER_HOST")


def test_passwords_are_not_shown() -> None:
    """An address is shown without user and password."""
    assert Endpoint("ssh://me:secret@host", "url").shown_url == "ssh://host"
    with pytest.raises(EngineUnavailable) as caught:
        check_url("ftp://me:secret@host", "url")
    assert "secret" not in str(caught.value)
