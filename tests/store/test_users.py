"""Several users of one machine and one store: those of a group share it, others are kept out."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioruntime.store.store import ImageStore
from tests.store import users
from tests.store.helpers import blob_path, content, partial_path, put_descriptor, save, save_some
from tests.store.users import TEAM, User

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")

ALICE, BOB, CARL = 61001, 61002, 61003
Being = Callable[..., User]


@pytest.fixture(scope="module")
def being() -> Iterator[Being]:
    """Gives users, who stay for the next test."""
    there: dict[tuple[int, ...], User] = {}

    def find(uid: int, *groups: int, umask: int = 0o077) -> User:
        key = (uid, umask, *groups)
        if key not in there:
            there[key] = User(uid, *groups, umask=umask)
        return there[key]

    yield find
    for user in there.values():
        user.leave()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach; a test's own is root's alone."""
    path = Path(tempfile.mkdtemp(prefix="aioruntime-users-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def shared(path: Path, mode: int = 0o2770, owner: int = 0) -> Path:
    """Make a directory as an administrator does, for TEAM to keep a store in."""
    path.mkdir()
    os.chown(path, owner, TEAM)
    path.chmod(mode)
    return path


def modes(path: Path) -> dict[str, tuple[int, int]]:
    """Permissions and group of all that is in a directory, by its name there."""
    found = {str(entry.relative_to(path)): entry.lstat() for entry in path.rglob("*")}
    return {name: (stat.S_IMODE(about.st_mode), about.st_gid) for name, about in found.items()}


def flip(path: Path) -> None:
    """Alter a byte, as a disk does: who owns it and who may use it stays."""
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("mode", "umasks"),
    [
        (0o2770, (0o077, 0o077)),
        (0o2770, (0o002, 0o077)),
        (0o2770, (0o022, 0o002)),
        (0o2775, (0o077, 0o002)),
        (0o770, (0o022, 0o022)),
    ],
)
def test_a_group_shares_a_store(being: Being, place: Path, mode: int, umasks: tuple[int, int]) -> None:
    """L13, T23: users of a group do all they would do alone, each with what the other made.

    Whatever their umasks, all that is made has the group and the permissions of the store's directory.
    """
    path = shared(place / "store", mode)
    store = ImageStore(path)
    alice, bob = (being(uid, TEAM, umask=umask) for uid, umask in zip((ALICE, BOB), umasks, strict=True))
    half = content(1000, 2)[1]

    assert alice.do(users.store_seed, path, 1) is True
    assert alice.do(users.leave_half, path, 2) is None
    assert alice.do(users.leave_half, path, 3) is None
    assert alice.do(users.name, path, "of-alice") is None
    assert alice.do(users.count, path) == b"1"
    assert bob.do(users.store_seed, path, 1) is False
    assert bob.do(users.go_on, path, 2) == 500
    assert bob.do(users.store_seed, path, 4) is True
    assert bob.do(users.name, path, "of-bob") is None
    assert bob.do(users.count, path) == b"2"
    assert bob.do(users.scratch, path) == b"scratch"
    assert alice.do(users.name, path, "of-both") is None
    for user in (alice, bob):
        assert user.do(users.names, path) == ["of-alice", "of-bob", "of-both"]
        assert [user.do(users.read, path, seed) for seed in (1, 2, 4)] == [True] * 3
        assert user.do(users.lacking, path) == []
    damaged = content(1000, 1)[1]
    flip(blob_path(store, damaged))
    assert bob.do(users.verify, path) == [damaged]
    assert bob.do(users.put_aside, path, blob_path(store, damaged)) is None
    assert alice.do(users.store_seed, path, 1) is True
    of_bob = content(1000, 4)[1]
    flip(blob_path(store, of_bob))
    assert alice.do(users.discard, path, of_bob) is True
    assert alice.do(users.verify, path) == []

    found = modes(path)
    directories = {name: found.pop(name) for name in list(found) if (path / name).is_dir()}
    blobs = {
        name: found.pop(name) for name in list(found) if name.startswith(("blobs/", "aioruntime/damaged"))
    }
    assert directories.keys() >= {"aioruntime", "aioruntime/damaged", "blobs", "blobs/sha256", "ingest"}
    assert set(directories.values()) == {(mode, TEAM)}
    assert f"ingest/{partial_path(store, content(1000, 3)[1]).name}" in found
    assert set(found.values()) == {(mode & 0o666, TEAM)}
    resumed = blobs.pop(str(blob_path(store, half).relative_to(path)))
    assert resumed == (mode & 0o666, TEAM)  # only its owner, who did not end it, may protect it
    assert set(blobs.values()) == {(mode & 0o444, TEAM)}
    for user in (alice, bob):
        assert user.do(users.prune, path) == []
    assert os.listdir(path / "aioruntime/damaged") == []


def test_users_begin_at_once(being: Being, place: Path) -> None:
    """L13, T23: users with strict umasks who make a store at the same moment never shut each other out."""
    path = shared(place / "stores")
    for turn in range(30):
        shared(path / str(turn))
    team = {str(uid): being(uid, TEAM) for uid in (ALICE, BOB, CARL)}

    doings = [user.begin(users.use_at_once, path, who, 30) for who, user in team.items()]

    assert [doing.result(users.SECONDS) for doing in doings] == [None] * 3
    for turn in range(30):
        assert team[str(CARL)].do(users.names, path / str(turn)) == sorted(team)
        assert team[str(CARL)].do(users.count, path / str(turn)) == b"4"
        assert not list((path / str(turn)).glob(".*"))


@pytest.mark.parametrize("made_by", ["administrator", "user"])
def test_others_are_kept_out(being: Being, place: Path, made_by: str) -> None:
    """L13, T23: a store that is private, or another group's, is refused with its path and the remedy."""
    path = place / "store"
    if made_by == "user":
        os.chown(place, ALICE, ALICE)
    else:
        shared(path)
    alice, carl = being(ALICE, TEAM, umask=0), being(CARL)
    assert alice.do(users.store_seed, path, 1) is True
    assert alice.do(users.name, path, "x") is None

    attempts = [
        carl.do(users.store_seed, path, 1),
        carl.do(users.read, path, 1),
        carl.do(users.name, path, "x"),
        carl.do(users.names, path),
        carl.do(users.count, path),
        carl.do(users.verify, path),
        carl.do(users.discard, path, content(1000)[1]),
    ]

    for kind, message in attempts:
        assert kind == "StoreError"
        assert message.startswith(str(path))
        assert "Permission denied; have its owner make it accessible, or set AIORUNTIME_STORE" in message
    if made_by == "user":
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert {mode & 0o077 for mode, _ in modes(path).values()} == {0}


@pytest.mark.parametrize(
    ("owner", "mode", "refused"),
    [(ALICE, 0o777, True), (BOB, 0o777, False), (0, 0o777, False), (ALICE, 0o775, False)],
)
def test_a_directory_laid_out_as_a_trap(
    being: Being, place: Path, owner: int, mode: int, refused: bool
) -> None:
    """L13: where another user lets everybody write, nothing is stored; root and a group may share."""
    path = shared(place / "store", mode, owner)
    bob = being(BOB, TEAM)

    found = bob.do(users.store_seed, path, 1)

    if refused:
        assert found[0] == "StoreError"
        assert (
            f"{path} belongs to user {ALICE}, and anybody may write to it; set AIORUNTIME_STORE" in found[1]
        )
        assert not list(path.iterdir())
    else:
        assert found is True


@pytest.mark.parametrize("killed_at", ["partial", "lock"])
def test_a_user_killed_in_between(being: Being, place: Path, killed_at: str) -> None:
    """L13, L1: a file that its maker was killed over, before others got access to it, is made again."""
    path = shared(place / "store")
    store = ImageStore(path)
    bob = being(BOB, TEAM)
    assert bob.do(users.store_seed, path, 0) is True
    left = path / "aioruntime/lock" if killed_at == "lock" else partial_path(store, content(1000)[1])
    left.unlink(missing_ok=True)
    left.touch()
    os.chown(left, ALICE, TEAM)
    left.chmod(0o600)

    assert bob.do(users.store_seed, path, 1) is True
    assert bob.do(users.name, path, "x") is None

    assert (path / "aioruntime/lock").stat().st_uid == BOB


def test_what_others_keep_to_themselves_stays(being: Being, place: Path) -> None:
    """L13: a partial with content that we may not write is named in the error, and not touched."""
    path = shared(place / "store")
    partial = partial_path(ImageStore(path), content(1000)[1])
    bob = being(BOB, TEAM)
    assert bob.do(users.store_seed, path, 0) is True
    partial.write_bytes(b"x")
    partial.chmod(0o600)

    kind, message = bob.do(users.store_seed, path, 1)

    assert kind == "StoreError"
    assert message.startswith(f"{partial}: Permission denied; have its owner make it accessible")
    assert partial.read_bytes() == b"x"


def _fill(path: Path) -> None:
    async def fill(store: ImageStore) -> None:
        await save(store, *content(1000))
        await users.name(store, "x")
        await users.count(store)

    asyncio.run(fill(ImageStore(path)))


@pytest.mark.parametrize("how", ["other's", "mounted"])
def test_a_store_to_read(being: Being, place: Path, how: str) -> None:
    """L13, T23: a store that may only be read, by its permissions or its mount, gives all that is in it.

    What is there is pulled again without a write; a new blob or name is an error that tells the remedy.
    """
    path = shared(place / "store", 0o2755 if how == "other's" else 0o2770)
    _fill(path)
    before = modes(path)
    if how == "mounted":
        subprocess.run(["mount", "--bind", path, path], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
    try:
        user = being(BOB, *([TEAM] if how == "mounted" else []))
        assert user.do(users.names, path) == ["x"]
        assert user.do(users.read, path, 1) is True
        assert user.do(users.verify, path) == []
        assert user.do(users.store_seed, path, 1) is False
        assert user.do(users.name, path, "x") is None
        assert user.do(users.count, path) == b"2"
        assert user.do(users.count, path) == b"2"
        assert "may only be read" in user.do(users.lacking, path)[0]
        for attempt in (
            user.do(users.store_seed, path, 2),
            user.do(users.name, path, "y"),
            user.do(users.name_unstored, path, "x"),
        ):
            assert attempt[0] == "StoreError"
            assert str(path) in attempt[1]
            assert "set AIORUNTIME_STORE" in attempt[1]
    finally:
        if how == "mounted":
            subprocess.run(["umount", path], check=True)
    assert modes(path) == before
    assert not list((path / "ingest").iterdir())


@pytest.mark.parametrize("year", [1970, 2099])
async def test_the_times_of_files_do_not_matter(tmp_path: Path, year: int) -> None:
    """L14, T23: with files of 1970 or 2099, blobs are found, verified, resumed and named as ever."""
    store = ImageStore(tmp_path / "store")
    half, half_digest = content(1000, 2)
    await save(store, *content(1000, 1))
    await save_some(store, half, half_digest, 500)
    await store.set_reference("x", await put_descriptor(store, b"manifest"))
    seconds = (year - 1970) * 365 * 24 * 3600
    for path in (store.path, *store.path.rglob("*")):
        os.utime(path, (seconds, seconds))

    assert await store.verify() == []
    assert await save(store, *content(1000, 1)) is False
    assert await users.go_on(store, 2) == 500
    await store.set_reference("y", await put_descriptor(store, b"manifest"))
    assert sorted(await store.references()) == ["x", "y"]
    assert await users.count(store) == b"1"
