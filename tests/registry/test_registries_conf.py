"""What `registries.conf` files say, and which of them are read."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import InvalidConfiguration, InvalidSpec, NotFound, RequestRefused
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.registries_conf import (
    Location,
    RegistryRule,
    decode_registries,
    explicit_rules,
    read_registries,
)
from tests.registry.helpers import image_at
from tests.support.scripted import Reply, Request, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = "registries.conf"


def decode(text: str) -> tuple[RegistryRule, ...]:
    return decode_registries(text.encode(), FILE)


def test_everything() -> None:
    """Each key of a registry and of a mirror is understood, and others are passed over."""
    rules = decode(
        """
        unqualified-search-registries = ["docker.io"]
        short-name-mode = "enforcing"
        [aliases]
        "x" = "docker.io/library/x"
        [[registry]]
        prefix = "Example.com/foo/"
        location = "internal.example:5000/bar"
        insecure = true
        of-a-later-version = { a = 1 }
        [[registry.mirror]]
        location = "one.example"
        insecure = true
        [[registry.mirror]]
        location = "two.example/path"
        pull-from-mirror = "tag-only"
        [[registry]]
        location = "docker.io"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "[::1]:5000"
        [[registry]]
        prefix = "*.evil.example"
        blocked = true
        """
    )

    assert rules == (
        RegistryRule(
            "example.com/foo",
            FILE,
            Location("internal.example:5000/bar", insecure=True),
            insecure=True,
            mirrors=(
                Location("one.example", insecure=True),
                Location("two.example/path", use="tag-only"),
            ),
        ),
        RegistryRule("docker.io", FILE, mirrors=(Location("[::1]:5000", use="digest-only"),)),
        RegistryRule("*.evil.example", FILE, blocked=True),
    )


@pytest.mark.parametrize(
    "text", ["", "# nothing", "[[registry]]\nlocation = 'a.example/x:1'\nblocked = true"]
)
def test_little(text: str) -> None:
    """A file may say nothing, and may be about one tag."""
    assert [rule.prefix for rule in decode(text)] == (["a.example/x:1"] if text.startswith("[") else [])


def test_the_first_of_two() -> None:
    """Of two tables for one prefix, the first counts."""
    text = "[[registry]]\nlocation = 'a.example'\n[[registry]]\nprefix = 'a.example'\nlocation='b.example'\n"

    assert decode(text) == (RegistryRule("a.example", FILE),)


REGISTRY = "[[registry]]\nlocation = 'a.example'\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[registry]\n", "line 1"),
        ("a = 1\na = 2\n", "line 2"),
        ("\xff", "not valid TOML"),
        ("x = " + "[" * 100_000, "not valid TOML"),
        ("x = " + "1" * 10_000, "not valid TOML"),
        ("[registries.search]\nregistries = ['docker.io']\n", "version 1"),
        ("registry = 1", r"\$\.registry"),
        (REGISTRY + "insecure = 'yes'", r"\$\.registry\[0\]\.insecure"),
        (REGISTRY + "[[registry.mirror]]\n", r"`location` - at `\$\.registry\[0\]\.mirror\[0\]"),
        (REGISTRY + "[[registry.mirror]]\nlocation = ''\n", r"registry\[0\]"),
        (REGISTRY + "[[registry.mirror]]\nlocation = 'b.example/x:1'\n", "has a tag"),
        (
            REGISTRY + "[[registry.mirror]]\nlocation = 'b.example'\npull-from-mirror = 'x'",
            "pull-from-mirror",
        ),
        (
            REGISTRY
            + "mirror-by-digest-only = true\n"
            + "[[registry.mirror]]\nlocation = 'b.example'\npull-from-mirror = 'all'",
            "can't be together",
        ),
        (REGISTRY + "[[registry]]\ninsecure = true", r"registry\[1\]: it has neither"),
        ("[[registry]]\nprefix = 'a.example'", "has no location"),
        ("[[registry]]\nlocation = 'https://a.example'", "leave the scheme out"),
        ("[[registry]]\nlocation = 'a.example//x'", "no registry's host"),
        ("[[registry]]\nlocation = 'a example'", "no registry's host"),
        ("[[registry]]\nlocation = 'user@a.example'", "no registry's host"),
        ("[[registry]]\nprefix = '*.example.com/foo'", "wildcard"),
        ("[[registry]]\nprefix = 'a.*.com'\nlocation = 'x'", "no registry's host"),
        ("[[registry]]\nprefix = 'a.example'\nlocation = 'b.example/x:1'", "only that of its prefix"),
    ],
    ids=lambda value: value[:40],
)
def test_broken(text: str, told: str) -> None:
    """A file that is broken is refused with its name, and the place in it."""
    raw = text.encode("latin-1")
    with pytest.raises(InvalidConfiguration, match=told) as caught:
        decode_registries(raw, FILE)

    assert str(caught.value).startswith(f"{FILE}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


NAMES = st.sampled_from(
    ["a.example", "*.example", "a.example:5000/x", "x/y:1", "", "/", "https://a", "é", "a@b"]
)
USES = st.sampled_from(["all", "digest-only", "tag-only", "", "other"])
MIRRORS = st.lists(
    st.fixed_dictionaries({}, optional={"location": NAMES, "pull-from-mirror": USES}), max_size=3
)
FLAGS = dict.fromkeys(("insecure", "blocked", "mirror-by-digest-only"), st.booleans() | st.integers())
TABLES = st.lists(
    st.fixed_dictionaries(
        {}, optional={"prefix": NAMES, "location": NAMES | st.text(), **FLAGS, "mirror": MIRRORS}
    ),
    max_size=3,
)


def toml(value: object) -> str:
    """Write a value of TOML; JSON writes strings, numbers and booleans as TOML does."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@given(TABLES.map(lambda tables: f"registry = {toml(tables)}".encode(errors="replace")) | st.binary())
