"""Judges a store that nobody uses any more, by the files themselves and then by what can be done with it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from aioruntime.errors import NotStored
from aioruntime.registry.client import RegistryClient
from aioruntime.store.store import ImageStore
from tests.store.crowd.journal import deeds, owed
from tests.store.crowd.roles import Puller

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.store.crowd.images import Known
    from tests.store.crowd.roles import Place

_SECONDS = 60.0
_OLD = 2 * 3600


async def judge(place: Place) -> int:
    """Find every blob right, every promise kept, every lock free; return how many names were promised."""
    assert not (wrong := corrupt(place.store)), wrong
    assert not (held := locked(place.store)), held
    promised = owed(deeds(place.journals.glob("*.jsonl")))
    assert not (broken := await lost(place, promised)), broken
    await _use(place)
    await _tidy(place, promised)
    await _empty(place)
    return len(promised)


def corrupt(store: Path) -> list[str]:
    """List the blobs whose content has another hash than their name."""
    directory = store / "blobs" / "sha256"
    return [
        path.name
        for path in (directory.iterdir() if directory.exists() else ())
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.name
    ]


def locked(store: Path) -> list[str]:
    """List the files whose lock somebody holds."""
    found = []
    for path in store.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(str(path))
    return found


async def lost(place: Place, promised: set[str]) -> dict[str, str]:
    """List those of the names that are gone, name something else, or whose image is not whole."""
    references = await ImageStore(place.store).references()
    present = {f"sha256:{path.name}" for path in (place.store / "blobs" / "sha256").glob("*")}
    whole = {image.digest for image in place.images if image.blobs <= present}
    meant = meanings(place.images)
    found = {}
    for name in promised:
        digest = meant[name.rpartition(":")[2] if name not in meant else name]
        if name not in references:
            found[name] = "gone"
        elif references[name].digest != digest:
            found[name] = f"names {references[name].digest}"
        elif digest not in whole:
            found[name] = "not whole"
    return found


def meanings(images: Sequence[Known]) -> dict[str, str]:
    """Return the digest that each name stands for, and each tag that is the end of a digest."""
    return {key: image.digest for image in images for key in (image.name, image.local, image.digest[-12:])}


async def _use(place: Place) -> None:
    """Do everything once: all must be done in seconds."""
    store = ImageStore(place.store)
    known = place.images[0]
    async with asyncio.timeout(_SECONDS), RegistryClient() as client:
        async with Puller(store, client).pulled(known):
            pass
        pinned = (await _pins(store)).get(known.name, False)
        await store.pin(known.name)
        if not pinned:
            await store.unpin(known.name)
        assert await store.verify() == []
        with suppress(NotStored):
            await store.remove("nobody.test/has:this")
        await store.prune(wait=0)


async def _pins(store: ImageStore) -> dict[str, bool]:
    return {image.name: image.pinned for image in await store.images()}


async def _empty(place: Place) -> None:
    """Remove all, so that there is something to be fetched again."""
    store = ImageStore(place.store)
    for name in await store.references():
        await store.unpin(name)
        await store.remove(name)


async def _tidy(place: Place, promised: set[str]) -> None:
    """Let hours pass: what the dead left is gone after a prune, and what was promised is not."""
    then = time.time() - _OLD
    for path in place.store.rglob("*"):
        os.utime(path, (then, then))
    store = ImageStore(place.store)
    async with asyncio.timeout(_SECONDS):
        await store.prune(wait=0)
    ours = place.store / "aioruntime"
    left = [*(place.store / "ingest").iterdir(), *ours.glob("leases/*"), *ours.glob("*.lock")]
    left += [path for path in place.store.rglob("*") if path.name.endswith(".new")]
    assert not left, left
    assert (await store.usage()).unnamed == 0
    assert not (broken := await lost(place, promised)), broken
