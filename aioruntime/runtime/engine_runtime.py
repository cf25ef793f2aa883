"""What the runtimes of Docker and Podman share: the contract over one engine and one store (L4)."""

from __future__ import annotations

__all__ = ("EngineRuntime",)

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from aioruntime.assembly.catalog import find_image, keep_image
from aioruntime.engine.events import events
from aioruntime.engine.networks import Networks
from aioruntime.engine.volumes import Volumes
from aioruntime.errors import InvalidReference, InvalidSpec
from aioruntime.oci.image import ImageRef, LayerSpec, ResolvedImage
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress, finishing
from aioruntime.runtime.arguments import gpu_arguments, mount_arguments
from aioruntime.runtime.compose import compose
from aioruntime.runtime.container import find_container
from aioruntime.runtime.expectations import check_digest, check_layers
from aioruntime.runtime.gpu import Gpus, gpu_request
from aioruntime.runtime.prepare import prepare, refuse_to_run, refuse_to_start
from aioruntime.runtime.push import push
from aioruntime.runtime.reap import ReapReport, reap
from aioruntime.runtime.run import run_container, run_many
from aioruntime.runtime.session import Session, open_session
from aioruntime.runtime.spec import RuntimeInfo
from aioruntime.runtime.start import Creation, started
from aioruntime.store.store import ImageStore

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime
    from types import TracebackType

    from aioruntime.assembly.load import LoadReport
    from aioruntime.assembly.plan import Layering
    from aioruntime.engine.client import EngineClient
    from aioruntime.engine.event_history import Event
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import ComposedImage, ImageMetadata
    from aioruntime.oci.image_config import ImageConfig
    from aioruntime.progress import ProgressReporter
    from aioruntime.registry.client import RegistryClient
    from aioruntime.runtime.container import Container
    from aioruntime.runtime.gpu_spec import GpuProfile
    from aioruntime.runtime.locate import ImageTarget
    from aioruntime.runtime.mounts import AnyMount
    from aioruntime.runtime.run import RunResult
    from aioruntime.runtime.spec import RunOutcome, RunSpec


