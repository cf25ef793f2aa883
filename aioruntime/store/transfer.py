"""Images into the store from another OCI image layout, and out of it into one (L2)."""

from __future__ import annotations

__all__ = ("export_layout", "import_layout")

import logging
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from aioruntime.errors import (
    DigestMismatch,
    InvalidReference,
    InvalidSpec,
    LayersMissing,
    one_line,
)
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor, Index, decode_document
from aioruntime.oci.reference import OciRef
from aioruntime.store import blobs, directories
from aioruntime.store.carry import Placing, Reading
from aioruntime.store.foreign import ForeignLayout
from aioruntime.store.named import not_stored
from aioruntime.store.names import change_names, read_names
from aioruntime.store.tree import DOCUMENT_LIMIT, read_tree
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from aioruntime.store.ingest import Ingest
    from aioruntime.store.layout import Layout
    from aioruntime.store.named import Named
    from aioruntime.store.store import ImageStore
    from aioruntime.store.threads import Threads

_log = logging.getLogger("aioruntime")
_T = TypeVar("_T")


async def import_layout(
    store: ImageStore, layout: Layout, threads: Threads, path: Path, name: str | None
) -> list[str]:
    """Copy the images of the OCI image layout at *path* into the store: all their blobs, then their names."""
    if name is not None:
        name = OciRef.parse(name).canonical
    source = ForeignLayout(path)
    listed = await threads.run(source.images)
    images = _chosen(listed, name, source.root)
    kept = {} if name else images  # a name that was asked for is given
    _tell_left_out(listed, images, source.root)

    def naming(named: Named) -> Named:
        _refuse_taken(named, kept, source.root)
        # Another process may have made those blobs a moment ago; no name may outlast what it names.
        for directory in {layout.blob(root).parent for root in roots}:
            directories.sync(directory)
        for each, descriptor in images.items():
            named = named.having(each, descriptor)
        return named

    _refuse_taken(await threads.run(read_names, layout), kept, source.root)
    roots = {descriptor.digest: descriptor.size for descriptor in images.values()}
    sizes = await _sizes(store, threads, source, roots)
    async with store.lease(sizes):
        await _bring_all(store, layout, threads, source, roots, sizes)
        # Images that an index lists may have been here before, and be lacking there.
        whole = {digest for root in roots for digest in (await threads.run(read_tree, layout, root)).blobs}
        async with store.lease(map(ImageDigest, whole - sizes.keys())):
            for root in roots:
                if missing := (await threads.run(read_tree, layout, root)).missing:
                    raise _lacking(source.root, root, missing)
                async with store.lease((), image=root):
                    pass  # it counts as used now
            attempt = partial(change_names, layout, naming)
            await threads.poll(attempt, str(layout.index), layout.lock_file, singly=True)
    return list(images)


async def _sizes(
    store: ImageStore, threads: Threads, source: ForeignLayout, roots: Mapping[ImageDigest, int]
) -> dict[ImageDigest, int]:
    """Return the bytes of each blob that is to come, images first; all that is not in *source* is here."""
    sizes = dict(roots)
    for root in roots:
        tree = await threads.run(source.tree, root)
        sizes |= {ImageDigest(digest): size for digest, size in tree.sizes.items() if digest not in roots}
        for digest in tree.missing:
            if not await store.has(digest, sizes[digest]):
                raise await threads.run(source.fault, digest, sizes[digest])
    return sizes


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


def _tell_left_out(listed: Mapping[str, Descriptor], images: Mapping[str, Descriptor], path: Path) -> None:
    taken = {descriptor.digest for descriptor in images.values()}
    if left := sorted({descriptor.digest for descriptor in listed.values()} - taken):
        _log.warning(
            "%s: left out, since they have no name there: %s; name them there and import again, "
            "or import each from a layout of its own under a name (name=, --name)",
            path,
            one_line(", ".join(left)),
        )


def _refuse_taken(named: Named, images: Mapping[str, Descriptor], path: Path) -> None:
    """Raise if an image would take the name of another; a full reference may, as when it is pulled."""
    for name, descriptor in images.items():
        there = named.images.get(name)
        if there is not None and there.digest != descriptor.digest and not _is_full(name):
            raise InvalidSpec(
                f"{one_line(name)} is {descriptor.digest} in {path}, but the store has another image of that "
                f"name, {there.digest}; remove that (aioruntime store rm), or import the image, if it is the "
                "only one there, under a full reference such as ghcr.io/org/tool:1 (name=, --name)"
            )


def _is_full(name: str) -> bool:
    """Tell whether a name is a reference in full, so that it means the same in every layout."""
    try:
        return OciRef.parse(name).canonical == name
    except InvalidReference:
        return False


def _lacking(path: Path, root: ImageDigest, missing: Sequence[ImageDigest]) -> LayersMissing:
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return LayersMissing(
        f"{path} lacks {missing[0]}{more}, a part of {root} that the store has not either; "
        "copy the image there again, whole (skopeo copy --all), or pull it",
        digests=missing,
    )


async def _bring_all(
    store: ImageStore,
    layout: Layout,
    threads: Threads,
    source: ForeignLayout,
    roots: Mapping[ImageDigest, int],
    sizes: dict[ImageDigest, int],
) -> None:
    """Bring all blobs that are not here; documents also if they are here with their size, but damaged."""

    async def bring(digest: ImageDigest) -> None:
        await _bring(store, threads, source, digest, sizes[digest])

    # What a document names comes before it, as far as that is possible.
    await _each(threads.limit, [digest for digest in reversed(sizes) if digest not in roots], bring)
    await _each(threads.limit, roots, bring)
    left = set(sizes)
    for root in roots:
        # One that is whole again may name others that are damaged.
        while damaged := left.intersection((await threads.run(read_tree, layout, root)).missing):
            left -= damaged
            for digest in damaged:
                await store.discard_damaged(digest)
                await bring(digest)


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
    if await threads.run(lambda: layout.root.resolve() in target.root.resolve().parents):
        raise InvalidSpec(f"{path} is in the store itself; export to a directory outside of {layout.root}")

    async def place(digest: ImageDigest) -> None:
        placing = Placing(layout, target, digest, tree.sizes[digest])
        try:
            while not await threads.run(placing.advance):
                pass
        finally:
            await threads.run_urgent(placing.close)

    digests = [ImageDigest(digest) for digest in tree.blobs]
    async with store.lease(digests, image=descriptor.digest):
        try:
            await threads.poll(target.take, str(target.root), target.lock_file)
            await _each(threads.limit, digests, place)
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
        raw = blobs.read(layout, digest, DOCUMENT_LIMIT)
    except (InvalidReference, LayersMissing):
        raise not_stored(image, layout.root) from None
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
