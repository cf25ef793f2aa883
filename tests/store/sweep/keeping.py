"""Use, removal and collection of images while calls of the store fail."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from aioruntime.errors import NotStored
from aioruntime.oci.digest import ImageDigest
from tests.store.helpers import save
from tests.store.sweep import world
from tests.store.sweep.operations import OWN_DIGEST, Operation
from tests.store.sweep.world import FOREIGN, KEPT, NEW, PART, PIECE, SHARED, Place

if TYPE_CHECKING:
    from aioruntime.store.values import PruneReport
    from tests.store.sweep.record import Record

_UNNAMED = world.data(PIECE + 77, 30)
_UNNAMED_DIGEST = ImageDigest.of(_UNNAMED)
_LONG = timedelta(hours=2)


async def _age(place: Place) -> None:
    """Let all be last used long ago, but the image that is kept."""
    await save(place.store, _UNNAMED, _UNNAMED_DIGEST)
    for path in (place.path / "store").rglob("*"):
        before = path.stat().st_mtime - _LONG.total_seconds()
        os.utime(path, (before, before))
    async with place.store.lease(KEPT.digests, image=KEPT.descriptor.digest):
        pass


async def _lease(place: Place, record: Record) -> None:
    async with place.store.lease([_UNNAMED_DIGEST, *NEW.digests]):
        await save(place.store, _UNNAMED, _UNNAMED_DIGEST)
        await NEW.put(place.store)
        await place.store.prune()


async def _check_leased(place: Place, record: Record) -> None:
    # Who may not write to the store has no lease, which is no error.
    if not record.said("kind EACCES") and not record.said("kind EROFS"):
        assert await place.store.read(_UNNAMED_DIGEST) == _UNNAMED
    if record.said("end"):
        for digest in NEW.digests:
            assert await place.store.has(digest)


async def _remove(place: Place, record: Record) -> None:
    with suppress(NotStored):
        await place.store.remove("old")
        record.say("removed")


async def _check_removed(place: Place, record: Record) -> None:
    if record.said("end"):
        assert "old" not in await place.store.references()
    if record.said("removed"):
        assert not await place.store.has(OWN_DIGEST)
    assert await place.store.read(ImageDigest.of(SHARED)) == SHARED


async def _prune(place: Place, record: Record) -> None:
    _tell(record, await place.store.prune())


def _tell(record: Record, report: PruneReport) -> None:
    if report.failed:
        record.say("left")


async def _check_pruned(place: Place, record: Record) -> None:
    if record.said("end") and not record.said("left"):
        assert not await place.store.has(_UNNAMED_DIGEST)
        assert not (place.store.path / "ingest" / f"sha256-{ImageDigest.of(PART).hex}").exists()


async def _prune_old(place: Place, record: Record) -> None:
    _tell(record, await place.store.prune(older_than=_LONG / 2))


async def _check_pruned_old(place: Place, record: Record) -> None:
    await _check_pruned(place, record)
    if record.said("end"):
        assert (await place.store.references()).keys() == {"kept"}
    if record.said("end") and not record.said("left"):
        assert {blob.digest for blob in await place.store.blobs()} == set(KEPT.digests)


async def _pin_kept(place: Place) -> None:
    await _age(place)
    await place.store.pin("kept")


async def _prune_all(place: Place, record: Record) -> None:
    _tell(record, await place.store.prune(max_bytes=0))


async def _pin(place: Place, record: Record) -> None:
    await place.store.pin("old")
    record.say("pinned")
    await place.store.unpin("old")
    record.say("unpinned")
    await place.store.pin(FOREIGN)
    record.say("theirs")


async def _check_pinned(place: Place, record: Record) -> None:
    pinned = {image.name for image in await place.store.images() if image.pinned}
    if record.said("unpinned"):
        assert "old" not in pinned
    if record.said("theirs"):
        assert FOREIGN in pinned


async def _look(place: Place, record: Record) -> None:
    found = await place.store.images()
    record.say("images", *sorted(image.name for image in found))
    assert (await place.store.usage()).blobs == sum(blob.size_bytes for blob in await place.store.blobs())


async def _check_looked(place: Place, record: Record) -> None:
    if record.said("end"):
        assert record.told("images") == [" ".join(sorted(("kept", "old", FOREIGN)))]


KEEPING = (
    Operation("lease", _lease, _check_leased, _age),
    Operation("remove", _remove, _check_removed, mortal=("old",)),
    Operation("prune", _prune, _check_pruned, _age),
    Operation("prune-old", _prune_old, _check_pruned_old, _age, mortal=("old", FOREIGN)),
    Operation("prune-all", _prune_all, _check_pruned_old, _pin_kept, mortal=("old", FOREIGN)),
    Operation("pin", _pin, _check_pinned),
    Operation("look", _look, _check_looked),
)
