"""How the store makes files and directories: never seen half made, never through a link."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import StoreError
from aioruntime.store.layout import Layout
from tests.store.helpers import content, partial_path, put_descriptor, save
from tests.store.users import count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aioruntime.store.store import ImageStore


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


async def test_directories_come_with_their_permissions(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L13: in a shared store no directory is seen under its name before all may use it.

    Another user can begin while the first is at it.
    """
    store.path.mkdir()
    store.path.chmod(0o2770)
    chmod = os.chmod
    seen: list[int] = []

    def watched(made: int | Path, mode: int) -> None:
        if not isinstance(made, int):
            named = [path for path in store.path.rglob("[!.]*") if path.is_dir()]
            seen.extend(stat.S_IMODE(path.stat().st_mode) for path in named)
            with monkeypatch.context() as patch:
                patch.setattr(os, "chmod", chmod)
                assert Layout(store.path).prepare()
        chmod(made, mode)

    monkeypatch.setattr(os, "chmod", watched)
    with umask(0o077):
        await save(store, *content(10))

    assert set(seen) == {0o2770}
    assert not list(store.path.rglob(".*"))


async def test_what_comes_with_a_disk_is_not_in_the_way(store: ImageStore) -> None:
    """A disk of its own can be the store, although its root has things in it."""
    for name in ("lost+found", ".snapshot"):
        (store.path / name).mkdir(parents=True)
    assert await save(store, *content(10))


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
async def test_a_store_is_private_unless_shared(store: ImageStore, mask: int) -> None:
    """L13: a store that we make is ours alone, whatever the umask, in every part."""
    with umask(mask):
        await save(store, *content(10))
        await store.set_reference("x", await put_descriptor(store, b"manifest"))
        await count(store)

    files = {path: stat.S_IMODE(path.stat().st_mode) for path in (store.path, *store.path.rglob("*"))}
    assert {mode for path, mode in files.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in files.items() if "blobs" in path.parts and path.is_file()} == {0o400}
    assert {mode for path, mode in files.items() if path.suffix == ".json"} == {0o600}


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("place", ["partial", "lock", "turn", ".index.json.new", "index.json"])
async def test_nothing_is_made_or_altered_through_a_link(
    store: ImageStore, tmp_path: Path, place: str, dangling: bool
) -> None:
    """L7: a link where the store makes a file leads nowhere: its target is neither made nor touched."""
    data, digest = content(10)
    await store.set_reference("before", await put_descriptor(store, b"manifest"))
    target = tmp_path / "target"
    if not dangling:
        target.write_bytes(b"")
        target.chmod(0o644)
    path = {
        "partial": partial_path(store, digest),
        "lock": store.path / "aioruntime" / "lock",
        "turn": store.path / "aioruntime" / "counting.lock",
    }.get(place, store.path / place)
    path.unlink(missing_ok=True)
    path.symlink_to(target)

    async with asyncio.timeout(30):
        for attempt in (
            lambda: save(store, data, digest),
            lambda: count(store),
            lambda: put_and_name(store),
        ):
            with suppress(StoreError):
                await attempt()

    if dangling:
        assert not target.exists()
    else:
        assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"", 0o644)


async def put_and_name(store: ImageStore) -> None:
    await store.set_reference("after", await put_descriptor(store, b"manifest"))
