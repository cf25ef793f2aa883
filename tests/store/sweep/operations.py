"""What is done to the store while its calls fail: each operation, and what it promises."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioruntime.oci.digest import ImageDigest
from tests.store.helpers import blob_path, save
from tests.store.sweep import world
from tests.store.sweep.world import KEPT, NEW, OLD, OWN, PART, PIECE, Place

if TYPE_CHECKING:
    from tests.store.sweep.record import Record

Act = Callable[[Place, "Record"], Coroutine[Any, Any, None]]
OWN_DIGEST = ImageDigest.of(OWN)


@dataclass(frozen=True)
class Operation:
    """Something that is done to the store.

    Args:
        name: what the command line calls it.
        run: does it, and says in the record what it has achieved; it can be done again.
        check: what must hold by what was said, and "end" is said if `run` returned.
        prepare: makes ready for it.
        doubtful: blobs that are damaged before it.
        mortal: names that it may take away.
        partials: partial blobs that may be there when it is done.
        empty: whether it begins with no store at all.
    """

    name: str
    run: Act
    check: Act
    prepare: Callable[[Place], Awaitable[None]] | None = None
    doubtful: tuple[ImageDigest, ...] = ()
    mortal: tuple[str, ...] = ()
    partials: tuple[bytes, ...] = (PART,)
    empty: bool = False


async def nothing(place: Place, record: Record) -> None:
    """Promise no more than what is always so."""


@dataclass(frozen=True)
class _Write:
    """A blob is written."""

    data: bytes
    replaced: bytes = b""
    digest: ImageDigest = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", ImageDigest.of(self.data))

    async def prepare(self, place: Place) -> None:
        if self.replaced:
            path = blob_path(place.store, self.digest)
            path.write_bytes(self.replaced)

    async def ingest(self, place: Place, record: Record) -> None:
        async with place.store.ingest(self.digest, len(self.data)) as ingest:
            if ingest is None:
                return
            while ingest.offset < len(self.data):
                await ingest.write(self.data[ingest.offset : ingest.offset + 10_000])
            await ingest.commit("registry.test")

    async def put(self, place: Place, record: Record) -> None:
        await place.store.put(self.data, self.digest)

    async def check(self, place: Place, record: Record) -> None:
        if record.said("end"):
            assert await place.store.read(self.digest) == self.data


async def _name(place: Place, record: Record) -> None:
    await NEW.put(place.store)
    await place.store.set_reference("new", NEW.descriptor)
    record.say("new")
    await place.store.set_reference("old", KEPT.descriptor)
    record.say("moved")


async def _check_names(place: Place, record: Record) -> None:
    found = await place.store.references()
    if record.said("new"):
        assert found["new"].digest == NEW.descriptor.digest
    allowed = [KEPT] if record.said("moved") else [KEPT, OLD]
    assert found["old"].digest in [image.descriptor.digest for image in allowed]


async def _first(place: Place, record: Record) -> None:
    await KEPT.put(place.store)
    await place.store.set_reference("kept", KEPT.descriptor)
    record.say("named")


async def _check_first(place: Place, record: Record) -> None:
    if record.said("named"):
        assert (await place.store.references())["kept"].digest == KEPT.descriptor.digest


async def _note(place: Place, record: Record) -> None:
    await place.store.update_note("told", lambda _: b"new")


async def _check_note(place: Place, record: Record) -> None:
    if record.said("end"):
        assert await place.store.read_note("told") == b"new"


async def _turn(place: Place, record: Record) -> None:
    async with place.store.turn("build"):
        await place.store.update_note("told", lambda _: b"new")


def damage(place: Place) -> None:
    """Alter a byte of a layer."""
    path = blob_path(place.store, OWN_DIGEST)
    path.chmod(0o600)
    path.write_bytes(b"x" + OWN[1:])
    path.chmod(0o444)


async def _damage(place: Place) -> None:
    damage(place)


async def _verify(place: Place, record: Record) -> None:
    for digest in await place.store.verify():
        record.say("damaged", digest)


async def _check_found(place: Place, record: Record) -> None:
    if record.said("end"):
        assert OWN_DIGEST in record.told("damaged")


async def _repair(place: Place, record: Record) -> None:
    if OWN_DIGEST in await place.store.verify(repair=True):
        record.say("discarded")
    await save(place.store, OWN, OWN_DIGEST)


async def _discard(place: Place, record: Record) -> None:
    if await place.store.discard_damaged(OWN_DIGEST):
        record.say("discarded")
    await save(place.store, OWN, OWN_DIGEST)


async def _check_discarded(place: Place, record: Record) -> None:
    if record.said("discarded") or record.said("end"):
        assert await place.store.verify() == []
    if record.said("end"):
        assert await place.store.read(OWN_DIGEST) == OWN


def _written(name: str, write: _Write, *, put: bool = False) -> Operation:
    doubtful = (write.digest,) if write.replaced else ()
    partials = () if write.data == PART else (PART,)
    run = write.put if put else write.ingest
    return Operation(name, run, write.check, write.prepare, doubtful, partials=partials)


OPERATIONS = (
    Operation("first", _first, _check_first, empty=True),
    _written("ingest-empty", _Write(b"")),
    _written("ingest-small", _Write(b"small")),
    _written("ingest", _Write(world.data(3 * PIECE + 11, 10))),
    _written("ingest-even", _Write(world.data(2 * PIECE, 11))),
    _written("ingest-resumed", _Write(PART)),
    _written("ingest-other-size", _Write(world.data(PIECE + 1, 12), replaced=b"short")),
    _written("put", _Write(b"{}"), put=True),
    _written("put-damaged", _Write(b'{"a":1}', replaced=b'{"b":2}'), put=True),
    Operation("name", _name, _check_names),
    Operation("note", _note, _check_note),
    Operation("turn", _turn, _check_note),
    Operation("verify", _verify, _check_found, _damage, (OWN_DIGEST,)),
    Operation("repair", _repair, _check_discarded, _damage, (OWN_DIGEST,)),
    Operation("discard", _discard, _check_discarded, _damage, (OWN_DIGEST,)),
)
