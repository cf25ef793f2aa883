"""What a runtime works with while it is open: engine, store, registry, and what is known of them (L4)."""

from __future__ import annotations

__all__ = ("Session", "open_session")

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio
import msgspec

from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.fetch import FetchReport, combined, fetch_layers, prove_served
from aioruntime.assembly.load import LoadReport, assemble, engine_name
from aioruntime.assembly.memory import EngineMemory
from aioruntime.assembly.plan import Layering, held_image
from aioruntime.engine import images
from aioruntime.engine.client import EngineClient
from aioruntime.engine.discovery import open_engine
from aioruntime.errors import EngineError, StoreError
from aioruntime.registry.client import RegistryClient
from aioruntime.runtime.locate import Locator
from aioruntime.runtime.owner import Owner, open_owner
from aioruntime.runtime.reap import reap
from aioruntime.store.store import ImageStore
from aioruntime.tasks import task_group, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from aioruntime.oci.image import LayerSpec, ResolvedImage
    from aioruntime.oci.reference import OciRef
    from aioruntime.progress import ProgressReporter

_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Session:
    """One engine, one store and one registry client, opened together by `open_session`.

    Attributes:
        client: the engine.
        store: where layers are kept.
        registry: where they come from.
        memory: what the engine took from the store.
        locator: finds images in the engine.
        owner: as whose containers are created.
        slots: the layers that may be fetched at once.
    """

    client: EngineClient
    store: ImageStore
    registry: RegistryClient
    memory: EngineMemory
    locator: Locator
    owner: Owner
    slots: anyio.CapacityLimiter

    async def fetch(
        self,
        layers: Sequence[LayerSpec],
        reference: OciRef | None,
        progress: ProgressReporter,
        arrivals: Arrivals | None = None,
    ) -> FetchReport:
        """Bring *layers* into the store, from the repository of *reference* or by their own URLs."""
        return await fetch_layers(
            layers,
            image=reference,
            source=self.registry,
            store=self.store,
            progress=progress,
            connections=self.slots,
            arrivals=arrivals,
        )

    def using(self, image: ResolvedImage) -> AbstractAsyncContextManager[None]:
        """Keep all that *image* consists of from being collected, within a context."""
        documents = (image.manifest_digest, image.manifest.config.digest)
        layers = (layer.digest for layer in image.layers)
        return self.store.lease([*documents, *layers], image=image.manifest_digest)

    async def prove_served(self, image: ResolvedImage) -> None:
        """Make sure that the layers of *image* in the store are such that its repository serves."""
        await prove_served(
            image.layers,
            image=image.reference,
            source=self.registry,
            store=self.store,
            connections=self.slots,
        )

    async def assemble(
        self,
        image: ResolvedImage,
        progress: ProgressReporter,
        layering: Layering,
        arrivals: Arrivals | None = None,
        refetch: Callable[[Sequence[LayerSpec]], Awaitable[None]] | None = None,
    ) -> LoadReport:
        """Make *image*, whose layers are in the store or arrive there, runnable in the engine."""
        report = await assemble(
            image,
            store=self.store,
            client=self.client,
            memory=self.memory,
            progress=progress,
            layering=layering,
            arrivals=arrivals,
            refetch=refetch,
        )
        self.locator.note(image.reference, report.image_id)
        return report

    async def pull_by_layers(
        self, image: ResolvedImage, progress: ProgressReporter, layering: Layering
    ) -> tuple[FetchReport, LoadReport]:
        """Fetch the layers of *image*, and send each to the engine as soon as it is here.

        Those that turn out to be damaged in the store are fetched again, once.
        """
        arrivals = Arrivals()

        fetched: list[FetchReport] = []
        loaded: list[LoadReport] = []

        async def fetch(layers: Sequence[LayerSpec]) -> None:
            fetched.append(await self.fetch(layers, image.reference, progress, arrivals))

        async def load() -> None:
            loaded.append(await self.assemble(image, progress, layering, arrivals, fetch))

        async with self.using(image), task_group() as group:
            group.start_soon(load)
            await fetch(image.layers)
            await keep_image(self.store, image)
        return combined(fetched), loaded[0]

    async def pull_by_engine(self, image: ResolvedImage, progress: ProgressReporter) -> None:
        """Have the engine pull *image* from its registry."""
        # By digest, so that the engine gets what was checked even if the tag moves meanwhile.
        by_digest = f"{image.reference.full_name}@{image.manifest_digest}"
        await images.pull_image(self.client, by_digest, progress.update)
        held = await images.inspect_image(self.client, by_digest)
        await images.tag_image(self.client, held.id, engine_name(image.reference))
        taken = held_image(image, held.id)
        if self.client.capabilities.sparse == "prefix":
            # Docker does not look at layers where it has the config: what they hold is not proven.
            taken = msgspec.structs.replace(taken, layers=())
        await self.memory.remember(taken)
        self.locator.note(image.reference, held.id)


@asynccontextmanager
async def open_session(
    url: str | None,
    kind: Literal["docker", "podman"],
    store: ImageStore,
    connections: int,
    *,
    client: EngineClient | None,
    registry: RegistryClient | None,
) -> AsyncIterator[Session]:
    """Open what was not given, for the time of the context.

    Raises:
        EngineUnavailable: no engine of this *kind* answers.
    """
    async with AsyncExitStack() as stack:
        if client is None:
            client = await stack.enter_async_context(open_engine(url, kind=kind))
        if registry is None:
            registry = await stack.enter_async_context(RegistryClient(connections_per_host=connections))
        memory = EngineMemory(store, client.capabilities.engine_id)
        slots = anyio.CapacityLimiter(connections)
        locator = Locator(client, memory, store)
        try:
            async with open_owner(store, client.capabilities.engine_id) as owner:
                yield Session(client, store, registry, memory, locator, owner, slots)
        finally:
            if owner.claims:
                await to_completion(_end_what_runs(client, store, owner))


async def _end_what_runs(client: EngineClient, store: ImageStore, owner: Owner) -> None:
    """Remove the containers of tasks that still have some: soon they can't do it any more."""
    with anyio.move_on_after(_END_SECONDS), suppress(EngineError, StoreError):
        await reap(client, store, owner=owner.nonce)
