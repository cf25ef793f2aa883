"""The named images on disk (L2, blocking): our own record, and ``index.json``, which is made from it.

Other tools rewrite ``index.json`` as a whole and without a lock, so what was named meanwhile is lost from
it. Our record keeps what we named; names that only ``index.json`` has are those of other tools, as long as
there is a record: in a store without one they become ours.

Where both have a name, ``index.json`` has the last word if another tool has given the name to something
that is in the store, or was put aside as damaged, and that the name did not mean in the last hour. What it
did mean comes of such a lost update, and so it counts for nothing, as does a name that is just gone, and one
that was removed with its image. So another tool can't give a name back at once to what it meant before, nor
remove one of ours: `ImageStore.set_reference` and `ImageStore.remove` can.
"""

from __future__ import annotations

__all__ = ("Named", "change_names", "not_stored", "read_names")

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from aioruntime.errors import InvalidSpec, NotStored, StoreError, one_line
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor, digest_hook
from aioruntime.oci.reference import OciRef
from aioruntime.store import directories, files, index
from aioruntime.store.remedies import WRITABLE
from aioruntime.store.tree import put_aside_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from aioruntime.store.layout import Layout

_log = logging.getLogger("aioruntime")

# Other tools write index.json in place: for a moment it is not whole.
_LOOKS = 10
_PAUSE = 0.02
# Seconds. A lost update brings back what another tool read before it copied an image.
_REMEMBERED = 3600


@dataclass(frozen=True, slots=True)
class Named:
    """The named images in a store.

    Args:
        images: manifest or index by name; by digest where another tool gave no name.
        pinned: names that are kept when others are collected.
        others: what the index names beside them, in entries that are not understood, or of a name that means
            something else to us.
    """

    images: Mapping[str, Descriptor] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    others: frozenset[ImageDigest] = frozenset()

    @property
    def roots(self) -> frozenset[ImageDigest]:
        """All that is named."""
        return self.others.union(descriptor.digest for descriptor in self.images.values())

    def having(self, name: str, descriptor: Descriptor) -> Named:
        """Return them with *name* for what *descriptor* describes."""
        return replace(self, images={**self.images, name: descriptor})

    def names_of(self, image: OciRef | str) -> list[str]:
        """Return the names of an image, given a name of it, as it was pulled or in full, or its digest.

        Raises:
            InvalidReference: *image* is no reference.
            InvalidSpec: *image* is neither text nor a reference.
        """
        if not isinstance(image, str | OciRef):
            raise InvalidSpec(
                f"image is {one_line(repr(image))}; it has to be a reference, a name or a digest"
            )
        if isinstance(image, str) and image.startswith(("sha256:", "sha512:")):
            return [name for name, found in self.images.items() if found.digest == image]
        if isinstance(image, str) and image in self.images:
            return [image]
        name = (OciRef.parse(image) if isinstance(image, str) else image).canonical
        return [name] if name in self.images else []

    def pinning(self, names: Collection[str]) -> Named:
        """Return them with those names pinned."""
        return replace(self, pinned=self.pinned.union(names))

    def unpinning(self, names: Collection[str]) -> Named:
        """Return them with those names not pinned."""
        return replace(self, pinned=self.pinned.difference(names))

    def without(self, names: Collection[str]) -> Named:
        """Return them without those names, and their pins."""
        images = {name: found for name, found in self.images.items() if name not in names}
        return replace(self, images=images, pinned=self.pinned.difference(names))


class _Record(msgspec.Struct):
    """What ``images.json`` has."""

    images: dict[str, Descriptor] = {}
    pinned: list[str] = []
    # What each name meant, and the second since 1970 when that ended.
    before: dict[str, dict[ImageDigest, int]] = {}

    def meant(self, name: str) -> dict[ImageDigest, int]:
        """Return what *name* meant a while ago, and until when; a clock that was set back forgets nothing."""
        oldest = time.time() - _REMEMBERED
        return {digest: until for digest, until in self.before.get(name, {}).items() if until > oldest}


def not_stored(image: OciRef | str, root: Path) -> NotStored:
    """Return the error for an image that the store at *root* has not."""
    return NotStored(
        f"{one_line(str(image))} is not in the store at {root}; `aioruntime store ls` lists what is, "
        "others have to be pulled or imported first"
    )


