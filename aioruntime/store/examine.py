"""Looking whether blobs are what their names say (L2, blocking): generators, advanced a little at a time."""

from __future__ import annotations

__all__ = ("Examined", "advance", "examined", "largest_first", "listed", "put_aside")

import errno
import logging
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from aioruntime.errors import InvalidReference, LayersMissing, StoreError
from aioruntime.oci.digest import ImageDigest
from aioruntime.store import directories, files
from aioruntime.store.blobs import ALGORITHMS, BlobReader
from aioruntime.store.remedies import tells_damage

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from aioruntime.store.layout import Layout

_T = TypeVar("_T")
_log = logging.getLogger("aioruntime")
# Read and hashed whole. The many small blobs of a store then take three calls of the system each.
_SMALL = 2**20
_SLICE_SECONDS = 0.02
# Of one blob alone, and nothing of its content.
_FORBIDDEN = (errno.EACCES, errno.EPERM)


class Examined(NamedTuple):
    """What was seen of a blob.

    Args:
        size: bytes that were looked at since the last time.
        damaged: the blob's digest, if that does not name what was found.
        status: of what was found damaged.
        failure: why a blob may not be read.
    """

    size: int
    damaged: ImageDigest | None = None
    status: directories.Status | None = None
    failure: StoreError | None = None


def advance(steps: Iterator[_T]) -> list[_T]:
    """Take steps for about 20 ms; nothing at the end."""
    taken: list[_T] = []
    deadline = time.monotonic() + _SLICE_SECONDS
    for step in steps:
        taken.append(step)
        if time.monotonic() > deadline:
            break
    return taken


def listed(layout: Layout, sizes: dict[str, int]) -> Generator[None]:
    """List what seems to be a blob, as ``sha256/<hex>`` with its size; -1 if it is no file.

    Args:
        layout: the store's paths.
        sizes: gets the list. Texts and numbers in one `dict` do not concern the garbage collector, which
            would hold up all threads to look at 100,000 of anything else.
    """
    for algorithm, new_hash in ALGORITHMS.items():
        length = 2 * new_hash().digest_size
        for name, found in directories.scan(layout.blobs(algorithm)):
            if len(name) == length:  # others are such as temporary files of other tools
                sizes[f"{algorithm}/{name}"] = found.size if found.regular else -1
            yield


def largest_first(sizes: dict[str, int]) -> deque[str]:
    """Put the large ones first, so that none of them is left running alone at the end."""
    # Not all: one call that sorts 100,000 would hold up the event loop, threads or not.
    large = sorted((name for name, size in sizes.items() if size > _SMALL), key=sizes.__getitem__)
    return deque([*reversed(large), *(name for name, size in sizes.items() if size <= _SMALL)])


def examined(layout: Layout, names: deque[str], sizes: dict[str, int]) -> Generator[Examined]:
    """Examine blobs until *names*, which threads may share, is empty.

    Args:
        layout: the store's paths.
        names: the blobs, as `listed` names them.
        sizes: their sizes, as far as known.

    Raises:
        StoreError: there are no descriptors left, or the like.
    """
    blobs = f"{layout.root}/blobs/"
    while True:
        try:
            name = names.popleft()
        except IndexError:
            return
        algorithm, _, wanted = name.partition("/")
        size = sizes.get(name, -1)
        if 0 <= size <= _SMALL:
            # One byte more, to see that there is none.
            data = files.read_small(blobs + name, size + 1)
            if data is not None and ALGORITHMS[algorithm](data).hexdigest() == wanted:
                yield Examined(size)
                continue
        with suppress(InvalidReference):  # a name of that length, but no hash
            yield from _examined_closely(layout, ImageDigest(f"{algorithm}:{wanted}"), size)


def _examined_closely(layout: Layout, digest: ImageDigest, size: int) -> Generator[Examined]:
    reader = BlobReader(layout, digest, None)
    try:
        while data := reader.next():
            size -= len(data)
            yield Examined(len(data))
    except LayersMissing:
        yield Examined(max(0, size))  # removed since it was listed
    except StoreError as exc:
        if tells_damage(exc):
            yield Examined(max(0, size), digest, reader.status or directories.lookup(layout.blob(digest)))
        elif isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _FORBIDDEN:
            yield Examined(max(0, size), failure=exc)
        else:
            raise
    finally:
        reader.close()


def put_aside(layout: Layout, digest: ImageDigest, seen: directories.Status | None) -> bool | None:
    """Put a blob aside that was found damaged, unless it was replaced since; None if its writer is at work.

    Args:
        layout: the store's paths.
        digest: the blob's digest.
        seen: the status of what was found damaged.
    """
    lock = layout.hold(digest)
    if lock is None:
        return None
    with lock:
        path = layout.blob(digest)
        same = seen is not None and directories.lookup(path) == seen
        if same:
            layout.put_aside(path)
        if not lock.status().size:
            lock.unlink()
    return same
