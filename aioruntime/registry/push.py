"""Push an image: the blobs that the repository lacks, several at once, then the manifest (L2).

Follows "Push" of the OCI distribution specification.
"""

from __future__ import annotations

__all__ = ("BlobReader", "push_image")

from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio

from aioruntime.errors import RegistryError
from aioruntime.progress import LayerProgress
from aioruntime.registry.failures import CHECK_NAME
from aioruntime.registry.uploads import Destination, Pieces, Upload, UploadLost, check_answer
from aioruntime.tasks import task_group

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Iterable,
        Mapping,
    )

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.reference import OciRef
    from aioruntime.progress import ProgressReporter

# Each holds a piece in memory.
_UPLOADS = 8


class BlobReader(Protocol):
    """Where the blobs of an image that is pushed are; an `ImageStore` is one."""

    def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes, None]:
        """Give out a blob in pieces of no more than a few MiB; it may be asked for several times."""


async def push_image(
    to: Destination,
    image: OciRef,
    manifest: bytes,
    media_type: str,
    digest: ImageDigest,
    blobs: Iterable[LayerSpec],
    source: BlobReader,
    mounts: Mapping[ImageDigest, str],
    progress: ProgressReporter,
) -> None:
    """Do what `RegistryClient.push` promises."""
    distinct = {blob.digest: blob for blob in blobs}
    push = _Push(to, image, source, mounts, progress, sum(blob.size for blob in distinct.values()))
    slots = anyio.CapacityLimiter(_UPLOADS)

    async def bring(blob: LayerSpec) -> None:
        async with slots:
            await push.bring(blob)

    async with task_group() as group:
        # Largest first, so that none of them is left running alone at the end.
        for blob in sorted(distinct.values(), key=lambda blob: blob.size, reverse=True):
            group.start_soon(bring, blob)
    await push.name(manifest, media_type, digest)
    progress.finish(
        f"{image}: {push.sent} of {len(distinct)} blobs sent ({push.sent_bytes} bytes), "
        f"{push.mounted} mounted"
    )


class _Push:
    """What the uploads of one image share."""

    def __init__(
        self,
        to: Destination,
        image: OciRef,
        source: BlobReader,
        mounts: Mapping[ImageDigest, str],
        progress: ProgressReporter,
        total: int,
    ) -> None:
        self.sent = self.sent_bytes = self.mounted = 0
        self._to = to
        self._image = image
        self._source = source
        self._mounts = mounts
        self._progress = progress
        self._layer_progress = progress if isinstance(progress, LayerProgress) else None
        self._total = total
        self._done = 0
        self._told: dict[ImageDigest, int] = {}
        self._takes_pieces = True

    async def bring(self, blob: LayerSpec) -> None:
        """Have *blob* in the repository."""
        what = f"{self._image}: blob {blob.digest}"
        await self._to.retry(partial(self._bring, blob, what))
        self._tell(blob, blob.size)

    async def name(self, manifest: bytes, media_type: str, digest: ImageDigest) -> None:
        """Put the manifest, by which all that was brought becomes an image."""
        selector = self._image.tag or self._image.selector
        url = self._to.endpoint.url(f"manifests/{selector}")
        fields = {"Content-Type": media_type, "Content-Length": str(len(manifest))}
        what = str(self._image)

        async def put() -> None:
            async with self._to.open("PUT", url, what, fields, body=Pieces(manifest)) as answer:
                if not 200 <= answer.status < 300:
                    raise await answer.error(CHECK_NAME)
                check_answer(answer, digest, what)

        await self._to.retry(put)

    async def _bring(self, blob: LayerSpec, what: str) -> None:
        # Also in a further attempt: what broke off may have been its last answer.
        async with self._to.open("HEAD", self._to.endpoint.url(f"blobs/{blob.digest}"), what) as answer:
            if answer.status == 200:
                return
        async with Upload.opened(self._to, blob, what) as upload:
            if await self._begin(upload, self._mounts.get(blob.digest)):
                self.mounted += 1
                return
            try:
                if self._takes_pieces or blob.size <= upload.chunk:
                    await self._send_pieces(upload, blob)
                else:
                    await self._send_whole(upload, blob)
            except UploadLost as exc:
                self._takes_pieces = self._takes_pieces and exc.takes_pieces
                raise
        self.sent += 1
        self.sent_bytes += blob.size

    @staticmethod
    async def _begin(upload: Upload, mount: str | None) -> bool:
        try:
            return await upload.begin(mount)
        except RegistryError:
            if mount is None:
                raise
        return await upload.begin(None)  # whatever it has against mounting

    async def _send_pieces(self, upload: Upload, blob: LayerSpec) -> None:
        """Send it piece by piece, or as one if it is small."""
        piece, sent = bytearray(), 0
        async with aclosing(self._source.stream(blob.digest, blob.size)) as stream:
            async for data in stream:
                piece += data
                while len(piece) > upload.chunk:
                    sent += await self._send_piece(upload, blob, bytes(piece[: upload.chunk]), sent)
                    del piece[: upload.chunk]
        if sent:
            await self._send_piece(upload, blob, bytes(piece), sent)
            piece.clear()
        await upload.finish(Pieces(bytes(piece)), len(piece))

    async def _send_piece(self, upload: Upload, blob: LayerSpec, piece: bytes, sent: int) -> int:
        await upload.send(piece)
        self._tell(blob, sent + len(piece))
        return len(piece)

    async def _send_whole(self, upload: Upload, blob: LayerSpec) -> None:
        """Send it as one body as it is read."""
        send, receive = anyio.create_memory_object_stream[bytes](0)

        async def read() -> None:
            with suppress(anyio.BrokenResourceError):
                async with send, aclosing(self._source.stream(blob.digest, blob.size)) as stream:
                    async for data in stream:
                        await send.send(data)

        async with receive, task_group() as group:
            group.start_soon(read)
            await upload.finish(_Once(receive), blob.size)
            receive.close()

    def _tell(self, blob: LayerSpec, current: int) -> None:
        self._done += current - self._told.get(blob.digest, 0)
        self._told[blob.digest] = current
        if self._layer_progress is not None:
            self._layer_progress.layer(blob.digest, current, blob.size)
        self._progress.update(f"pushing {self._image}", self._done, self._total)


class _Once:
    """A body that is read while it is sent; sent again it would lack what was read before."""

    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream: AsyncIterable[bytes] | None = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        stream, self._stream = self._stream, None
        if stream is None:
            raise OSError("the body would have to be sent again")
        return aiter(stream)
