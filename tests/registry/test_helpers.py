"""Credential helpers as real programs, which hang, lie, flood and die."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import CredentialsError
from aioruntime.registry.auth_files import HelperCall
from aioruntime.registry.clock import SYSTEM_CLOCK, Clock
from aioruntime.registry.credentials import Credentials, Secret
from aioruntime.registry.helpers import Helpers
from aioruntime.tasks import in_thread
from tests.support.canary import shown_by
from tests.support.helper_programs import calls_of, counting, make_helper, telling
from tests.support.leaks import assert_settles, running_with, snapshot

if TYPE_CHECKING:
    from pathlib import Path

CALL = HelperCall("mine", "q.io", "the file: $.credsStore")


class StoppedClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def helpers(folder: Path, *, timeout: float = 20.0, clock: Clock = SYSTEM_CLOCK) -> Helpers:
    """Helpers that are found in *folder*; a child of theirs can be told by TMPDIR."""
    environ = {"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(folder), "DOCKER_AUTH_CONFIG": "canary"}
    return Helpers(environ, timeout, clock)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (telling("me", "pw"), Credentials("me", Secret("pw"))),
        (telling("<token>", "id"), Credentials("", Secret(""), Secret("id"))),
        (telling("", ""), None),
        ("echo 'credentials not found in native keychain'; exit 1", None),
        ("echo 'Credentials not found: no such item'; exit 7", None),
        ("exec 0<&-; " + telling("me", "pw"), Credentials("me", Secret("pw"))),
        ("echo 'this is a warning' >&2; " + telling("me", "pw"), Credentials("me", Secret("pw"))),
    ],
)
async def test_what_helpers_say(tmp_path: Path, body: str, expected: Credentials | None) -> None:
    """A helper has a user and a secret, an identity token, or nothing."""
    make_helper(tmp_path, "mine", body)
    assert await helpers(tmp_path).ask(CALL) == expected


async def test_what_helpers_are_told(tmp_path: Path) -> None:
    """A helper gets `get` as its argument and the server's name as its input, and nothing else of ours."""
    body = f'cat >{tmp_path}/input; echo "$*" >{tmp_path}/arguments; env >{tmp_path}/environ; '
    make_helper(tmp_path, "mine", body + telling("me", "pw"))
    await helpers(tmp_path).ask(CALL)

    assert (tmp_path / "input").read_text() == "q.io"
    assert (tmp_path / "arguments").read_text() == "get\n"
    assert "TMPDIR=" in (tmp_path / "environ").read_text()
    assert "canary" not in (tmp_path / "environ").read_text()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("echo canary; exit 1", "failed with status 1"),
        ('echo \'{"Username": "me", "Secret": "canary"}\'; exit 3', "failed with status 3"),
        ("echo canary >&2; exit 1", "failed with status 1"),
        ("kill -9 $$", "failed with status -9"),
        ("echo canary", "did not answer as a credential helper does"),
        ("true", "did not answer as a credential helper does"),
        ('printf \'{"Secret": ["canary"]}\'', "did not answer as a credential helper does"),
        ('printf \'{"Secret": "canary\\377"}\'', "did not answer as a credential helper does"),
        ("yes canary | head -c 1000000000", "said more than 262144 bytes"),
        ("yes canary", "said more than 262144 bytes"),
        ("head -c 300000 /dev/zero | tr '\\0' '['", "said more than 262144 bytes"),
        ("head -c 200000 /dev/zero | tr '\\0' '['", "did not answer as a credential helper does"),
    ],
)
async def test_helpers_that_fail(tmp_path: Path, body: str, told: str) -> None:
    """THREATS C1, C3: a helper that fails is named, with what it did but not what it said."""
    make_helper(tmp_path, "mine", body)
    before, begun = snapshot(), time.monotonic()
    with pytest.raises(CredentialsError, match=r"^q\.io: docker-credential-mine ") as caught:
        await helpers(tmp_path).ask(CALL)

    assert told in str(caught.value)
    assert "`printf %s 'q.io' | docker-credential-mine get`" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert time.monotonic() - begun < 15  # a helper that hangs has 20
    await assert_settles(before)


@pytest.mark.parametrize("body", ["sleep 600", "exec sleep 600", "sleep 600 & exit 0", "exec >&-; sleep 600"])
async def test_helpers_that_hang(tmp_path: Path, body: str) -> None:
    """THREATS C3: a helper that does not answer in time is ended with all that it has started."""
    make_helper(tmp_path, "mine", body)
    before = snapshot()
    with pytest.raises(CredentialsError, match=r"docker-credential-mine did not answer within 0\.2 s"):
        await helpers(tmp_path, timeout=0.2).ask(CALL)

    await assert_settles(before)
    assert running_with(str(tmp_path)) == []


