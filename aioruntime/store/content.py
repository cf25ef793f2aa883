"""The blobs on disk (L2): `ContentStore`, which knows them by their digests alone.

What is written becomes visible whole, checked and durable, or not at all.
"""

from __future__ import annotations

__all__ = ("ContentStore",)

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from aioruntime.errors import DigestMismatch, InvalidSpec
from aioruntime.progress import NoopProgress
from aioruntime.store import blobs, directories, files
from aioruntime.store.ingest import Ingest
from aioruntime.store.layout import Layout
from aioruntime.store.lease import Lease
from aioruntime.store.partial import Claim, Partial, put
from aioruntime.store.scratch import Scratch
from aioruntime.store.stream import as_stream
from aioruntime.store.threads import Threads
from aioruntime.store.trials import lacking
from aioruntime.store.turn import Turn
from aioruntime.store.verify import damaged_blobs, discard_damaged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import LayerSpec
    from aioruntime.progress import ProgressReporter

_READ_LIMIT = 16 * 2**20


class ContentStore:
    """Blobs on disk, each once, shared by tasks and processes; and our notes beside them.

    Args:
        path: the store's directory; None for the usual place.

    Attributes:
        path: the store's directory.

    Raises:
        InvalidSpec: *path* is empty.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is not None and not os.fspath(path):
            raise InvalidSpec(
                "the store's path is empty; name a directory, or none at all for the usual place"
            )
        self.path = (directories.default_root() if path is None else Path(path)).absolute()
        self._layout = Layout(self.path)
        self._threads = Threads()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

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
        found = directories.lookup(self._layout.blob(digest))
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
        if (actual := await self._threads.run(digest.actual, data)) != digest:
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

    # Our notes

    async def read_note(self, name: str) -> bytes | None:
        """Return a note of ours; None if there is none.

        Raises:
            InvalidSpec: *name* has characters other than ``a-z 0-9 . _ -``, or is ``images``.
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
            InvalidSpec: *name* has other characters, or is ``images``, which is the store's own.
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

        Waits for whoever changes the store at that moment. The lease ends with the context, or with this
        process, however that ends.

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

    # Upkeep

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
            StoreError: a blob may not be read, or not be put aside: a note names the damaged ones, all others
                were examined. Or the directory is no store.
        """
        await self._threads.run(self._layout.refuse_foreign)
        return await damaged_blobs(self._layout, self._threads, progress or NoopProgress(), repair=repair)

    async def discard_damaged(self, digest: ImageDigest) -> bool:
        """Put a blob aside if its content is not what its digest names, so that it is fetched again.

        Returns:
            Whether it was damaged and is gone; False if it is sound or not there.

        Raises:
            StoreError: it may not be read, or can't be put aside.
        """
        return await discard_damaged(self._layout, self._threads, digest)

    async def unwritten(self, layers: Iterable[LayerSpec]) -> int:
        """Return the bytes still to be written of *layers*, which are missing: of a partial one, the rest.

        Raises:
            StoreError: the store can't be looked into.
        """

        def look() -> int:
            found = [(layer.size, directories.lookup(self._layout.partial(layer.digest))) for layer in layers]
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
        return await self._threads.run(directories.free_bytes, self.path)
