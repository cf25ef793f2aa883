"""Images into the store from another OCI image layout, and out of it into one (L2)."""

from __future__ import annotations

__all__ = ("export_layout", "import_layout")

from typing import TYPE_CHECKING, TypeVar

from aioruntime.errors import (
    DigestMismatch,
    InvalidReference,
    InvalidSpec,
    LayersMissing,
    NotStored,
    one_line,
)
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor, Index, decode_document
from aioruntime.oci.reference import OciRef
from aioruntime.store import blobs
from aioruntime.store.foreign import ForeignLayout, Placing, Reading
from aioruntime.store.names import read_names
from aioruntime.store.tree import read_tree
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    from aioruntime.store.ingest import Ingest
    from aioruntime.store.layout import Layout
    from aioruntime.store.store import ImageStore
    from aioruntime.store.threads import Threads

_DOCUMENT_LIMIT = 16 * 2**20
_T = TypeVar("_T")


async def import_layout(
    store: ImageStore, layout: Layout, threads: Threads, path: Path, name: str | None
) -> list[str]:
    """Copy the images of the OCI image layout at *path* into the store: all their blobs, then their names."""
    if name is not None:
        name = OciRef.parse(name).canonical
    source = ForeignLayout(path)
    images = _chosen(await threads.run(source.images), name, source.root)
    roots = {descriptor.digest: descriptor.size for descriptor in images.values()}
    sizes = dict(roots)
    for root in roots:
        tree = await threads.run(read_tree, source.layout, root)
        sizes |= {digest: size for digest, size in tree.sizes.items() if digest not in roots}
        for digest in tree.missing:
            if not await store.has(digest, sizes[digest]):
                raise await threads.run(source.fault, digest, sizes[digest])

    async def bring(digest: ImageDigest) -> None:
        await _bring(store, threads, source, digest, sizes[digest])

    async with store.lease(sizes):
        # What a document names comes before it, as far as that is possible.
        await _each(threads.limit, [digest for digest in reversed(sizes) if digest not in roots], bring)
        await _each(threads.limit, roots, bring)
        for root in roots:
            if missing := (await threads.run(read_tree, layout, root)).missing:
                raise LayersMissing(
                    f"{source.root} has not all of {root}: {', '.join(missing)}; copy the image there again",
                    digests=missing,
                )
        for each, descriptor in images.items():
            await store.set_reference(each, descriptor)
    for root in roots:
        async with store.lease((), image=root):
            pass  # it counts as used now
    return list(images)


def _chosen(found: Mapping[str, Descriptor], name: str | None, path: Path) -> dict[str, Descriptor]:
    """Decide which images are imported, under which names."""
    if not found:
        raise InvalidSpec(f"{path} lists no image; name a layout that has one")
    listed = one_line(", ".join(sorted(found)))
    if name is not None:
        if len({descriptor.digest for descriptor in found.values()}) > 1:
            raise InvalidSpec(f"{path} has several images ({listed}); give no name, they keep theirs")
        return {name: next(iter(found.values()))}
    named = {each: descriptor for each, descriptor in found.items() if each != descriptor.digest}
    if not named:
        remedy = "name them there first" if len(found) > 1 else "give it one (name=, --name)"
        raise InvalidSpec(f"no name for what {path} has ({listed}); {remedy}")
    return named


async def _bring(
    store: ImageStore, threads: Threads, source: ForeignLayout, digest: ImageDigest, size: int
) -> None:
    while True:
        async with store.ingest(digest, size) as ingest:
            if ingest is None:
                return
            kept = ingest.kept
            try:
                await _fill(ingest, threads, source, size)
                return
            except DigestMismatch as exc:
                if not kept:
                    raise source.altered(digest, exc.actual) from exc
                # It may be what an earlier attempt left that is wrong; it is gone now.


async def _fill(ingest: Ingest, threads: Threads, source: ForeignLayout, size: int) -> None:
    reading = Reading(source, ingest.digest, size)
    try:
        while data := await threads.run(reading.next, ingest.offset):
            await ingest.write(data)
    finally:
        reading.close()
    await ingest.commit(str(source.root))


async def export_layout(
    store: ImageStore, layout: Layout, threads: Threads, image: OciRef | str, path: Path
) -> None:
    """Write an image of the store into the OCI image layout at *path*, made if it is not there."""
    name, descriptor = await threads.run(_found, layout, image)
    tree = await threads.run(read_tree, layout, descriptor.digest)
    if tree.missing:
        raise LayersMissing(
            f"{name}: not all of it is in the store at {store.path}; pull it first", digests=tree.missing
        )
    target = ForeignLayout(path)

    async def place(digest: ImageDigest) -> None:
        placing = Placing(layout, target, digest, tree.sizes[digest])
        try:
            if not await threads.run(placing.begin):
                while not await threads.run(placing.copy):
                    pass
        finally:
            await threads.run_urgent(placing.close)

    async with store.lease(tree.blobs, image=descriptor.digest):
        try:
            await threads.poll(target.take, str(target.root), target.lock_file)
            await _each(threads.limit, tree.blobs, place)
            await threads.run(target.add, name, descriptor)
        finally:
            await threads.run_urgent(target.give_back)


def _found(layout: Layout, image: OciRef | str) -> tuple[str, Descriptor]:
    """Find an image of the store by its name in some form, or by its digest, named or not (blocking)."""
    named = read_names(layout)
    for name in named.names_of(image):
        descriptor = named.images[name]
        return str(image) if image == descriptor.digest else name, descriptor
    try:
        digest = ImageDigest(str(image))
        raw = blobs.read(layout, digest, _DOCUMENT_LIMIT)
    except (InvalidReference, LayersMissing):
        raise NotStored(
            f"{one_line(str(image))} is not in the store at {layout.root}; pull it first"
        ) from None
    document = decode_document(raw, None, digest)
    kind = media_types.OCI_INDEX if isinstance(document, Index) else media_types.OCI_MANIFEST
    return str(digest), Descriptor(document.media_type or kind, digest, len(raw))


async def _each(limit: int, items: Iterable[_T], work: Callable[[_T], Awaitable[None]]) -> None:
    """Do *work* for each item, *limit* at once."""
    queue = iter(items)

    async def some() -> None:
        for item in queue:
            await work(item)

    async with task_group() as group:
        for _ in range(limit):
            group.start_soon(some)