class EngineRuntime:
    """One engine, one store and one registry client, opened and closed together.

    Use it with ``async with``. `DockerRuntime` and `PodmanRuntime` say which engine; what the methods
    promise is told in `ContainerRuntime`. Leaving it ends and removes the containers that other tasks still
    have in hand.

    Args:
        url: the engine's address (``unix://``, ``tcp://``, ``https://`` or ``ssh://``); None to look
            for one of this kind where engines usually are.
        store: the local store, or its path; None for the user's own.
        registry: a client to fetch through, which stays open; None for one of this runtime's own.
        connections: layers that are fetched at once.
        client: a connection to an engine of this kind, which stays open; None to open one by *url*.

    Raises:
        EngineUnavailable: on entering, if no engine of this kind answers; the message lists what was tried.
    """

    kind: ClassVar[Literal["docker", "podman"]]

    def __init__(
        self,
        url: str | None = None,
        *,
        store: ImageStore | str | os.PathLike[str] | None = None,
        registry: RegistryClient | None = None,
        connections: int = 16,
        client: EngineClient | None = None,
    ) -> None:
        if connections < 1:
            raise InvalidSpec(f"connections is {connections}; it has to be at least 1")
        self.store = store if isinstance(store, ImageStore) else ImageStore(store)
        self._url = url
        self._given_registry = registry
        self._given_client = client
        self._connections = connections
        self._gpus = Gpus()
        self._opening: AbstractAsyncContextManager[Session] | None = None
        self._session: Session | None = None

    async def __aenter__(self) -> Self:
        if self._opening is not None:
            raise RuntimeError(f"this {type(self).__name__} is already open; make another one")
        self._opening = open_session(
            self._url,
            self.kind,
            self.store,
            self._connections,
            client=self._given_client,
            registry=self._given_registry,
        )
        try:
            self._session = await self._opening.__aenter__()
        except BaseException:
            self._opening = None
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        opening, self._opening, self._session = self._opening, None, None
        if opening is not None:
            await opening.__aexit__(exc_type, exc, traceback)

    @property
    def _open(self) -> Session:
        if self._session is None:
            raise RuntimeError(f"this {type(self).__name__} is not open: use it with `async with`")
        return self._session

    @property
    def _client(self) -> EngineClient:
        return self._open.client

    # The contract.

    @property
    def name(self) -> str:
        """``docker`` or ``podman``."""
        return self.kind

    async def health_check(self) -> RuntimeInfo:
        """Ask the engine who it is."""
        capabilities = await self._client.probe()
        endpoint = self._client.endpoint
        extra = {"endpoint": endpoint.shown_url, "found_by": endpoint.source, **capabilities.as_text()}
        return RuntimeInfo(self.name, capabilities.version, extra)

    async def resolve(self, image: OciRef | str, platform: Platform | str | None = None) -> ResolvedImage:
        """Find out what *image* names in its registry now."""
        reference = _reference(image)
        wanted = self._platform(platform)
        if reference.pinned is not None:  # what a digest names never changes: no need to ask again
            kept = await find_image(self.store, reference, wanted)
            if kept is not None:
                return kept
        return await self._open.registry.resolve(reference, wanted, documents=self.store)

    async def pull(
        self,
        image: OciRef | str,
        progress: ProgressReporter | None = None,
        *,
        platform: Platform | str | None = None,
        expected_digest: str | None = None,
        expected_layers: Sequence[LayerSpec | str] | None = None,
        via: Literal["layers", "engine"] = "layers",
        layering: Layering = "keep",
    ) -> ImageDigest:
        """Make *image* runnable: resolve it, fetch what is missing, assemble it."""
        if via not in ("layers", "engine"):
            raise InvalidSpec(f"via is {via!r}; it has to be 'layers' or 'engine'")
        _check_layering(layering)
        progress = progress or NoopProgress()
        resolved = await self.resolve(image, platform)
        if expected_digest is not None:
            check_digest(resolved, expected_digest)
        if expected_layers is not None:
            check_layers(resolved, expected_layers)
        with finishing(progress):
            if via == "engine":
                await self._open.pull_by_engine(resolved, progress)
                progress.finish(f"{resolved.reference}: pulled by {self.name}")
            else:
                fetched, loaded = await self._open.pull_by_layers(resolved, progress, layering)
                progress.finish(
                    f"{resolved.reference}: {len(fetched.fetched)} of {fetched.wanted} layers fetched "
                    f"({fetched.downloaded_bytes} bytes), {self._told(loaded)}"
                )
        return resolved.digest

    async def run(self, spec: RunSpec) -> RunOutcome:
        """Run a container to its end and remove it."""
        refuse_to_run(spec)
        return await run_container(self._client, self._open.owner, await self._prepared(spec))

    @asynccontextmanager
    async def start(self, spec: RunSpec, *, detach: bool = False) -> AsyncIterator[Container]:
        """Start a container and have it in hand for the time of the context."""
        refuse_to_start(spec, detach=detach)
        creation = await self._prepared(spec)
        async with started(self._client, self._open.owner, creation, detach=detach) as container:
            yield container

    async def container(self, name: str) -> Container:
        """Take a container in hand that is there already."""
        return await find_container(self._client, name)

    def run_many(self, specs: Iterable[RunSpec], *, limit: int = 16) -> AsyncGenerator[RunResult]:
        """Run containers to their end, several at a time, and tell of each as it ends."""
        return run_many(self.run, specs, limit)

    async def inspect(self, image: ImageTarget) -> ImageMetadata:
        """Tell what the engine knows of an image."""
        return await self._open.locator.describe(image)

    async def is_locally_available(self, image_ref: ImageRef | OciRef | str, digest: str) -> bool:
        """Tell whether the engine can run exactly the image that *digest* names, now."""
        return await self._open.locator.is_available(image_ref, digest)

    def gpu_args(self, profile: GpuProfile) -> list[str]:
        """Return the command-line arguments that say the same as *profile*."""
        return gpu_arguments(gpu_request(profile, self._client.capabilities))

    def mount_args(self, mounts: Iterable[AnyMount]) -> list[str]:
        """Return the command-line arguments that say the same as *mounts*."""
        return mount_arguments(mounts)

    async def ensure_layers(
        self,
        layers: Sequence[LayerSpec],
        progress: ProgressReporter | None = None,
        *,
        image: OciRef | str | None = None,
    ) -> None:
        """Bring each distinct layer into the local store, verified."""
        progress = progress or NoopProgress()
        if image is None:
            await self._check_urls(layers)
        reference = _reference(image) if image is not None else None
        with finishing(progress):
            async with self.store.lease([layer.digest for layer in layers]):
                fetched = await self._open.fetch(layers, reference, progress)
        progress.finish(f"{len(fetched.fetched)} of {fetched.wanted} layers fetched")

    async def assemble_image(
        self,
        image: OciRef | str,
        layers: Sequence[LayerSpec],
        progress: ProgressReporter | None = None,
        *,
        platform: Platform | str | None = None,
        layering: Layering = "keep",
    ) -> ImageRef:
        """Make *image* runnable in the engine from blobs that are all in the store."""
        _check_layering(layering)
        progress = progress or NoopProgress()
        reference = _reference(image)
        runs_on = self._platform(platform)
        wanted = [layer.digest for layer in layers]
        found = await find_image(self.store, reference, runs_on)
        kept = found is not None and [layer.digest for layer in found.layers] == wanted
        if found is None or not kept:
            found = await self._open.registry.resolve(reference, runs_on, documents=self.store)
            check_layers(found, wanted)
        with finishing(progress):
            async with self._open.using(found):
                if not kept:
                    await self._open.prove_served(found)
                loaded = await self._open.assemble(found, progress, layering)
                if not kept:  # last, since what is kept counts as proved
                    await keep_image(self.store, found)
        progress.finish(f"{reference}: {self._told(loaded)}")
        return ImageRef(loaded.name, found.digest)

    async def compose_image(
        self,
        name: OciRef | str,
        images: Sequence[ImageTarget] = (),
        progress: ProgressReporter | None = None,
        *,
        layers: Sequence[LayerSpec] = (),
        config: ImageConfig | None = None,
    ) -> ComposedImage:
        """Make a new image of the layers of several, and make it runnable in the engine."""
        progress = progress or NoopProgress()
        reference = _reference(name)
        with finishing(progress):
            made = await compose(self._open, reference, images, layers, config, progress)
        progress.finish(
            f"{reference}: composed of {made.layers} layers, {made.shared} of them shared, "
            f"{len(made.image.conflicts)} conflicts, {self._told(made.loaded)}"
        )
        return made.image

    async def push(
        self,
        image: ImageTarget,
        to: OciRef | str | None = None,
        progress: ProgressReporter | None = None,
    ) -> ImageDigest:
        """Push an image that is in the store, composed ones too."""
        destination = _reference(to) if to is not None else None
        return await push(self._open, image, destination, progress or NoopProgress())

    async def images(self) -> list[ImageMetadata]:
        """List the images that were brought into the engine from this store and are there now."""
        return await self._open.locator.images()

    async def tag(self, image: ImageTarget, name: OciRef | str) -> ImageRef:
        """Give an image in the engine a further name."""
        reference = _reference(name)
        if reference.digest is not None:
            raise InvalidReference(
                f"{reference} has a digest; an engine's name for an image has at most a tag"
            )
        return await self._open.locator.tag(image, reference)

    async def remove_image(self, image: ImageTarget) -> None:
        """Remove an image from the engine; the store keeps its layers."""
        await self._open.locator.remove(image)

    async def reap(self) -> ReapReport:
        """Remove the containers that programs left in the engine which were killed."""
        return await reap(self._client, self.store)

    def events(
        self,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        filters: Mapping[str, str | Sequence[str]] | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Follow what happens in the engine."""
        return events(self._client, since=since, until=until, filters=filters)

    @property
    def volumes(self) -> Volumes:
        """The engine's volumes."""
        return Volumes(self._client)

    @property
    def networks(self) -> Networks:
        """The engine's networks."""
        return Networks(self._client)

    # Steps that several methods share.

    async def _prepared(self, spec: RunSpec) -> Creation:
        gpu = await self._gpus.request(self._client, spec.gpu)
        return await prepare(
            self._open, spec, gpu, lambda image, platform: self.pull(image, platform=platform)
        )

    async def _check_urls(self, layers: Sequence[LayerSpec]) -> None:
        for layer in await self.store.missing(layers):
            if layer.blob_url is None:
                raise InvalidSpec(
                    f"layer {layer.digest} has no blob_url; give the image whose repository has it: "
                    "ensure_layers(layers, image=...)"
                )

    def _platform(self, wanted: Platform | str | None) -> Platform:
        return (
            Platform.parse(wanted)
            if isinstance(wanted, str)
            else wanted or self._client.capabilities.platform
        )

    def _told(self, loaded: LoadReport) -> str:
        count = sum(map(len, loaded.merged))
        merged = f", {count} layers merged into {len(loaded.merged)}" if loaded.merged else ""
        return f"{loaded.sent_bytes} bytes sent to {self.name}{merged}"


def _check_layering(layering: str) -> None:
    if layering not in ("keep", "merge"):
        raise InvalidSpec(f"layering is {layering!r}; it has to be 'keep' or 'merge'")


def _reference(image: OciRef | str) -> OciRef:
    return OciRef.parse(image) if isinstance(image, str) else image