async def test_cancelled(tmp_path: Path) -> None:
    """THREATS C3: who is cancelled leaves no helper behind; who waited for the same one asks again."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    slow = f"[ -e {tmp_path}/quick ] || {{ touch {tmp_path}/quick; echo >{fifo}; sleep 600; }}; "
    make_helper(tmp_path, "mine", slow + telling("me", "pw"))
    before, asked = snapshot(), helpers(tmp_path)
    first = asyncio.create_task(asked.ask(CALL))
    await in_thread(fifo.read_text)  # the helper is at work
    second = asyncio.create_task(asked.ask(CALL))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == Credentials("me", Secret("pw"))
    assert first.cancelled()
    await assert_settles(before)
    assert running_with(str(tmp_path)) == []


async def test_cancelled_at_once(tmp_path: Path) -> None:
    """THREATS C3, C8: nothing stays of a helper that is cancelled before, while or after it is started, and
    no error shows what the environment holds."""
    make_helper(tmp_path, "mine", "sleep 600")
    before = snapshot()
    for steps in range(30):
        task = asyncio.create_task(helpers(tmp_path).ask(CALL))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert "canary" not in shown_by(caught.value)

    await assert_settles(before)
    assert running_with(str(tmp_path)) == []


async def test_asked_once(tmp_path: Path) -> None:
    """Many that need one helper for one registry cause one call; its answer is kept for a minute."""
    make_helper(tmp_path, "mine", counting(tmp_path) + telling("me", "pw"))
    make_helper(tmp_path, "none", counting(tmp_path) + "echo credentials not found; exit 1")
    clock = StoppedClock()
    asked = helpers(tmp_path, clock=clock)
    for call in (CALL, HelperCall("none", "q.io", "")):
        assert len(set(await asyncio.gather(*[asked.ask(call) for _ in range(50)]))) == 1
    assert calls_of(tmp_path) == 2
    clock.time = 60
    await asked.ask(CALL)
    assert calls_of(tmp_path) == 2
    clock.time = 61
    await asked.ask(CALL)
    await asked.ask(HelperCall("mine", "p.io", ""))
    assert calls_of(tmp_path) == 4


async def test_a_failure_is_shared_but_not_kept(tmp_path: Path) -> None:
    """Those that wait for a helper which fails all learn that at once; who asks later gets another try."""
    fails = f"[ -e {tmp_path}/mended ] || exit 1; "
    make_helper(tmp_path, "mine", counting(tmp_path) + fails + telling("me", "pw"))
    asked = helpers(tmp_path)
    outcomes = await asyncio.gather(*[asked.ask(CALL) for _ in range(50)], return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {CredentialsError}
    assert calls_of(tmp_path) == 1
    (tmp_path / "mended").touch()
    assert await asked.ask(CALL) == Credentials("me", Secret("pw"))


async def test_helpers_that_can_not_be_run(tmp_path: Path) -> None:
    """THREATS C1: a helper that is missing or can't be run is an error that names it and who wants it."""
    program = tmp_path / "docker-credential-mine"
    missing = r"docker-credential-mine, which the file: \$.credsStore names, is not on PATH"
    refused = r"docker-credential-mine, which the file: \$.credsStore names, can't be run: "
    asked = helpers(tmp_path)
    with pytest.raises(CredentialsError, match=missing):
        await asked.ask(CALL)
    program.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(CredentialsError, match=refused + "Permission denied"):
        await asked.ask(CALL)
    program.chmod(0o755)
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(CredentialsError, match=refused + "No such file"):
        await asked.ask(CALL)
    program.write_bytes(b"\0\1\2\3")
    with pytest.raises(CredentialsError, match=refused + "Exec format error"):
        await asked.ask(CALL)


async def test_the_working_directory_is_no_place_for_helpers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """THREATS C2: a program that lies where we happen to be is not run, whatever PATH says."""
    make_helper(tmp_path, "mine", telling("me", "pw"))
    monkeypatch.chdir(tmp_path)
    for path in ("", ".", ":", "../" + tmp_path.name, "."):
        with pytest.raises(CredentialsError, match="is not on PATH"):
            await Helpers({"PATH": path}, 5, SYSTEM_CLOCK).ask(CALL)


@pytest.mark.parametrize("name", ["../../tmp/x", "a b", "a/b", "", "a\n", "$(id)", "ä", "a\0"])
async def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    """THREATS C2: what is no plain name never becomes a program."""
    make_helper(tmp_path, "mine", counting(tmp_path) + telling("me", "pw"))
    with pytest.raises(CredentialsError, match=r"^the file: \$.credsStore: no name of a credential helper"):
        await helpers(tmp_path).ask(HelperCall(name, "q.io", CALL.place))
    assert calls_of(tmp_path) == 0


@pytest.mark.parametrize(
    "server", ["q.io\n", "q.io\nusername=x", 'q.io"', "q'.io", "q io", "", "q`.io", "q\0"]
)
async def test_servers_that_are_none(tmp_path: Path, server: str) -> None:
    """THREATS C4: a server's name with a newline, a quote or the like is refused before a helper sees it."""
    make_helper(tmp_path, "mine", counting(tmp_path) + telling("me", "pw"))
    with pytest.raises(CredentialsError, match=r"^the file: \$.credsStore: no name of a registry"):
        await helpers(tmp_path).ask(HelperCall("mine", server, CALL.place))
    assert calls_of(tmp_path) == 0


def test_telling_is_json() -> None:
    """The helper of these tests says what a helper says."""
    assert json.loads(telling("a", "b").partition("'")[2].rpartition("'")[0])["Secret"] == "b"
