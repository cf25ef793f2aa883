"""Create and start a container, and leave nothing behind: record, create, attach, start, remove (L4)."""

from __future__ import annotations

__all__ = ("Creation", "started")

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from aioruntime.engine import containers
from aioruntime.engine.images import inspect_image
from aioruntime.engine.networks import Networks
from aioruntime.errors import EngineError, EngineUnavailable, RunError, StreamTruncated
from aioruntime.runtime.container import Container
from aioruntime.runtime.docker_body import later_networks
from aioruntime.runtime.owner import CONTAINER_LABEL
from aioruntime.runtime.spec import RunSpec
from aioruntime.tasks import beside, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.engine.client import EngineClient
    from aioruntime.runtime.owner import Claim, Owner

_log = logging.getLogger("aioruntime")

_CREATE_SECONDS = 120
# An engine may go on creating a container after the connection was cut.
_LOOKS = (0.0, 0.1, 0.4, 1.0)
_LOOK_SECONDS = 10
# Answers of a proxy that has lost its engine, which may go on. An engine's own word is its last.
_IN_DOUBT = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Creation:
    """What a container is made from.

    Attributes:
        spec: what to run.
        image_id: the engine's ID of its image.
        make_body: makes the request from the labels that the container is to carry.
        libpod: whether that is for Podman's own API.
    """

    spec: RunSpec
    image_id: str
    make_body: Callable[[Mapping[str, str]], dict[str, Any]]
    libpod: bool

    @property
    def what(self) -> str:
        """The image's name, for messages."""
        return str(self.spec.image)


@asynccontextmanager
async def started(
    client: EngineClient, owner: Owner, creation: Creation, *, detach: bool = False
) -> AsyncIterator[Container]:
    """Run a container for the time of the context, and remove it, also if cancelled at any point.

    Args:
        client: the engine.
        owner: who answers for the container, should this program be killed.
        creation: what to run.
        detach: whether the container is left running, owned by nobody, once it has started.

    Raises:
        ImageNotFound: the engine has no such image.
        EngineUnavailable: the engine can't be reached.
        RunError: the container could not be created or started; it is gone.
        RunTimeout: its time was up before it ended (on leaving).
    """
    making = _Making(client, owner, creation)
    try:
        try:
            # The request is not cut off halfway: an engine would go on and create it after we looked.
            await to_completion(making.create())
            restart = creation.spec.restart
            once = restart is None or restart.name == "no"
            async with making.running(attached=not detach and once) as container:
                if detach:
                    await making.keep()
                yield container
                if not detach:
                    await container.leave()
        finally:
            try:
                await to_completion(making.remove())
            except asyncio.CancelledError:
                # The end of a loop cancels every task, those of a removal under way too: then once more.
                await to_completion(making.remove())
                raise
    except BaseException as exc:
        for note in making.notes:
            exc.add_note(note)
        raise


class _Making:
    """One container from its record to its removal."""

    def __init__(self, client: EngineClient, owner: Owner, creation: Creation) -> None:
        self.notes: list[str] = []
        self._client = client
        self._owner = owner
        self._creation = creation
        self._name = creation.spec.name or f"aioruntime-{secrets.token_hex(8)}"
        self._claim: Claim | None = None
        self._container_id: str | None = None
        self._refused = False

    async def create(self) -> None:
        spec, what = self._creation.spec, self._creation.what
        self._claim = claim = await self._owner.claim(self._name)
        try:
            with anyio.fail_after(_CREATE_SECONDS):
                self._container_id = await containers.create(
                    self._client,
                    self._creation.make_body(claim.labels),
                    name=self._name,
                    libpod=self._creation.libpod,
                    platform=None if self._creation.libpod else spec.platform,
                )
        except (EngineUnavailable, StreamTruncated):
            raise
        except EngineError as exc:
            self._refused = exc.status is not None and exc.status not in _IN_DOUBT
            if exc.status == 404:
                await inspect_image(self._client, self._creation.image_id)  # raises if it is that
            raise RunError(f"{what}: no container could be created: {exc.message}") from exc
        except TimeoutError:
            raise RunError(f"{what}: no container was created within {_CREATE_SECONDS} s") from None
        await self._owner.identify(claim, self._container_id)

    @asynccontextmanager
    async def running(self, *, attached: bool) -> AsyncIterator[Container]:
        assert self._container_id is not None
        client, container_id, spec = self._client, self._container_id, self._creation.spec
        has_input = spec.stdin is not False
        async with AsyncExitStack() as stack:
            attachment = None
            try:
                for network in later_networks(spec, client.capabilities):
                    await Networks(client).connect(network.name, container_id, aliases=network.aliases)
                if attached:
                    attaching = containers.attach(client, container_id, tty=spec.tty, stdin=has_input)
                    attachment = await stack.enter_async_context(attaching)
                await containers.start(client, container_id)
            except (EngineUnavailable, StreamTruncated):
                raise
            except EngineError as exc:
                what = self._creation.what
                message = f"{what}: the container did not start: {exc.message}"
                raise RunError(message, container_id=self._name) from exc
            container = Container(
                client,
                container_id,
                self._name,
                self._creation.what,
                tty=spec.tty,
                stdin=has_input,
                attachment=attachment,
                stop_timeout=spec.stop_timeout,
            )
            if isinstance(spec.stdin, bytes):
                await stack.enter_async_context(container.stdin.feeding(spec.stdin))
            if spec.timeout is not None:
                await stack.enter_async_context(beside(container.end_after(spec.timeout)))
            yield container

    async def keep(self) -> None:
        """Answer for the container no more: it stays."""
        assert self._claim is not None
        await to_completion(self._owner.release(self._claim))
        self._claim = None  # not if that was cancelled: then nobody got the container, and it goes

    async def remove(self) -> None:
        """Remove the container; that it may still be there is logged, and noted for the error on its way."""
        if self._claim is None:
            return
        found: list[str] = []
        try:
            if self._container_id:
                found = [self._container_id]
            else:
                with anyio.move_on_after(_LOOK_SECONDS):
                    found = await self._look(self._claim)
            for container in found:
                await containers.remove(self._client, container, force=True)
        except EngineError as exc:
            self.notes.append(f"container {self._name} could not be removed: {exc.message}")
            _log.warning("%s; `reap` removes it later", self.notes[-1])
            return
        if found or self._refused:  # else the record stays: a later `reap` looks again
            await self._owner.release(self._claim)
        self._claim = None

    async def _look(self, claim: Claim) -> list[str]:
        """Find what was created by a request whose answer did not come, or was a failure."""
        for pause in _LOOKS[:1] if self._refused else _LOOKS:
            await anyio.sleep(pause)
            if found := await containers.list_by_label(self._client, f"{CONTAINER_LABEL}={claim.nonce}"):
                return found
        return []