def test_any_bytes(raw: bytes) -> None:
    """Whatever a file has in it, it is understood or refused as what it is."""
    try:
        rules = decode_registries(raw, FILE)
    except InvalidConfiguration:
        return
    assert len({rule.prefix for rule in rules}) == len(rules)


@pytest.mark.parametrize(
    "mirrors",
    [{"docker.io": "m.example"}, {"": ["m.example"]}, {"a.example": ["http://m"]}, {"*": ["m.example"]}],
)
def test_wrong_in_code(mirrors: dict[str, list[str]]) -> None:
    """Mirrors given in code are checked when the client is made."""
    with pytest.raises(InvalidSpec, match="mirrors="):
        RegistryClient(mirrors=mirrors)


def test_in_code() -> None:
    """Mirrors given in code are in the order given."""
    (rule,) = explicit_rules({"docker.io/library": ["m.example:5000", "other/prefix"]})

    assert (rule.prefix, [mirror.name for mirror in rule.mirrors]) == (
        "docker.io/library",
        ["m.example:5000", "other/prefix"],
    )


def says(path: Path, prefix: str, location: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[[registry]]\nprefix = '{prefix}'\nlocation = '{location}'\n")


def locations(rules: tuple[RegistryRule, ...]) -> dict[str, str]:
    return {rule.prefix: rule.location.name for rule in rules if rule.location}


def test_which_files(tmp_path: Path) -> None:
    """The user's file takes the place of the system's; drop-ins add to it, each over what came before."""
    environ, etc = {"HOME": str(tmp_path / "home")}, tmp_path / "etc"
    assert read_registries(environ, etc) == ()

    says(etc / "containers/registries.conf", "a.example", "system")
    assert locations(read_registries(environ, etc)) == {"a.example": "system"}

    of_user = tmp_path / "home/.config/containers/registries.conf"
    says(of_user, "b.example", "user")
    assert locations(read_registries(environ, etc)) == {"b.example": "user"}

    says(etc / "containers/registries.conf.d/2.conf", "b.example", "late")
    says(etc / "containers/registries.conf.d/1.conf", "b.example", "early")
    says(etc / "containers/registries.conf.d/3.conf~", "b.example", "backup")
    assert locations(read_registries(environ, etc)) == {"b.example": "late"}

    says(of_user.with_name("registries.conf.d") / "1.conf", "c.example", "user-drop-in")
    assert locations(read_registries(environ, etc)) == {"b.example": "late", "c.example": "user-drop-in"}

    says(tmp_path / "named.conf", "d.example", "named")
    named = {**environ, "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "named.conf")}
    assert locations(read_registries(named, etc)) == {"d.example": "named"}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that was named has to be there; the message names it."""
    with pytest.raises(InvalidConfiguration, match=r"none\.conf: can't be read: No such file"):
        read_registries({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "none.conf")})


@pytest.mark.skipif(not shutil.which("skopeo"), reason="needs skopeo")
@pytest.mark.parametrize(
    ("config", "selector"),
    [
        ("", ":1"),
        ("[[registry]]\nlocation='OWN'\n[[registry.mirror]]\nlocation='OTHER'", ":1"),
        ("[[registry]]\nlocation='OWN'\n[[registry.mirror]]\nlocation='OTHER/deep/er'", ":1"),
        ("[[registry]]\nlocation='OWN/org'\n[[registry.mirror]]\nlocation='OTHER/deep'", ":1"),
        ("[[registry]]\nlocation='OWN/org/tool'\n[[registry.mirror]]\nlocation='OTHER/x'", ":1"),
        ("[[registry]]\nlocation='OWN/or'\n[[registry.mirror]]\nlocation='OTHER/x'", ":1"),
        ("[[registry]]\nprefix='OWN/org'\nlocation='OTHER/moved'", ":1"),
        (
            "[[registry]]\nprefix='OWN/org'\nlocation='OTHER/long'\n[[registry]]\nprefix='OWN'\nlocation='OTHER/short'",
            ":1",
        ),
        (
            "[[registry]]\nlocation='OWN'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='OTHER'",
            ":1",
        ),
        (
            "[[registry]]\nlocation='OWN'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='OTHER'",
            "@sha256:" + "0" * 64,
        ),
        (
            "[[registry]]\nlocation='OWN'\n"
            "[[registry.mirror]]\nlocation='OTHER/t'\npull-from-mirror='tag-only'\n"
            "[[registry.mirror]]\nlocation='OTHER/d'\npull-from-mirror='digest-only'",
            ":1",
        ),
        (
            "[[registry]]\nlocation='OWN'\n"
            "[[registry.mirror]]\nlocation='OTHER/t'\npull-from-mirror='tag-only'\n"
            "[[registry.mirror]]\nlocation='OTHER/d'\npull-from-mirror='digest-only'",
            "@sha256:" + "0" * 64,
        ),
        ("[[registry]]\nlocation='OWN'\nblocked=true", ":1"),
        ("[[registry]]\nlocation='OWN/org/tool:2'\nblocked=true", ":1"),
    ],
)
async def test_as_skopeo_does(
    server: ScriptedServer,
    other: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    selector: str,
) -> None:
    """With the same file, skopeo asks the same repositories for the image, in the same order."""
    asked: list[str] = []

    def note(name: str) -> Callable[[Request], Reply]:
        def reply(request: Request) -> Reply:
            asked.append(f"{name} {request.path}")
            return Reply(404)

        return reply

    for name, each in (("own", server), ("other", other)):
        each.on("GET", "/v2/")
        each.on("GET", re.compile("/v2/.*/manifests/.*"), note(name))
    path = tmp_path / FILE
    path.write_text(config.replace("OWN", server.origin).replace("OTHER", other.origin))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))
    image = image_at(server, f"org/tool{selector}")
    command = [
        "skopeo",
        "--registries-conf",
        str(path),
        "inspect",
        "--tls-verify=false",
        "--raw",
        f"docker://{image}",
    ]
    told = (await anyio.run_process(command, check=False, env=dict(os.environ))).stderr
    by_skopeo, asked[:] = list(dict.fromkeys(asked)), []
    async with RegistryClient() as client:
        with pytest.raises(NotFound if by_skopeo else RequestRefused):
            await client.resolve(image)

    assert asked == by_skopeo, told
    assert bool(by_skopeo) != (b"blocked" in told)
