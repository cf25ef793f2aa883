"""Serve one image on the loopback interface, for an engine on this machine to pull (L3).

An engine that pulls takes layers in parallel, and asks only for those that it lacks. Of the OCI distribution
specification ("Pulling manifests", "Pulling blobs") this is as much as it takes for that.
"""

from __future__ import annotations

__all__ = ("ServedImage", "is_served", "serve_image", "served_port")

import asyncio
import re
import secrets
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from aiohttp import web

from aioruntime.oci import media_types
from aioruntime.tasks import task_group, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aioruntime.assembly.arrivals import Arrivals
    from aioruntime.assembly.content import LayerContent
    from aioruntime.oci.image import LayerSpec, ResolvedImage

_HOST = "127.0.0.1"
_TAG = "image"
_REFERENCE = re.compile(rf"{re.escape(_HOST)}:(\d+)/aioruntime/[0-9a-f]{{32}}:{_TAG}", re.ASCII)
# Who still reads when the image is withdrawn has given up on it.
_GRACE_SECONDS = 0.05
_STOP_SECONDS = 10.0


class ServedImage:
    """An image that is served to whoever knows its name; made by `serve_image`.

    Args:
        image: its documents.
        content: has its layers, or will.
        arrivals: tells when a layer is there.
        sent: told the bytes of layers as they are sent.

    Attributes:
        reference: the name to pull it by, which nobody can guess.
    """

    def __init__(
        self, image: ResolvedImage, content: LayerContent, arrivals: Arrivals, sent: Callable[[int], None]
    ) -> None:
        self.reference = ""
        self._answering: set[asyncio.Task[Any]] = set()
        self._failure: Exception | None = None
        self._failed = anyio.Event()
        self._image = image
        self._content = content
        self._arrivals = arrivals
        self._sent = sent
        self._layers = {layer.digest: layer for layer in image.layers}
        self._repository = f"aioruntime/{secrets.token_hex(16)}"
        self._root = f"/v2/{self._repository}"

    def listening(self, port: int) -> None:
        """Note where it is served."""
        self.reference = f"{_HOST}:{port}/{self._repository}:{_TAG}"

    async def until_failure(self, pull: Awaitable[None]) -> None:
        """Await *pull*, which has the engine come here; given up when a layer can't be sent.

        Raises:
            DigestMismatch: a layer in the store was altered.
            StoreError: one can't be read.
        """
        async with task_group() as tasks:
            tasks.start_soon(self._raise_failure)
            await pull
            tasks.cancel_scope.cancel()

    async def _raise_failure(self) -> None:
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request for the image, its config or a layer; anything else is not there."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return await self._answer(request)

    async def stop(self) -> None:
        """Give up what is still being answered, such as to an engine that hung up, and wait for that."""
        while self._answering:
            for task in self._answering:
                task.cancel()
            await asyncio.wait(self._answering)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405)
        if request.path == "/v2/":
            return web.Response()
        if not request.path.startswith(f"{self._root}/"):
            return web.Response(status=404)
        kind, _, name = request.path.removeprefix(f"{self._root}/").partition("/")
        manifest, config = self._image.manifest, self._image.manifest.config
        if kind == "manifests" and name in (_TAG, self._image.manifest_digest):
            media_type = manifest.media_type or media_types.OCI_MANIFEST
            return self._document(self._image.raw_manifest, self._image.manifest_digest, media_type)
        if kind == "blobs" and name == config.digest:
            return self._document(self._image.raw_config, name, "application/octet-stream")
        if kind == "blobs" and name in self._layers:
            return await self._layer(request, name)
        return web.Response(status=404)

    def _document(self, raw: bytes, digest: str, media_type: str) -> web.Response:
        self._sent(len(raw))
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        return web.Response(body=raw, headers=headers)

    async def _layer(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        layer = self._layers[name]  # type: ignore[index]
        response = web.StreamResponse(headers={"Docker-Content-Digest": name})
        response.content_type, response.content_length = "application/octet-stream", layer.size
        if request.method == "GET":
            await self._arrivals.all_of([layer])
        await response.prepare(request)
        if request.method == "GET":
            try:
                await self._send(layer, response)
            except ConnectionError:
                pass  # the engine hung up
            except Exception as exc:
                self._failure = exc
                self._failed.set()
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _send(self, layer: LayerSpec, response: web.StreamResponse) -> None:
        async with aclosing(self._content.stream(layer.digest, layer.size)) as pieces:
            async for piece in pieces:
                await response.write(piece)
                self._sent(len(piece))
        await response.write_eof()


@asynccontextmanager
async def serve_image(
    image: ResolvedImage, content: LayerContent, arrivals: Arrivals, sent: Callable[[int], None]
) -> AsyncIterator[ServedImage]:
    """Serve *image* on a free port of 127.0.0.1 for the time of the context.

    Args:
        image: what is served, under a name that is told to nobody but the caller.
        content: has the layers, or will.
        arrivals: tells when a layer is there; a request for one waits until then.
        sent: told the bytes of each piece that was sent.

    Raises:
        OSError: no port can be listened on.
    """
    served = ServedImage(image, content, arrivals, sent)
    runner = web.ServerRunner(web.Server(served.answer, access_log=None), shutdown_timeout=_GRACE_SECONDS)
    try:
        await runner.setup()
        # Cancelled half-way, it would leave the socket listening.
        await to_completion(web.TCPSite(runner, _HOST, 0).start())
        served.listening(runner.addresses[0][1])
        yield served
    finally:
        await to_completion(_stop(runner, served))


async def _stop(runner: web.ServerRunner, served: ServedImage) -> None:
    await runner.cleanup()
    # aiohttp forgets whoever hung up, and does not wait for those that it cancels.
    with anyio.move_on_after(_STOP_SECONDS):
        await served.stop()


def served_port(name: str) -> int | None:
    """Return the port in a name that `serve_image` gave an image, here or in another process; else None."""
    found = _REFERENCE.fullmatch(name)
    return int(found[1]) if found else None


async def is_served(port: int) -> bool:
    """Tell whether somebody listens on *port* of the loopback interface."""
    try:
        _, writer = await asyncio.open_connection(_HOST, port)
    except (OSError, OverflowError):
        return False
    writer.close()
    return True
