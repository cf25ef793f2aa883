"""The local image store (L2): `ImageStore`, the only door to the blobs on disk.

Follows ``image-layout.md`` of the OCI image specification, so that other tools can read the store as it
lies. What is written becomes visible whole, checked and durable, or not at all: blobs first, then the
manifest that names them, then the reference that names the manifest.
"""

from __future__ import annotations

__all__ = ("ImageStore",)

import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from aioruntime.errors import DigestMismatch, InvalidSpec, LayersMissing
from aioruntime.store import blobs, files, index
from aioruntime.store.ingest import Ingest
from aioruntime.store.layout import Layout
from aioruntime.store.partial import Claim, Partial, put
from aioruntime.store.scratch import Scratch
from aioruntime.store.stream import as_stream
from aioruntime.store.threads import Threads
from aioruntime.store.turn import Turn
from aioruntime.store.verify import damaged_blobs, discard_damaged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.documents import Descriptor
    from aioruntime.oci.image import LayerSpec

_READ_LIMIT = 16 * 2**20


class ImageStore:
    """Blobs and named images on disk, each blob once, shared by tasks and processes.

    Making one does no I/O; the directory is made, for this user only, when something is first written.
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
        on from there. A blob of another size than *size* is replaced.

        Args:
            digest: the blob's digest.
            size: its size in bytes; None if that is not known.

        Returns:
            A context manager giving the `Ingest`, or None if the blob is in the store by then.

        Raises:
            StoreError: the store can't be written, or something else than a file is in the blob's place.
        """
        part = Partial(self._layout, digest, size)
        release: Callable[[], None] = part.release
        try:
            if await self._threads.poll(part.claim, str(digest)) is Claim.PRESENT:
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
        await self._threads.poll(partial(put, self._layout, digest, data), str(digest))

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
            StoreError: ``index.json`` can't be read or is not an index.
        """
        raw = await self._threads.run(self._layout.read, self._layout.index)
        return index.references(raw, str(self._layout.index))

    async def reference(self, name: str) -> Descriptor | None:
        """Return what *name* names in the store; None if nothing.

        Raises:
            StoreError: ``index.json`` can't be read or is not an index.
        """
        return (await self.references()).get(name)

    async def set_reference(self, name: str, descriptor: Descriptor) -> None:
        """Name an image whose manifest or index is in the store, in place of what had that name.

        Args:
            name: the full reference, such as ``docker.io/library/ubuntu:22.04``.
            descriptor: of the manifest or index; it gets the name as annotation.

        Raises:
            LayersMissing: the manifest or index is not in the store.
            StoreError: ``index.json`` can't be read or written, or is not an index.
        """
        await self._update(self._layout.index, partial(self._named, name, descriptor))

    def _named(self, name: str, descriptor: Descriptor, raw: bytes | None) -> bytes:
        digest = descriptor.digest
        if not self._has(digest, descriptor.size):
            raise LayersMissing(f"{name}: {digest} is not in the store; put it there first", digests=[digest])
        # Another process may have made that blob a moment ago; no name may outlast what it names.
        files.sync_directory(self._layout.blob(digest).parent)
        return index.with_reference(raw, name, descriptor, str(self._layout.index))

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

        Args:
            name: the note's name, of the characters ``a-z 0-9 . _ -``.
            change: gets the note's bytes, None if there is none, and returns the new ones. It runs in
                a thread, once, and must not wait for anything.

        Returns:
            The new bytes.

        Raises:
            InvalidSpec: *name* has other characters.
            StoreError: it can't be read or written.
        """
        return await self._update(self._layout.note(name), change)

    async def _update(self, path: Path, change: Callable[[bytes | None], bytes]) -> bytes:
        attempt = partial(self._layout.update, path, change)
        return await self._threads.poll(attempt, str(path), singly=True)

    # Work on images

    def open_scratch(self) -> Scratch:
        """Open a file without a name on the store's disk (blocking: for worker threads).

        Raises:
            StoreError: the store can't be written.
        """
        return Scratch(files.open_scratch(self._layout.scratch))

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
        turn = Turn(self._layout, name)
        try:
            await self._threads.poll(turn.take, name)
            yield turn.waited
        finally:
            await self._threads.run_urgent(turn.give_back)

    # Upkeep

    async def verify(self) -> list[ImageDigest]:
        """Hash every blob, and list those that are altered, cut short, or not regular files.

        Raises:
            StoreError: a blob may not be read.
        """
        return await damaged_blobs(self._layout, self._threads)

    async def discard_damaged(self, digest: ImageDigest) -> bool:
        """Remove a blob if its content is not what its digest names, so that it is fetched again.

        Returns:
            Whether it was damaged and is gone; False if it is sound or not there.

        Raises:
            StoreError: it can't be read or removed.
        """
        return await discard_damaged(self._layout, self._threads, digest)

    async def unwritten(self, layers: Iterable[LayerSpec]) -> int:
        """Return the bytes still to be written of *layers*, which are missing: of a partial one, the rest.

        Raises:
            StoreError: the store can't be looked into.
        """

        def look() -> int:
            found = [(layer.size, files.lookup(self._layout.partial(layer.digest))) for layer in layers]
            return sum(max(0, size - (part.size if part else 0)) for size, part in found)

        return await self._threads.run(look)

    async def free_bytes(self) -> int:
        """Return the bytes that can still be written on the disk that holds the store."""
        return await self._threads.run(files.free_bytes, self.path)


def _digest_of(data: bytes, digest: ImageDigest) -> str:
    hasher = digest.hasher()
    hasher.update(data)
    return f"{digest.algorithm}:{hasher.hexdigest()}"
