"""Images that come from other image layouts and go out into them, while calls of the store fail."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest
from aioruntime.store import files
from aioruntime.store.store import ImageStore
from tests.store.sweep import world
from tests.store.sweep.operations import Operation
from tests.store.sweep.world import OLD, PART, PIECE, SHARED, Place
from tests.support.layouts import write_layout
from tests.support.served_image import make_image

if TYPE_CHECKING:
    from tests.store.sweep.record import Record

_LAYERS = (SHARED, PART, world.data(PIECE + 4, 40))
_CONTENTS = make_image("tool", "1", _LAYERS)


async def _make_layout(place: Place) -> None:
    write_layout(place.path / "layout", _CONTENTS)


async def _import(place: Place, record: Record) -> None:
    record.say("names", *await place.store.import_layout(place.path / "layout"))


async def _check_imported(place: Place, record: Record) -> None:
    if record.said("end"):
        assert record.told("names") == ["tool"]
        named = (await place.store.references())["tool"]
        assert await place.store.read(named.digest) == _CONTENTS["/v2/tool/manifests/1"]
        for data in _LAYERS:
            assert await place.store.read(ImageDigest.of(data)) == data


async def _export(place: Place, record: Record) -> None:
    await place.store.export_layout("old", place.path / "out")


async def _made_private(place: Place) -> None:
    """Begin with a directory that has the store's permissions, so that files are linked."""
    (place.path / "out").mkdir(0o700)


async def _export_copied(place: Place, record: Record) -> None:
    # As on a file system that has neither.
    setattr(files, "link", lambda *arguments: False)  # noqa: B010
    setattr(files.File, "clone", lambda *arguments: False)  # noqa: B010
    await _export(place, record)


async def _check_exported(place: Place, record: Record) -> None:
    path = place.path / "out"
    target = ImageStore(path)
    assert await target.verify() == []
    found = await target.references()
    for descriptor in found.values():
        await world.check_whole(target, "old", descriptor.digest)
    if record.said("end"):
        assert {name: descriptor.digest for name, descriptor in found.items()} == {
            "old": OLD.descriptor.digest
        }
        assert {each.name for each in path.iterdir()} == {"blobs", "index.json", "oci-layout"}


async def _began(place: Place) -> None:
    """Begin with what another export has brought, and what one that was killed has left."""
    await place.store.export_layout("old", place.path / "out")
    shutil.rmtree(place.path / "out" / "blobs")
    (place.path / "out" / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    (place.path / "out" / ".aioruntime-sha256-0").write_bytes(b"left")


MOVING = (
    Operation("import", _import, _check_imported, _make_layout, partials=()),
    Operation("export", _export, _check_exported, _made_private),
    Operation("export-copied", _export_copied, _check_exported, _began),
)