def read_names(layout: Layout, *, whole: bool = False) -> Named:
    """Return the named images.

    Args:
        layout: the store's paths.
        whole: whether it is an error that a list of them is damaged, or the index gone, as for who removes
            what is not named.

    Raises:
        StoreError: a file can't be read, or is not one.
    """
    record, raw = _record(layout), _index(layout)
    if whole and (record is None or raw is None):
        damaged = layout.images if record is None else layout.index
        raise StoreError(
            f"{damaged} is damaged or gone, so what it named is not known and nothing is removed; put it "
            "right, or pull or import an image: then it is made anew, and what only it named can be removed"
        )
    return _merged(record or _Record(), index.EMPTY if raw is None else raw, layout)


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
        record, raw = _record(layout), _index(layout)
        before = _merged(record or _Record(), index.EMPTY if raw is None else raw, layout)
        # Entries that others hide would not outlast that their names are ours.
        adopting = not before.others and (record is None or directories.lookup(layout.images) is None)
        after = change(before)
        if not lock.in_place():
            return None  # somebody removed it, and others may have changed names since
        for found, path in ((record, layout.images), (raw, layout.index)):
            if found is None:
                layout.put_aside(path)
        _write(layout, record or _Record(), before, after, adopting=adopting)
    return after


def _merged(record: _Record, raw: bytes, layout: Layout) -> Named:
    source = str(layout.index)
    listed = index.listed(raw, source)
    digests = index.digests(raw, source)
    images = dict(record.images)
    for name, theirs in listed.items():
        ours = record.images.get(name)
        if ours is not None and ours.digest == theirs.digest:
            continue
        # What was removed another tool may bring again; a lost update brings the name alone.
        meant = theirs.digest in record.meant(name)
        if ours is None:
            lost = meant and not _was_here(layout, theirs.digest)
        else:
            lost = meant or not _was_here(layout, theirs.digest)
        if lost:
            digests.remove(theirs.digest)
        else:
            images[name] = theirs
    others = set(digests).difference(found.digest for found in images.values())
    return Named(images, frozenset(record.pinned), frozenset(others))


def _was_here(layout: Layout, digest: ImageDigest) -> bool:
    return directories.lookup(layout.blob(digest)) is not None or digest.hex in put_aside_blobs(layout)


def _write(layout: Layout, record: _Record, before: Named, after: Named, *, adopting: bool) -> None:
    """Write the record, then the index; whoever comes between the two finds the names in the record.

    Names go from the record last: else an older image that the index may still have would get its name back.
    """
    ours = {
        name: descriptor
        for name, descriptor in after.images.items()
        if name in record.images
        or name in after.pinned
        or before.images.get(name) != descriptor
        or (adopting and name != descriptor.digest)
    }
    gone = before.images.keys() - after.images.keys()
    new = _Record(ours, sorted(after.pinned), _meant_before(record, before, ours, gone))
    if gone:
        _write_index(layout, ours, gone)
        _write_record(layout, record, new)
    else:
        _write_record(layout, record, new)
        _write_index(layout, ours, gone)


def _meant_before(
    record: _Record, before: Named, ours: Mapping[str, Descriptor], gone: Collection[str]
) -> dict[str, dict[ImageDigest, int]]:
    now = int(time.time())
    found = {}
    for name in {*record.before, *ours, *gone}:
        meant = record.meant(name)
        for named in (before.images, record.images):
            if name in named:
                meant[named[name].digest] = now
        if name in ours:
            meant.pop(ours[name].digest, None)
        if meant:
            found[name] = meant
    return found


def _write_record(layout: Layout, old: _Record, new: _Record) -> None:
    if new != old:
        files.replace(layout.images, msgspec.json.encode(new, enc_hook=str))
    else:
        # Who wrote it may have died before it was on the disk.
        directories.sync(layout.images.parent)


def _write_index(layout: Layout, ours: Mapping[str, Descriptor], gone: Collection[str]) -> None:
    # What has no name there gets none.
    named = {name: descriptor for name, descriptor in ours.items() if name != descriptor.digest}
    for _ in range(_LOOKS):
        seen = directories.lookup(layout.index)
        raw = _index(layout)
        changed = index.updated(raw, named, gone, str(layout.index))
        if changed == raw and gone:
            # Who took them out may have died before that was on the disk.
            directories.sync(layout.index.parent)
        # What another tool writes while we do shall not be lost either.
        if changed == raw or files.replace(layout.index, changed, over=seen):
            break


def _record(layout: Layout) -> _Record | None:
    """Return our record; None if it is damaged."""
    raw = layout.read(layout.images)
    if raw is None:
        return _Record()
    try:
        return msgspec.json.decode(raw, type=_Record, dec_hook=digest_hook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        _log.warning("%s is damaged (%s); names are taken from index.json, pins are lost", layout.images, exc)
        return None


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
