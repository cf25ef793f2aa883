"""The local image store (L2): `ImageStore`, the only door to the blobs on disk.

Follows ``image-layout.md`` of the OCI image specification, so that other tools can read the store as it
lies. What is written becomes visible whole, checked and durable, or not at all: blobs first, then the
manifest that names them, then the reference that names the manifest.
"""

from __future__ import annotations

__all__ = ("ImageStore",)

import os
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from aioruntime.errors import DigestMismatch, InvalidSpec, LayersMissing, NotStored
from aioruntime.progress import NoopProgress
from aioruntime.store import blobs, files, transfer
from aioruntime.store.collect import collect
from aioruntime.store.ingest import Ingest
from aioruntime.store.layout import Layout
from aioruntime.store.lease import Lease
from aioruntime.store.names import Named, change_names, read_names
from aioruntime.store.partial import Claim, Partial, put
from aioruntime.store.prune import plan_prune, plan_removal
from aioruntime.store.report import stored_blobs, stored_images, usage_of
from aioruntime.store.scratch import Scratch
from aioruntime.store.stream import as_stream
from aioruntime.store.survey import survey
from aioruntime.store.threads import Threads
from aioruntime.store.trials import lacking
from aioruntime.store.turn import Turn
from aioruntime.store.values import PruneReport
from aioruntime.store.verify import damaged_blobs, discard_damaged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.documents import Descriptor
    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.reference import OciRef
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.prune import Plan
    from aioruntime.store.survey import Survey
    from aioruntime.store.values import StoredBlob, StoredImage, StoreUsage

_READ_LIMIT = 16 * 2**20


