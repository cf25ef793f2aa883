"""Our own record of names (L2, blocking): ``aioruntime/images.json``, and what names meant before."""

from __future__ import annotations

__all__ = ("Record", "meant_before", "read_record", "write_record")

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor, digest_hook
from aioruntime.store import directories, files

if TYPE_CHECKING:
    from collections.abc import Collection

    from aioruntime.store.layout import Layout
    from aioruntime.store.named import Named

_log = logging.getLogger("aioruntime")

# Seconds. A lost update brings back what another tool read before it copied an image.
_REMEMBERED = 3600


class Record(msgspec.Struct):
    """What ``images.json`` has.

    Args:
        images: the names that we keep, and what they mean.
        pinned: names that are kept when others are collected.
        before: what each name meant, and the second since 1970 when that ended.
    """

    images: dict[str, Descriptor] = {}
    pinned: list[str] = []
    before: dict[str, dict[ImageDigest, int]] = {}

    def meant(self, name: str, digest: ImageDigest, written: float) -> bool:
        """Tell whether *name*, or any if it is a digest, meant *digest* in the hour before *written*."""
        found = self.before.values() if name == digest else [self.before.get(name, {})]
        return any(each.get(digest, 0) > written - _REMEMBERED for each in found)


def read_record(layout: Layout) -> Record | None:
    """Return our record; None if it is damaged."""
    raw = layout.read(layout.images)
    if raw is None:
        return Record()
    try:
        return msgspec.json.decode(raw, type=Record, dec_hook=digest_hook)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        _log.warning("%s is damaged (%s); names are taken from index.json, pins are lost", layout.images, exc)
        return None


def write_record(layout: Layout, old: Record, new: Record) -> None:
    """Write the record, whole and onto the disk."""
    if new != old:
        files.replace(layout.images, msgspec.json.encode(new, enc_hook=str))
    else:
        # Who wrote it may have died before it was on the disk.
        directories.sync(layout.images.parent)


def meant_before(
    record: Record, before: Named, after: Named, names: Collection[str], written: float
) -> dict[str, dict[ImageDigest, int]]:
    """Return what names meant, for the record after a change.

    Args:
        record: what is recorded.
        before: the names before the change.
        after: the names after it.
        names: those that are ours, or gone.
        written: when `index.json` was written, in seconds since 1970: by then others had moved what they did.
    """
    now = int(time.time())
    # As long as the index has what was written then, it is to be known what it is.
    oldest = written - _REMEMBERED
    found = {}
    for name in {*record.before, *names}:
        meant = {digest: until for digest, until in record.before.get(name, {}).items() if until > oldest}
        for images, until in ((record.images, int(written)), (before.images, now)):
            if name in images:
                meant[images[name].digest] = until
        if name in after.images:
            meant.pop(after.images[name].digest, None)
        if meant:
            found[name] = meant
    return found
