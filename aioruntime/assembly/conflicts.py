"""Look for conflicts in the layers of a composed image: once for their paths, again for what differs (L3)."""

from __future__ import annotations

__all__ = ("find_conflicts",)

import hashlib
from typing import TYPE_CHECKING, TypeVar

import anyio

from aioruntime.assembly.changeset import Changeset
from aioruntime.assembly.clashes import attributes, find_clashes, settle, to_compare
from aioruntime.assembly.inflate import InflatedReader, telling_damage
from aioruntime.assembly.tar import BadTar, TarReader
from aioruntime.errors import DigestMismatch, InvalidManifest
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aioruntime.assembly.compose import Stack
    from aioruntime.assembly.tar import Header
    from aioruntime.oci.image import PathConflict
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.store import ImageStore

_T = TypeVar("_T")
# Reading archives is bound by the processor; two at a time leave room for the loop.
_READERS = 2


async def find_conflicts(
    store: ImageStore, stack: Stack, name: str, progress: ProgressReporter
) -> tuple[PathConflict, ...]:
    """List the paths that the sources of *stack* have in different ways, sorted.

    What all sources begin with is not read: there they agree.

    Args:
        store: has the layers.
        stack: the layers of the composed image.
        name: its name, for messages.
        progress: told the bytes of the layers that were read.

    Raises:
        DigestMismatch: a layer does not hold what its image's config says: it was altered in the store, or
            the image is broken at its source.
        InvalidManifest: a layer can't be unpacked, or engines would differ in how.
        LayersMissing: a layer is not in the store.
    """
    search = _Search(store, stack, progress)
    unread = range(stack.agreed, len(stack.layers))
    changesets = await search.each(unread, search.scan, f"comparing the layers of {name}")
    clashes = await in_thread(find_clashes, stack, changesets)
    wanted = to_compare(clashes)
    prints = await search.each(
        wanted,
        lambda index: search.look(index, wanted[index], changesets[index]),
        f"comparing the files of {name}",
    )
    entries = {(index, at): found for index, looks in prints.items() for at, found in looks.items()}
    return settle(clashes, entries)


class _Search:
    """Reads layers of one stack."""

    def __init__(self, store: ImageStore, stack: Stack, progress: ProgressReporter) -> None:
        self._store = store
        self._stack = stack
        self._progress = progress
        self._limiter = anyio.CapacityLimiter(_READERS)

    async def each(self, indices: Iterable[int], read: Callable[[int], _T], message: str) -> dict[int, _T]:
        """Call *read* in threads for each of these layers, and tell it as *message*."""
        indices = list(indices)
        results: dict[int, _T] = {}
        sizes = {index: self._stack.layers[index][0].size for index in indices}
        done = 0

        async def work(index: int) -> None:
            nonlocal done
            results[index] = await in_thread(read, index, limiter=self._limiter)
            done += sizes[index]
            self._progress.update(message, done, sum(sizes.values()))

        async with task_group() as group:
            for index in indices:
                group.start_soon(work, index)
        return results

    def scan(self, index: int) -> Changeset:
        """Tell what a layer does."""
        changeset = Changeset(index)
        self._read(index, lambda _, header, __: changeset.add(header))
        return changeset

    def look(self, index: int, positions: set[int], changeset: Changeset) -> dict[int, bytes]:
        """Tell what a layer's entries at *positions* are; a hard link is what it leads to."""
        found: dict[int, bytes] = {}
        contents = {at: changeset.links.get(at, (at, b""))[0] for at in positions}
        wanted = set(contents.values())

        def visit(position: int, header: Header, reader: TarReader) -> None:
            if position in wanted:
                found[position] = _print_of(header, reader)

        self._read(index, visit)
        return {at: found[content] for at, content in contents.items()}

    def _read(self, index: int, visit: Callable[[int, Header, TarReader], None]) -> None:
        layer, diff_id = self._stack.layers[index]
        source = next(each.name for each in self._stack.sources if layer.digest in each.places)
        fault: BadTar | None = None
        with self._store.open_blob(layer.digest) as blob, telling_damage(blob, layer.digest):
            content = InflatedReader(blob, layer)
            reader = TarReader(content)
            try:
                for position, header in enumerate(reader):
                    visit(position, header, reader)
            except BadTar as exc:
                fault = exc
            holds = content.read_all().diff_id
        if holds != diff_id:
            raise DigestMismatch(
                f"{source}: layer {layer.digest} holds {holds}, but the config names {diff_id}; it was "
                "altered in the store and the next pull fetches it again, or it is broken at its source",
                expected=diff_id,
                actual=holds,
            )
        if fault is not None:
            raise InvalidManifest(
                f"{source}: layer {layer.digest} can't be put together with others: {fault}"
            ) from fault


def _print_of(header: Header, reader: TarReader) -> bytes:
    target = header.link if header.kind == "symlink" else b""
    known = (header.kind, target, header.size, attributes(header.blocks))
    hasher = hashlib.sha256(repr(known).encode())
    left = header.size
    for piece in reader.content():
        hasher.update(piece[:left])
        left = max(0, left - len(piece))
    return hasher.digest()