class ImageStore:
    """Blobs and named images on disk, each blob once, shared by tasks and processes.

    Making one does no I/O; the directory is made, for this user only, when something is first written.
    One that is there decides who may use what is stored: all in it gets its group and its permissions.
    Use one in one event loop at a time.

    Args:
        path: the store's directory; None for ``$AIORUNTIME_STORE``, else a directory under the user's
            cache directory.

    Attributes:
        path: the store's directory.

    Raises:
        InvalidSpec: *path* is empty.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is not None and not os.fspath(path):
            raise InvalidSpec("the store's path is empty; leave it None for the usual place")
        self.path = (files.default_root() if path is None else Path(path)).absolute()
        self._layout = Layout(self.path)
        self._threads = Threads()

    def __repr__(self) -> str:
        return f"ImageStore({str(self.path)!r})"

    # Blobs

    async def has(self, digest: ImageDigest, size: int | None = None) -> bool:
        """Tell whether a blob is in the store, with *size* bytes if that is given; its hash is not checked.

        Raises:
            StoreError: the store can't be looked into.
        """
        return await self._threads.run(self._has, digest, size)

    async def missing(self, layers: Iterable[LayerSpec]) -> list[LayerSpec]:
        """List the layers that are not in the store with their size: each digest once, in the order given.

        Raises:
            StoreError: the store can't be looked into.
        """
        distinct: dict[ImageDigest, LayerSpec] = {}
        for layer in layers:
            distinct.setdefault(layer.digest, layer)

        def look() -> list[LayerSpec]:
            return [layer for layer in distinct.values() if not self._has(layer.digest, layer.size)]

        return await self._threads.run(look)

    def _has(self, digest: ImageDigest, size: int | None) -> bool:
        found = files.lookup(self._layout.blob(digest))
        return found is not None and found.regular and size in (None, found.size)

    @asynccontextmanager
    async def ingest(self, digest: ImageDigest, size: int | None) -> AsyncIterator[Ingest | None]:
        """Write a blob, as the only one to do so in all tasks and processes.

        Waits for whoever writes the same blob; the wait can be cancelled and leaves nothing. If the
        context is left without `Ingest.commit`, what was written stays on disk, and the next attempt goes
        on from there. A blob of another size than *size* is replaced; what is there and no file is put aside.

        Args:
            digest: the blob's digest.
            size: its size in bytes; None if that is not known.

        Returns:
            A context manager giving the `Ingest`, or None if the blob is in the store by then.

        Raises:
            StoreError: the store can't be written.
        """
        part = Partial(self._layout, digest, size)
        release: Callable[[], None] = part.release
        try:
            lock = self._layout.partial(digest)
            if await self._threads.poll(part.claim, str(digest), lock) is Claim.PRESENT:
                yield None
                return
            while not part.resumed:
                await self._threads.run(part.resume)
            ingest = Ingest(part, self._threads)
            release = ingest.release
            yield ingest
        finally:
            if part.held:
                await self._threads.run_urgent(release)

    async def put(self, data: bytes, digest: ImageDigest) -> None:
        """Store a whole small blob, such as a manifest, on the disk when this returns.

        Raises:
            DigestMismatch: *data* is not the content that *digest* names; nothing was written.
            StoreFull: the disk is full.
            StoreError: the store can't be written.
        """
        if (actual := await self._threads.run(_digest_of, data, digest)) != digest:
            raise DigestMismatch(
                f"content given for {digest} is {actual}; nothing was stored", expected=digest, actual=actual
            )
        attempt = partial(put, self._layout, digest, data)
        await self._threads.poll(attempt, str(digest), self._layout.partial(digest))

    async def read(self, digest: ImageDigest, *, limit: int = _READ_LIMIT) -> bytes:
        """Return a whole small blob, its hash checked.

        Args:
            digest: the blob's digest.
            limit: bytes that it may have.

        Raises:
            LayersMissing: it is not in the store.
            DigestMismatch: its file was altered.
            StoreError: it has more than *limit* bytes, or can't be read.
        """
        return await self._threads.run(blobs.read, self._layout, digest, limit)

    async def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes, None]:
        """Give out a blob in pieces of 1 MiB; the last one only if the whole has the right hash.

        Close the generator (`contextlib.aclosing`) when leaving early; its file is closed with it.

        Args:
            digest: the blob's digest.
            size: the bytes that it must have.

        Raises:
            LayersMissing: it is not in the store.
            SizeMismatch: its file has another size.
            DigestMismatch: its file was altered.
            StoreError: it can't be read.
        """
        reader = blobs.BlobReader(self._layout, digest, size)
        try:
            while data := await self._threads.run(reader.next):
                yield data
        finally:
            reader.close()

    def open_blob(self, digest: ImageDigest) -> BinaryIO:
        """Open a blob for reading (blocking: for worker threads). Its hash is not checked.

        Raises:
            LayersMissing: it is not in the store.
            StoreError: it can't be opened, or is not a regular file.
        """
        return as_stream(blobs.open_blob(self._layout, digest))

    # Named images

    async def references(self) -> dict[str, Descriptor]:
        """Return the named images in the store, those of other tools included.

        Raises:
            StoreError: the list of names can't be read.
        """
        named = await self._threads.run(read_names, self._layout)
        return {name: found for name, found in named.images.items() if name != found.digest}

    async def reference(self, name: str) -> Descriptor | None:
        """Return what *name* names in the store; None if nothing.

        Raises:
            StoreError: the list of names can't be read.
        """
        return (await self.references()).get(name)

    async def set_reference(self, name: str, descriptor: Descriptor) -> None:
        """Name an image whose manifest or index is in the store, in place of what had that name.

        Args:
            name: the full reference, such as ``docker.io/library/ubuntu:22.04``.
            descriptor: of the manifest or index; other tools find the name beside it.

        Raises:
            InvalidSpec: *name* is empty.
            LayersMissing: the manifest or index is not in the store.
            StoreError: the list of names can't be read or written.
        """
        if not name:
            raise InvalidSpec("an image in the store needs a name that is not empty")
        await self._change_names(partial(self._named, name, descriptor))

    def _named(self, name: str, descriptor: Descriptor, named: Named) -> Named:
        digest = descriptor.digest
        if not self._has(digest, descriptor.size):
            raise LayersMissing(f"{name}: {digest} is not in the store; put it there first", digests=[digest])
        # Another process may have made that blob a moment ago; no name may outlast what it names.
        files.sync_directory(self._layout.blob(digest).parent)
        return named.having(name, descriptor)

    async def _change_names(self, change: Callable[[Named], Named]) -> None:
        attempt = partial(change_names, self._layout, change)
        await self._threads.poll(attempt, str(self._layout.index), self._layout.lock_file, singly=True)

    async def images(self) -> list[StoredImage]:
        """List the named images, by name, those of other tools included.

        Raises:
            StoreError: the store can't be looked into.
        """
        return await self._threads.run(lambda: stored_images(survey(self._layout)))

    async def blobs(self) -> list[StoredBlob]:
        """List the blobs, the largest first.

        Raises:
            StoreError: the store can't be looked into.
        """
        return await self._threads.run(lambda: stored_blobs(survey(self._layout)))

    async def usage(self) -> StoreUsage:
        """Tell how much room the store takes, and of each image what it has alone and what it shares.

        Raises:
            StoreError: the store can't be looked into.
        """
        return await self._threads.run(
            lambda: usage_of(survey(self._layout), free=files.free_bytes(self.path))
        )

    async def pin(self, image: OciRef | str) -> None:
        """Keep an image when others are collected, also when its name means another one later.

        Args:
            image: its name, or the digest of its manifest: then all its names.

        Raises:
            NotStored: the store has no such image.
            StoreError: the list of names can't be read or written.
        """
        await self._change_names(lambda named: named.pinning(self._names_of(named, image)))

    async def unpin(self, image: OciRef | str) -> None:
        """Let an image be collected again; harmless if it was not pinned.

        Raises:
            NotStored: the store has no such image.
            StoreError: the list of names can't be read or written.
        """
        await self._change_names(lambda named: named.unpinning(self._names_of(named, image)))

    async def remove(self, image: OciRef | str) -> int:
        """Remove an image: its name at once, then the blobs that no other image has and nobody uses.

        Args:
            image: its name, or the digest of its manifest: then all its names.

        Returns:
            Bytes that were freed. What somebody uses just now is left for `prune`.

        Raises:
            NotStored: the store has no such image.
            InvalidSpec: it is pinned.
            StoreError: something can't be removed.
        """

        def look() -> tuple[Survey, Plan]:
            seen = survey(self._layout)
            named = read_names(self._layout)
            names = self._names_of(named, image)
            if pinned := named.pinned.intersection(names):
                raise InvalidSpec(f"{min(pinned)} is pinned; unpin it first")
            return seen, plan_removal(seen, names)

        report = await collect(self._layout, self._threads, *await self._threads.run(look))
        return report.freed_bytes

    def _names_of(self, named: Named, image: OciRef | str) -> list[str]:
        names = named.names_of(image)
        if not names:
            raise NotStored(f"{image} is not in the store {self.path}; see what is there with store.images()")
        return names

    # Our notes

    async def read_note(self, name: str) -> bytes | None:
        """Return a note of ours; None if there is none.

        Raises:
            InvalidSpec: *name* has characters other than ``a-z 0-9 . _ -``.
            StoreError: it can't be read.
        """
        return await self._threads.run(self._layout.read, self._layout.note(name))

    async def update_note(self, name: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Change a note of ours, with no other task or process changing notes meanwhile.

        In a store that we may only read, the note stays as it is.

        Args:
            name: the note's name, of the characters ``a-z 0-9 . _ -``.
            change: gets the note's bytes, None if there is none, and returns the new ones. It runs in
                a thread, again if somebody removed the lock's file, and must not wait for anything.

        Returns:
            The new bytes.

        Raises:
            InvalidSpec: *name* has other characters.
            StoreError: it can't be read or written.
        """
        return await self._update(self._layout.note(name), change)

    async def _update(self, path: Path, change: Callable[[bytes | None], bytes]) -> bytes:
        attempt = partial(self._layout.update, path, change)
        return await self._threads.poll(attempt, str(path), self._layout.lock_file, singly=True)

    # Work on images

    @asynccontextmanager
    async def lease(
        self, digests: Iterable[ImageDigest], *, image: ImageDigest | None = None
    ) -> AsyncIterator[None]:
        """Keep blobs from being collected, whether they are here or still to come.

        Waits for whoever changes the store at that moment. If this process ends, however, so does the lease.

        Args:
            digests: the blobs.
            image: digest of the manifest of the image that is worked with: it counts as used now. None if
                the blobs are of no image yet: then they count as used when the context is left.

        Raises:
            StoreError: the store can't be written; where it must not be, there is no lease, and no error.
        """
        blobs = tuple(digests)
        lease = Lease(self._layout)
        try:
            await self._threads.poll(
                partial(lease.take, blobs, image), f"the store {self.path}", self._layout.lock_file
            )
            yield
        finally:
            await self._threads.run_urgent(lease.give_back, () if image else blobs)

    def open_scratch(self) -> Scratch:
        """Open a file without a name on the store's disk (blocking: for worker threads).

        Raises:
            StoreError: the store can't be written.
        """
        return Scratch(files.open_scratch(self._layout.ingest))

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[bool]:
        """Be the only one in all tasks and processes to do what *name* stands for.

        Waits for whoever is at it; the wait can be cancelled and leaves nothing.

        Args:
            name: of the characters ``a-z 0-9 . _ -``.

        Returns:
            A context manager giving whether somebody else had to be waited for.

        Raises:
            InvalidSpec: *name* has other characters.
            StoreError: the store can't be written.
        """
        async with self._turn(name) as waited:
            yield waited

    @asynccontextmanager
    async def _turn(self, name: str, wait: float | None = None) -> AsyncIterator[bool]:
        turn = Turn(self._layout, name)
        try:
            await self._threads.poll(turn.take, name, self._layout.turn(name), give_up=wait)
            yield turn.waited
        finally:
            await self._threads.run_urgent(turn.give_back)

    # Other layouts

    async def import_layout(self, path: str | os.PathLike[str], name: str | None = None) -> list[str]:
        """Copy the images of another OCI image layout into the store, such as one that skopeo made.

        Blobs that are here already are not read again; all others are hashed on the way. Nothing gets a name
        before all images are here whole. Images without a name are left out where others have one.

        Args:
            path: the layout's directory. Links in the place of its files are not followed.
            name: the full reference that its only image gets; None to keep the names that its images have
                (``org.opencontainers.image.ref.name``).

        Returns:
            The names of the images.

        Raises:
            InvalidSpec: the layout has no image, none with a name and none was given, or several although
                one was given; the message lists them.
            DigestMismatch: a blob there is damaged.
            SizeMismatch: a blob there, or what names it, is damaged.
            LayersMissing: a blob is neither there nor here.
            StoreFull: the disk is full.
            StoreError: *path* is no image layout, or can't be read, or the store not be written.
        """
        return await transfer.import_layout(self, self._layout, self._threads, Path(path), name)

    async def export_layout(self, image: OciRef | str, path: str | os.PathLike[str]) -> None:
        """Write an image of the store into an OCI image layout, for other tools or another machine.

        Its files are clones of the store's where the file system has that, else the same files under further
        names (hard links, not to be altered), else copies, their hash checked. Blobs that are there already
        are kept. An export that was interrupted is completed by the next.

        Args:
            image: a reference, a name, or the digest of a manifest or an index, which is the name there
                then. An index is exported with all its platforms that the store has.
            path: the layout's directory: a layout to add to, or empty, or not there.

        Raises:
            NotStored: the store has no such image.
            LayersMissing: not all of the image is in the store.
            DigestMismatch: a blob of the store is damaged.
            InvalidManifest: *image* is the digest of something else.
            StoreFull: the disk is full.
            StoreError: something else is in that directory, or it can't be written.
        """
        await transfer.export_layout(self, self._layout, self._threads, image, Path(path))

    # Upkeep

    async def prune(
        self,
        *,
        max_bytes: int | None = None,
        older_than: timedelta | None = None,
        dry_run: bool = False,
        wait: float | None = None,
    ) -> PruneReport:
        """Remove what nothing needs; and images, those first that were not used for the longest time.

        What no image has goes an hour after its last use, earlier only for *max_bytes*; so do downloads that
        were begun. What is in use or pinned stays, and what was pulled meanwhile.

        Args:
            max_bytes: bytes that the store may take afterwards; None for any number.
            older_than: images go that were not used for this long; None to keep them.
            dry_run: remove nothing, and tell what would be.
            wait: seconds to wait for another task or process that prunes; None for any time.

        Returns:
            What was removed, and what the store takes then: more than *max_bytes* if the rest is in use.

        Raises:
            InvalidSpec: *max_bytes*, *older_than* or *wait* is negative.
            StoreBusy: another still prunes after *wait* seconds.
            StoreError: something can't be looked at or removed.
        """
        age = None if older_than is None else older_than // timedelta(microseconds=1) * 1000
        for name, value in (("max_bytes", max_bytes), ("older_than", age), ("wait", wait)):
            if value is not None and value < 0:
                raise InvalidSpec(f"{name} is {value}; it can't be negative")

        def look() -> tuple[Survey, Plan]:
            seen = survey(self._layout)
            return seen, plan_prune(seen, time.time_ns(), max_bytes=max_bytes, older_than=age)

        if dry_run:
            _, plan = await self._threads.run(look)
            return PruneReport(tuple(plan.images), tuple(plan.blobs), plan.freed, plan.kept)
        async with self._turn("prune", wait):
            return await collect(self._layout, self._threads, *await self._threads.run(look))

    async def verify(
        self, repair: bool = False, progress: ProgressReporter | None = None
    ) -> list[ImageDigest]:
        """Hash every blob, on all processors, and list those that are altered, cut short, or no files.

        Args:
            repair: whether to put them aside, so that the next pull of an image fetches what it needs again.
            progress: told the bytes that were hashed, of all.

        Returns:
            The damaged blobs, sorted; with *repair*, the store has none of them any more unless another
            task or process replaced it meanwhile.

        Raises:
            StoreError: a blob may not be read, or not be put aside.
        """
        return await damaged_blobs(self._layout, self._threads, progress or NoopProgress(), repair=repair)

    async def discard_damaged(self, digest: ImageDigest) -> bool:
        """Put a blob aside if its content is not what its digest names, so that it is fetched again.

        Returns:
            Whether it was damaged and is gone; False if it is sound or not there.

        Raises:
            StoreError: it can't be read or put aside.
        """
        return await discard_damaged(self._layout, self._threads, digest)

    async def unwritten(self, layers: Iterable[LayerSpec]) -> int:
        """Return the bytes still to be written of *layers*, which are missing: of a partial one, the rest.

        Raises:
            StoreError: the store can't be looked into.
        """

        def look() -> int:
            found = [(layer.size, files.lookup(self._layout.partial(layer.digest))) for layer in layers]
            return sum(max(0, size - (part.size if part and part.regular else 0)) for size, part in found)

        return await self._threads.run(look)

    async def lacking(self) -> list[str]:
        """Try on the store's disk what the store needs of it; nothing stays there.

        Returns:
            What does not work, each in a sentence with what follows from it; empty if all does.

        Raises:
            StoreError: the disk can't be looked into.
        """
        return await self._threads.run(lacking, self.path)

    async def free_bytes(self) -> int:
        """Return the bytes that can still be written on the disk that holds the store."""
        return await self._threads.run(files.free_bytes, self.path)


def _digest_of(data: bytes, digest: ImageDigest) -> str:
    hasher = digest.hasher()
    hasher.update(data)
    return f"{digest.algorithm}:{hasher.hexdigest()}"
