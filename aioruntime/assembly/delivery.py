"""Bring an image to an engine: offered for it to pull, or sent; then proven to be there (L3)."""

from __future__ import annotations

__all__ = ("Delivery", "Sender")

import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from aioruntime.assembly.archive import Entry
from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.content import LayerContent
from aioruntime.assembly.image_archive import ImageArchive, expected_id
from aioruntime.assembly.loopback import is_served, serve_image, served_port
from aioruntime.assembly.plan import HeldImage, held_image, inflated_for, pulls_from_here
from aioruntime.engine.images import inspect_image, load_image, pull_from_here, remove_image, tag_image
from aioruntime.errors import (
    AioRuntimeError,
    EngineDiskFull,
    EngineError,
    ImageLoadFailed,
    ImageNotFound,
    StreamTruncated,
)
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import ResolvedImage
from aioruntime.tasks import task_group, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.images import EngineImage
    from aioruntime.progress import ProgressReporter
    from aioruntime.store.store import ImageStore

_log = logging.getLogger("aioruntime")

_TIDY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """An image that is brought to an engine.

    Args:
        image: as the engine shall have it.
        content: has its layers, or will.
        arrivals: tells when a layer is there.
        omit: layers that the engine holds.
        inflated: layers that are not compressed, as is known.
        proof: shows that the image is what its config claims; awaited before it gets its name.
    """

    image: ResolvedImage
    content: LayerContent
    arrivals: Arrivals
    omit: frozenset[ImageDigest]
    inflated: frozenset[ImageDigest] = frozenset()
    proof: Callable[[], Coroutine[Any, Any, None]] | None = None


class Sender:
    """Brings images to one engine, under one name.

    Args:
        client: the engine.
        store: has the layers that are compressed.
        name: the full name, with tag, that an image gets there.
        progress: told the bytes sent.

    Attributes:
        sent: bytes of images that were sent.
    """

    def __init__(
        self, client: EngineClient, store: ImageStore, name: str, progress: ProgressReporter
    ) -> None:
        self.sent = 0
        self._client = client
        self._store = store
        self._name = name
        self._progress = progress
        self._total: int | None = None

    async def deliver(self, delivery: Delivery) -> HeldImage:
        """Bring the engine an image by the best way that works, and describe what it has then.

        Raises:
            DigestMismatch: a blob in the store is not what its digest names.
            InvalidManifest: a layer that the engine can't read compressed can't be inflated.
            EngineDiskFull: the engine has no room for the image.
            ImageLoadFailed: it did not take it, or has another one under the name.
            EngineError: it failed otherwise.
        """
        layers = [layer.digest for layer in delivery.image.layers]
        if pulls_from_here(self._client.capabilities, layers):
            if await self._offered(delivery):
                return await self._prove(delivery.image)
            if delivery.proof is not None:  # broken off with the pull
                await delivery.proof()
        elif delivery.omit:
            try:
                await self._send(delivery)
                return await self._prove(delivery.image)
            except EngineDiskFull:
                raise
            except ImageLoadFailed as exc:
                # What we believed of the engine was stale: send everything.
                _log.info("%s: sent in full, since without what was held it failed: %s", self._name, exc)
        await self._send(replace(delivery, omit=frozenset()))
        return await self._prove(delivery.image)

    async def _offered(self, delivery: Delivery) -> bool:
        """Have the engine pull the image from us; False if it could not, such as one in a virtual machine."""
        try:
            await self._offer(delivery)
        except EngineDiskFull:
            raise
        except (ImageLoadFailed, OSError) as exc:  # OSError: no port can be listened on
            if isinstance(exc.__cause__, StreamTruncated):
                raise  # it broke off, or died
            _log.info("%s: sent as an archive, since the engine could not pull it: %s", self._name, exc)
            return False
        return True

    async def _offer(self, delivery: Delivery) -> None:
        serving = serve_image(delivery.image, delivery.content, delivery.arrivals, self._progressed)
        refuted: list[AioRuntimeError] = []

        async def prove(proof: Callable[[], Coroutine[Any, Any, None]]) -> None:
            try:
                await proof()
            except AioRuntimeError as exc:
                # The pull goes on to its end: containerd keeps half of one that was broken off for a day,
                # and takes layers for held then whose blobs it has removed.
                refuted.append(exc)

        async with serving as served:
            try:
                async with task_group() as tasks:
                    if delivery.proof is not None:
                        tasks.start_soon(prove, delivery.proof)
                    await served.until_failure(pull_from_here(self._client, served.reference))
                if refuted:
                    raise refuted[0]
                # Also of what it held: only a layer in the store is one that the repository serves.
                await delivery.arrivals.all_of(delivery.image.layers)
                await tag_image(self._client, served.reference, self._name)
            finally:
                await to_completion(self._drop_name(served.reference))

    async def _drop_name(self, name: str) -> None:
        with anyio.move_on_after(_TIDY_SECONDS), suppress(EngineError):
            await remove_image(self._client, name)

    async def _send(self, delivery: Delivery) -> None:
        """Send the image as an archive."""
        sizes = {layer.digest: layer.size for layer in delivery.image.layers}
        size = sum(size for digest, size in sizes.items() if digest not in delivery.omit)
        inflate = inflated_for(self._client.capabilities, size)
        archive = ImageArchive(
            delivery.image,
            self._name,
            delivery.content,
            self._store,
            omit=delivery.omit,
            inflated=delivery.inflated,
            inflate=inflate,
        )
        self._total = archive.size
        out, layers = anyio.create_memory_object_stream[Entry]()
        async with task_group() as tasks, layers:
            tasks.start_soon(archive.prepare, delivery.arrivals, out)
            async with aclosing(self._counted(archive.stream(layers))) as body:
                await load_image(self._client, body)
            tasks.cancel_scope.cancel()

    async def _counted(self, archive: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        async with aclosing(archive):
            async for piece in archive:
                yield piece
                self._progressed(len(piece))

    def _progressed(self, sent: int) -> None:
        self.sent += sent
        message = f"loading {self._name} into {self._client.capabilities.kind}"
        self._progress.update(message, self.sent, self._total)

    async def _prove(self, image: ResolvedImage) -> HeldImage:
        """Describe what the engine has under the image's name, if that is the image."""
        kind = self._client.capabilities.kind
        try:
            seen = await inspect_image(self._client, self._name)
        except ImageNotFound:
            raise ImageLoadFailed(
                f"{image.reference}: {kind} reported success but has no image {self._name}; "
                + (
                    "it may take sha256 digests alone, not sha512"
                    if _has_sha512(image)
                    else "its log may say why"
                )
            ) from None
        wanted = expected_id(image, self._client.capabilities)
        if (seen.id, seen.diff_ids) != (wanted, image.config.rootfs.diff_ids):
            raise ImageLoadFailed(
                f"{image.reference}: {kind} has image {seen.id} under the name {self._name}, not {wanted}; "
                "another client may have loaded it at the same moment"
            )
        await self._drop_stale_names(seen)
        return held_image(image, seen.id)

    async def _drop_stale_names(self, seen: EngineImage) -> None:
        """Remove names that nobody serves any more.

        Podman, asked to change an image's names twice at once, can bring one back that was removed; and a
        program can be killed before it removes its own.
        """
        for name in seen.references:
            port = served_port(name)
            if port is not None and not await is_served(port):
                await to_completion(self._drop_name(name))


def _has_sha512(image: ResolvedImage) -> bool:
    named = (image.manifest_digest, image.manifest.config.digest, *(layer.digest for layer in image.layers))
    return any(digest.algorithm == "sha512" for digest in named)
