"""The named images on disk (L2, blocking): our own record, and ``index.json``, which is made from it.

Other tools rewrite ``index.json`` as a whole and without a lock, so what was named meanwhile is lost from
it. Our record keeps what we named; names that only ``index.json`` has are those of other tools, as long as
there is a record: in a store without one they become ours.

Where both have a name, ``index.json`` has the last word if another tool has given the name to something
that is in the store, or was put aside as damaged, and that the name had not meant in the hour before that was
written. What it had meant comes of such a lost update, and so it counts for nothing, as does a name that is
just gone, and one that was removed with its image. So another tool can't give a name back at once to what it
meant before, nor remove one of ours: `ImageStore.set_reference` and `ImageStore.remove` can.
"""

from __future__ import annotations

__all__ = ("change_names", "read_names")

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioruntime.errors import StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor
from aioruntime.store import directories, files, index
from aioruntime.store.named import Named
from aioruntime.store.record import Record, meant_before, read_record, write_record
from aioruntime.store.remedies import WRITABLE
from aioruntime.store.tree import put_aside_blobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioruntime.store.layout import Layout

_log = logging.getLogger("aioruntime")

# Other tools write index.json in place: for a moment it is not whole.
_LOOKS = 10
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class _Lists:
    """The two lists of names, as they were read.

    Args:
        record: our record; None if it is damaged.
        index: the content of `index.json`; None if it is damaged, or gone.
        written: when that was written, in seconds since 1970.
    """

    record: Record | None
    index: bytes | None
    written: float


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be written.

    Args:
        ours: the names that we keep.
        given: those of them that we give now, so that it does not matter what others did.
        gone: names that `index.json` is not to have.
        lost: names that it has from a lost update, and is not to have by that.
        others: digests of entries that it is not to have, whatever their names.
        listed: what it named when this was decided.
    """

    ours: Mapping[str, Descriptor]
    given: Collection[str]
    gone: Collection[str]
    lost: Collection[str]
    others: Collection[ImageDigest]
    listed: Mapping[str, Descriptor]


def read_names(layout: Layout, *, whole: bool = False) -> Named:
    """Return the named images.

    Args:
        layout: the store's paths.
        whole: whether it is an error that a list of them is damaged, or the index gone, as for who removes
            what is not named.

    Raises:
        StoreError: a file can't be read, or is not one.
    """
    lists = _read(layout)
    if whole and (lists.record is None or lists.index is None):
        damaged = layout.images if lists.record is None else layout.index
        raise StoreError(
            f"{damaged} is damaged or gone, so what it named is not known and nothing is removed; put it "
            "right, or pull or import an image: then it is made anew, and what only it named can be removed"
        )
    return _merged(lists, layout)[0]


def change_names(layout: Layout, change: Callable[[Named], Named], *, mend: bool = True) -> Named | None:
    """Change the named images; None if another holds the store's lock and we must wait.

    Args:
        layout: the store's paths.
        mend: whether a file that is damaged is put aside and made anew; else it is an error.
        change: gets the present ones and returns the new; again if the lock was lost meanwhile. It must not
            wait for anything.

    Raises:
        StoreError: a file can't be read or written, or is not one.
    """
    if layout.read_only:
        before = read_names(layout)
        if change(before) != before:
            raise StoreError(f"{layout.root}: the store may only be read; {WRITABLE}")
        return before
    lock = layout.lock()
    if lock is None:
        return None
    with lock:
        if not mend:
            read_names(layout, whole=True)
        lists = _read(layout)
        before, lost = _merged(lists, layout)
        adopting = lists.record is None or directories.lookup(layout.images) is None
        after = change(before)
        if not lock.in_place():
            return None  # somebody removed it, and others may have changed names since
        if lists.record is None:
            layout.put_aside(layout.images)
        _write(layout, lists, before, after, lost, adopting=adopting)
    return after


def _read(layout: Layout) -> _Lists:
    record = read_record(layout)
    # Before it is read: what is written meanwhile then counts as older, and so less.
    found = directories.lookup(layout.index)
    raw = _index(layout)
    return _Lists(record, raw, min(time.time(), found.modified_ns / 10**9) if found else 0)


def _merged(lists: _Lists, layout: Layout) -> tuple[Named, frozenset[str]]:
    """Return the named images, and the names in `index.json` that count for nothing."""
    record, source = lists.record or Record(), str(layout.index)
    listed = index.listed(lists.index, source)
    digests = index.digests(lists.index, source)
    images = dict(record.images)
    lost = set()
    for name, theirs in listed.items():
        ours = record.images.get(name)
        if ours is not None and ours.digest == theirs.digest:
            continue
        meant = record.meant(name, theirs.digest, lists.written)
        here = directories.lookup(layout.blob(theirs.digest)) is not None
        if ours is None:
            # What was removed another tool may bring again; a lost update brings the name alone.
            counts = here or not meant
        else:
            counts = not meant and (here or theirs.digest.hex in put_aside_blobs(layout))
        if counts:
            images[name] = theirs
        else:
            lost.add(name)
            digests.remove(theirs.digest)
    others = set(digests).difference(found.digest for found in images.values())
    return Named(images, frozenset(record.pinned), frozenset(others)), frozenset(lost)


def _write(
    layout: Layout, lists: _Lists, before: Named, after: Named, lost: Collection[str], *, adopting: bool
) -> None:
    """Write the record, then the index; whoever comes between the two finds the names in the record.

    Names go from the record last: else an older image that the index may still have would get its name back.
    """
    record = lists.record or Record()
    ours = {
        name: descriptor
        for name, descriptor in after.images.items()
        if name in record.images
        or name in after.pinned
        or name in after.given
        or (adopting and name != descriptor.digest)
    }
    gone = before.images.keys() - after.images.keys()
    listed = index.listed(lists.index, str(layout.index))
    others = before.others - after.others
    change = _Change(ours, after.given, gone, set(lost).difference(ours, gone), others, listed)
    meant = meant_before(record, before, after, {*ours, *gone}, lists.written)
    new = Record(ours, sorted(after.pinned), meant)
    if gone or others:
        _write_index(layout, change)
        write_record(layout, record, new)
    else:
        write_record(layout, record, new)
        _write_index(layout, change)


def _write_index(layout: Layout, change: _Change) -> None:
    """Write what is to change in `index.json`; what is right there stays, and what others have moved."""
    for _ in range(_LOOKS):
        seen = directories.lookup(layout.index)  # before it is read: what is written meanwhile is noticed
        raw = _index(layout)
        if raw is None:
            layout.put_aside(layout.index)
            seen = None
        there = index.listed(raw, str(layout.index))
        moved = {name for name, found in there.items() if found != change.listed.get(name)}
        named = {
            name: descriptor
            for name, descriptor in change.ours.items()
            if name != descriptor.digest  # what has no name there gets none
            if name in change.given
            or name not in there
            or (name not in moved and there[name].digest != descriptor.digest)
        }
        gone = {*change.gone, *change.lost} - moved
        changed = index.updated(
            raw,
            named,
            gone,
            str(layout.index),
            others=set(change.others).difference(there[name].digest for name in moved),
            first={*change.ours, *change.lost}.difference(change.given),
        )
        if changed == raw and gone:
            # Who took them out may have died before that was on the disk.
            directories.sync(layout.index.parent)
        # What another tool writes while we do shall not be lost either.
        if changed == raw or files.replace(layout.index, changed, over=seen):
            break


def _index(layout: Layout) -> bytes | None:
    """Return the index; None if it is gone, or damaged also a moment later, when who wrote it has done so."""
    for attempt in range(_LOOKS):
        if attempt:
            time.sleep(_PAUSE)
        raw = layout.read(layout.index)
        if raw is None:
            return None if directories.lookup(layout.version) else index.EMPTY
        try:
            index.listed(raw, str(layout.index))
        except index.NotAnIndex as exc:
            damage = exc
        else:
            return raw
    _log.warning("%s", damage)
    return None
