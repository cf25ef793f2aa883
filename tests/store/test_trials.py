"""What a file system lacks is found out and told in words."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import filelock
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.store import ImageStore


def _refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _no_locks(patch: pytest.MonkeyPatch) -> None:
    def lock(fd: int, *, blocking: bool) -> bool:
        raise _refuse(errno.ENOLCK)

    patch.setattr(filelock, "lock_descriptor", lock)


def _locks_without_effect(patch: pytest.MonkeyPatch) -> None:
    def lock(fd: int, *, blocking: bool) -> bool:
        return True

    patch.setattr(filelock, "lock_descriptor", lock)


def _no_rename_over(patch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def careful(old: Path, new: Path) -> None:
        if new.exists():
            raise _refuse(errno.EEXIST)
        rename(old, new)

    patch.setattr(os, "rename", careful)


def _no_directory_fsync(patch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise _refuse(errno.EINVAL)
        fsync(fd)

    patch.setattr(os, "fsync", only_files)


def _no_links(patch: pytest.MonkeyPatch) -> None:
    def link(old: Path, new: Path, *, follow_symlinks: bool) -> None:
        raise _refuse(errno.EPERM)

    patch.setattr(os, "link", link)


@pytest.mark.parametrize(
    ("lack", "told"),
    [
        (_no_locks, "locks (flock) (No locks available): no store can be kept here"),
        (_locks_without_effect, "locks (flock) (without effect): no store can be kept here"),
        (_no_rename_over, "renaming over an existing file (File exists): no store can be kept here"),
        (_no_directory_fsync, "fsync of directories (without effect): a power cut can take what was just"),
        (_no_links, "hard links (without effect): exported images are copies"),
    ],
)
@pytest.mark.parametrize("made", [False, True])
async def test_what_lacks_is_told(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, lack: object, told: str, made: bool
) -> None:
    """L17: what the file system can't do is told with what follows; where it can do all, nothing is.

    The trial leaves nothing, and is made also where there is no store yet.
    """
    if made:
        store.path.mkdir()
    place = store.path if made else store.path.parent
    before = sorted(place.iterdir())
    assert await store.lacking() == []
    with monkeypatch.context() as patch:
        assert callable(lack)
        lack(patch)
        found = await store.lacking()

    assert len(found) == 1
    assert found[0].startswith(f"{place} has no {told}")
    assert sorted(place.iterdir()) == before


async def test_a_place_where_nothing_can_be_made(store: ImageStore) -> None:
    """L17: where no trial can be made, that is told instead."""
    store.path.touch()
    found = await store.lacking()

    assert len(found) == 1
    assert found[0].startswith(f"{store.path}: Not a directory")
