"""The local image store (L2): `ImageStore`, the only door to blobs and named images on disk.

Follows ``image-layout.md`` of the OCI image specification, so that other tools can read the store as it
lies. Blobs are written first, then the manifest that names them, then the reference that names the
manifest; they go in the reverse order.
"""

from __future__ import annotations

__all__ = ("ImageStore",)

import os
import time
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec, LayersMissing, StoreFull
from aioruntime.store import directories, transfer
from aioruntime.store.collect import collect
from aioruntime.store.content import ContentStore
from aioruntime.store.named import Named, not_stored
from aioruntime.store.names import change_names, read_names
from aioruntime.store.prune import plan_prune, plan_removal
from aioruntime.store.report import stored_blobs, stored_images, usage_of
from aioruntime.store.survey import survey
from aioruntime.store.values import PruneReport

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aioruntime.oci.documents import Descriptor
    from aioruntime.oci.reference import OciRef
    from aioruntime.store.prune import Plan
    from aioruntime.store.survey import Survey
    from aioruntime.store.values import StoredBlob, StoredImage, StoreUsage


class ImageStore(ContentStore):
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
        directories.sync(self._layout.blob(digest).parent)
        return named.having(name, descriptor)

    async def _change_names(self, change: Callable[[Named], Named]) -> None:
        attempt = partial(change_names, self._layout, change)
        await self._threads.poll(attempt, str(self._layout.index), self._layout.lock_file, singly=True)

    async def images(self) -> list[StoredImage]:
        """List the named images, by name, those of other tools included.

        Raises:
            StoreError: the store can't be looked into; the directory is no store.
        """
        return await self._threads.run(lambda: stored_images(self._look()))

    async def blobs(self) -> list[StoredBlob]:
        """List the blobs, the largest first.

        Raises:
            StoreError: the store can't be looked into; the directory is no store.
        """
        return await self._threads.run(lambda: stored_blobs(self._look()))

    async def usage(self) -> StoreUsage:
        """Tell how much room the store takes, and of each image what it has alone and what it shares.

        Raises:
            StoreError: the store can't be looked into; the directory is no store.
        """
        return await self._threads.run(lambda: usage_of(self._look(), free=directories.free_bytes(self.path)))

    def _look(self, *, whole: bool = False) -> Survey:
        self._layout.refuse_foreign()
        return survey(self._layout, whole=whole)

    async def pin(self, image: OciRef | str) -> None:
        """Keep what a name means when images are collected, also if it means another one later.

        Args:
            image: its name, or the digest of its manifest: then all its names.

        Raises:
            InvalidReference: *image* is no reference, such as an empty text.
            NotStored: the store has no such image.
            StoreError: the list of names can't be read or written.
        """
        await self._change_image(image, Named.pinning)

    async def unpin(self, image: OciRef | str) -> None:
        """Let an image be collected again; harmless if it was not pinned.

        Raises:
            InvalidReference: *image* is no reference, such as an empty text.
            NotStored: the store has no such image.
            StoreError: the list of names can't be read or written.
        """
        await self._change_image(image, Named.unpinning)

    async def _change_image(
        self, image: OciRef | str, change: Callable[[Named, Collection[str]], Named]
    ) -> None:
        def changed(named: Named) -> Named:
            return change(named, self._names_of(named, image))

        def look() -> None:
            self._layout.refuse_foreign()
            changed(read_names(self._layout))

        await self._threads.run(look)  # no store is made to find nothing
        await self._change_names(changed)

    async def remove(self, image: OciRef | str) -> int:
        """Remove an image: its name at once, then the blobs that no other image has and nobody uses.

        Args:
            image: its name, or the digest of its manifest: then all its names.

        Returns:
            Bytes that were freed. What somebody uses just now is left for `prune`; so is all if the manifest
            of another image is damaged or gone, as the log tells.

        Raises:
            InvalidReference: *image* is no reference, such as an empty text.
            NotStored: the store has no such image.
            InvalidSpec: it is pinned.
            StoreError: a blob can't be removed; its name and the other blobs are gone.
        """

        def look() -> tuple[Survey, Plan]:
            self._layout.refuse_foreign()
            named = read_names(self._layout, whole=True)
            others: list[str] = [digest for digest in named.others if digest == image]
            names = others or self._names_of(named, image)
            if pinned := named.pinned.intersection(names):
                raise InvalidSpec(
                    f"{min(pinned)} is pinned; unpin it first (ImageStore.unpin, aioruntime store unpin)"
                )
            seen = self._look(whole=True)
            return seen, plan_removal(seen, names)

        report = await collect(self._layout, self._threads, *await self._threads.run(look))
        if report.failed:
            report.failed[0].add_note(f"{len(report.failed)} files could not be removed")
            raise report.failed[0]
        return report.freed_bytes

    def _names_of(self, named: Named, image: OciRef | str) -> list[str]:
        names = named.names_of(image)
        if not names:
            raise not_stored(image, self.path)
        return names

    # Other layouts

    async def import_layout(self, path: str | os.PathLike[str], name: str | None = None) -> list[str]:
        """Copy the images of another OCI image layout into the store, such as one that skopeo made.

        Of what is here already, manifests and indexes are read, and brought again if they are damaged. Layers
        and configs with the right size are not read: ``verify(repair=True)`` puts those aside that were
        altered, and then they are brought again. All that comes is hashed on the way. Nothing gets a name
        before all images are here whole, and then all do at once. Images without a name, or with their digest
        as one, are left out where others have a name, as the log tells. Of an index come the platforms that
        the layout has.

        A full reference (``ghcr.io/org/tool:1``) means the image from then on, in place of an older one, as
        when it is pulled. A short name, such as ``latest``, which many layouts have, is never taken from
        another image.

        Args:
            path: the layout's directory. Links in the place of its files are not followed.
            name: the reference that its only image gets, in place of what has it; None to keep the names that
                its images have (``org.opencontainers.image.ref.name``).

        Returns:
            The names of the images.

        Raises:
            InvalidReference: *name* is no reference.
            InvalidSpec: the layout has no image, none with a name and none was given, or several although
                one was given: the message lists them. Or a short name is that of another image here.
            DigestMismatch: a blob there is damaged.
            SizeMismatch: a blob there, or what names it, is damaged.
            LayersMissing: a blob is neither there nor here, be it of a platform that the store has begun.
            StoreFull: the disk is full.
            StoreError: *path* is no image layout, or can't be read, or the store not be written.
        """
        return await transfer.import_layout(self, self._layout, self._threads, _directory(path), name)

    async def export_layout(self, image: OciRef | str, path: str | os.PathLike[str]) -> None:
        """Write an image of the store into an OCI image layout, for other tools or another machine.

        Its files get the permissions of the directory that they are in, for whoever shall read them. They are
        clones of the store's where the file system has that (reflinks). Else they are the same files under
        further names (hard links, not to be altered) if these have just those permissions: out of a store
        that is private into a directory that is private (mode 0700). Else they are copies. In any case each
        blob is read once and hashed, so that none is exported that is damaged. Blobs that are there already
        are hashed there, and replaced if they are wrong. An export that was interrupted is completed by the
        next.

        Args:
            image: a reference, a name, or the digest of a manifest or an index, which is the name there
                then. An index is exported with all its platforms that the store has.
            path: the layout's directory: a layout to add to, or empty, or not there.

        Raises:
            InvalidReference: *image* is no reference, such as an empty text.
            NotStored: the store has no such image.
            LayersMissing: not all of the image is in the store.
            DigestMismatch: a blob of the store is damaged.
            InvalidManifest: *image* is the digest of something else.
            StoreFull: the disk is full.
            StoreError: something else is in that directory, or it can't be written.
        """
        await transfer.export_layout(self, self._layout, self._threads, image, _directory(path))

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
        were begun. What is in use or pinned stays, and what was pulled meanwhile. While a named image has a
        manifest that is damaged or gone, no blob goes, since that image may need it: the report names it, and
        it has to be pulled or imported again, or removed.

        Args:
            max_bytes: bytes that the store may take afterwards; None for any number.
            older_than: images go that were not used for this long; None to keep them.
            dry_run: remove nothing, and tell what would be.
            wait: seconds to wait for another task or process that prunes; None for any time.

        Returns:
            What was removed, and what the store takes then: more than *max_bytes* if the rest is in use.

        Raises:
            InvalidSpec: *max_bytes*, *older_than* or *wait* is negative, or of another type.
            StoreBusy: another still prunes after *wait* seconds.
            StoreError: something can't be looked at, or a name not be removed; a list of names is damaged
                or gone, so that it is not known what is needed; the directory is no store.
        """
        if not isinstance(older_than, timedelta | None):
            raise InvalidSpec(f"older_than is {older_than!r}; it has to be a datetime.timedelta")
        age = None if older_than is None else older_than // timedelta(microseconds=1) * 1000
        for name, value in (("max_bytes", max_bytes), ("older_than", age), ("wait", wait)):
            if value is not None and not isinstance(value, int | float):
                raise InvalidSpec(f"{name} is {value!r}; it has to be a number")
            if value is not None and value < 0:
                raise InvalidSpec(f"{name} is {value}; it can't be negative")

        def look() -> tuple[Survey, Plan]:
            seen = survey(self._layout, whole=True)
            return seen, plan_prune(seen, time.time_ns(), max_bytes=max_bytes, older_than=age)

        if not await self._threads.run(self._layout.is_there):
            return PruneReport((), (), 0, 0)
        if dry_run:
            _, plan = await self._threads.run(look)
            return PruneReport(
                tuple(plan.images), tuple(plan.blobs), plan.freed, plan.kept, unclear=plan.unclear
            )
        async with AsyncExitStack() as stack:
            with suppress(StoreFull):  # two at once do no harm, and this makes room
                await stack.enter_async_context(self._turn("prune", wait))
            return await collect(self._layout, self._threads, *await self._threads.run(look))


def _directory(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path):
        raise InvalidSpec("the layout's path is empty; name a directory")
    return Path(path)
