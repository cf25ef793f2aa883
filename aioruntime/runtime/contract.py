"""The runtime contract: what `connect` gives, whatever the engine (L4).

The first are those of the trait ``bv_runtime::ContainerRuntime``, as coroutines where they do I/O; those
on sharing images, and on those that the engine took from us, come after them.
"""

from __future__ import annotations

__all__ = ("ContainerRuntime",)

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from aioruntime.assembly.plan import Layering
    from aioruntime.engine.event_history import Event
    from aioruntime.engine.networks import Networks
    from aioruntime.engine.volumes import Volumes
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import ComposedImage, ImageMetadata, ImageRef, LayerSpec, ResolvedImage
    from aioruntime.oci.image_config import ImageConfig
    from aioruntime.oci.platform import Platform
    from aioruntime.oci.reference import OciRef
    from aioruntime.progress import ProgressReporter
    from aioruntime.runtime.container import Container
    from aioruntime.runtime.gpu_spec import GpuProfile
    from aioruntime.runtime.mounts import AnyMount
    from aioruntime.runtime.reap import ReapReport
    from aioruntime.runtime.run import RunResult
    from aioruntime.runtime.spec import RunOutcome, RunSpec, RuntimeInfo


class ContainerRuntime(Protocol):
    """Pulls images layer by layer, assembles them in an engine, and runs containers from them."""

    @property
    def name(self) -> str:
        """``docker`` or ``podman``."""

    async def health_check(self) -> RuntimeInfo:
        """Ask the engine who it is.

        Returns:
            Its name and version, and in ``extra`` what it can do.

        Raises:
            EngineUnavailable: it can't be reached; the message says what was tried.
        """

    async def resolve(self, image: OciRef | str, platform: Platform | str | None = None) -> ResolvedImage:
        """Find out what *image* names in its registry now.

        Args:
            image: the reference; a digest decides over a tag.
            platform: what it shall run on, such as ``linux/arm64``; None for the engine's own.

        Returns:
            Its digest to pin, its manifest and config, and its layers with digest and size.

        Raises:
            InvalidReference: a string that is not a reference, or a digest that can't be fetched.
            RegistryError: the registry failed, or has no such image (`NotFound`).
            InvalidManifest: what it served can't be run.
            DigestMismatch: it served something else than the digest names.
            SizeMismatch: it served a document of another size than declared.
            StoreError: the local store, which is asked first for what a digest names, can't be read.
        """

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
        """Make *image* runnable: resolve it, `ensure_layers`, `assemble_image`.

        Layers that turn out to be damaged in the store are put aside and fetched again, once.

        Args:
            image: the reference.
            progress: told what happens.
            platform: what it shall run on, such as ``linux/arm64``; None for the engine's own.
            expected_digest: refuse unless the registry's digest of the image (of the index or of the
                platform's manifest) is this one.
            expected_layers: refuse unless the image has just these layers, in this order.
            via: ``layers`` to fetch the layers ourselves, and send each to the engine as it arrives;
                ``engine`` to ask the daemon to pull.
            layering: ``keep`` to give the engine the image's own layers, the last ones merged only if there
                are more than it can have; ``merge`` to merge into at most four what the engine does not
                share with another image, and at most all but the first, which some engines take in faster.

        Returns:
            The registry's digest of the image: the one to pin.

        Raises:
            DigestMismatch: an expectation does not hold, and nothing was fetched; or bytes are not what a
                digest names (in the message: where they came from), and they were thrown away.
            InvalidReference: a string that is not a reference, or a digest that can't be fetched.
            InvalidManifest: what the registry served, or a layer of it, can't be run.
            RegistryError: the registry failed; what had arrived is kept and the next pull goes on there.
            StoreError: the local store failed; `StoreFull` if there is no room for what is missing.
            InvalidSpec: *via* or *layering* is none of these.
            ImageLoadFailed: the engine did not take the image.
            EngineError: the engine failed otherwise.
        """

    async def run(self, spec: RunSpec) -> RunOutcome:
        """Run a container to its end and remove it.

        A non-zero exit status is an outcome, not an exception. If the caller is cancelled, the container
        is removed before the cancel goes on.

        Args:
            spec: what to run, and how.

        Returns:
            The exit status, the seconds that it ran, and its output if that was to be captured.

        Raises:
            InvalidSpec: *spec* asks for what this engine can't do, or for what only `start` does.
            ImageNotFound: the engine does not have the image, and *spec* does not say to pull it.
            GpuUnavailable: a GPU is required, and there is none, or none such; nothing was created.
            RunError: the container could not be created or started, or its output could not be passed on;
                it was removed.
            RunTimeout: its time was up; it was removed, and the error has its output until then.
            StreamTruncated: its output was cut off; it was removed.
            OutcomeUnknown: it ended while the engine was not running, or was removed by somebody else.
            EngineError: the engine failed otherwise.
        """

    def start(self, spec: RunSpec, *, detach: bool = False) -> AbstractAsyncContextManager[Container]:
        """Start a container and have it in hand for the time of the context.

        On leaving it is removed, however that comes: it is killed, or first asked to end if the context is
        left without an exception and *spec* has a ``stop_timeout``.

        Args:
            spec: what to run, and how.
            detach: whether it is left running when the context is left; its output is then not carried, and
                its logs tell what it wrote.

        Returns:
            A context that gives the `Container`.

        Raises:
            InvalidSpec: *spec* asks for what this engine can't do.
            ImageNotFound: the engine does not have the image, and *spec* does not say to pull it.
            GpuUnavailable: a GPU is required, and there is none, or none such; nothing was created.
            RunError: the container could not be created or started; it was removed.
            RunTimeout: its time was up (on leaving); it was removed.
            EngineError: the engine failed otherwise.
        """

    async def container(self, name: str) -> Container:
        """Take a container in hand that is there already, such as one that was detached.

        Its output is not carried; its logs tell what it wrote.

        Args:
            name: the engine's ID or name of it.

        Raises:
            InvalidSpec: *name* can't be one.
            EngineError: there is no such container (status 404), or the engine failed.
        """

    def run_many(self, specs: Iterable[RunSpec], *, limit: int = 16) -> AsyncGenerator[RunResult]:
        """Run containers to their end, several at a time, and tell of each as it ends.

        One that fails is told like the others. Left early, or cancelled, it ends those that run, and begins
        no other; close it (``contextlib.aclosing``) to know when they are gone.

        Args:
            specs: what to run; taken one by one, when there is room.
            limit: the containers that run at once.

        Returns:
            An async iterator of results, in the order in which the containers end.

        Raises:
            InvalidSpec: *limit* is less than 1, or *specs* can't be iterated.
        """

    async def inspect(self, image: ImageDigest | ImageRef | OciRef | str) -> ImageMetadata:
        """Tell what the engine knows of an image.

        Args:
            image: a registry digest, an engine's image ID, or a reference.

        Returns:
            The digest to pin it by, its size in bytes in the engine, its labels and names.

        Raises:
            InvalidReference: a string that is neither a digest nor a reference.
            ImageNotFound: the engine has no such image.
            EngineError: the engine could not be asked.
            StoreError: the notes on what was loaded, kept in the local store, can't be read.
        """

    async def is_locally_available(self, image_ref: ImageRef | OciRef | str, digest: str) -> bool:
        """Tell whether the engine can run exactly the image *digest* names, now.

        Args:
            image_ref: the reference that it was pulled by, for messages; the digest decides.
            digest: the registry's digest, or the engine's ID.

        Returns:
            True if it can; False if it has no such image.

        Raises:
            InvalidReference: *digest* is not a digest, or *image_ref* not a reference.
            EngineError: the engine could not be asked; that is not "no".
            StoreError: the notes on what was loaded, kept in the local store, can't be read.
        """

    def gpu_args(self, profile: GpuProfile) -> list[str]:
        """Return the command-line arguments that say the same as *profile*, to show and to copy.

        Args:
            profile: the GPU that is wanted.

        Returns:
            Such as ``["--gpus", "all"]``; empty if none would be asked for.
        """

    def mount_args(self, mounts: Iterable[AnyMount]) -> list[str]:
        """Return the command-line arguments that say the same as *mounts*, to show and to copy.

        Args:
            mounts: what is to be mounted.

        Returns:
            ``--mount`` and its value for each, right also for paths with colons and commas.
        """

    async def ensure_layers(
        self,
        layers: Sequence[LayerSpec],
        progress: ProgressReporter | None = None,
        *,
        image: OciRef | str | None = None,
    ) -> None:
        """Bring each distinct layer into the local store, verified.

        Downloads only what is missing, concurrently, each digest once even across processes.

        Args:
            layers: what has to be there afterwards.
            progress: told what happens.
            image: the repository to fetch from where a layer has no ``blob_url``.

        Raises:
            InvalidReference: *image* is not a reference.
            InvalidSpec: a missing layer has no ``blob_url`` and no *image* was given.
            RegistryError: a download failed; what had arrived is kept. `RequestRefused` if a ``blob_url``
                or a redirect leads where no request may go.
            DigestMismatch: the bytes are not those of the digest.
            SizeMismatch: there are more or fewer bytes than declared.
            StoreError: the local store failed; `StoreFull` if there is no room for what is missing.
        """

    async def assemble_image(
        self,
        image: OciRef | str,
        layers: Sequence[LayerSpec],
        progress: ProgressReporter | None = None,
        *,
        platform: Platform | str | None = None,
        layering: Layering = "keep",
    ) -> ImageRef:
        """Make *image* runnable in the engine from blobs that are all in the store.

        The engine is sent only what it lacks. No network is needed when the image's manifest and config
        are in the store, as they are after a `pull`.

        Args:
            image: the reference.
            layers: the image's layers, base first.
            progress: told what happens.
            platform: what it shall run on, such as ``linux/arm64``; None for the engine's own.
            layering: as for `pull`.

        Returns:
            The name that the engine knows it by, and the registry's digest.

        Raises:
            InvalidReference: *image* is not a reference.
            LayersMissing: blobs are not in the store; nothing was sent.
            DigestMismatch: *image* has other layers than *layers*, or a blob in the store was altered; it
                is gone then, and `ensure_layers` fetches it again.
            InvalidManifest: the image, or a layer of it, can't be run.
            RegistryError: the image's documents are not in the store, and the registry failed.
            StoreError: the local store failed.
            ImageLoadFailed: the engine did not take it.
            EngineError: the engine failed otherwise.
        """

    async def compose_image(
        self,
        name: OciRef | str,
        images: Sequence[ImageDigest | ImageRef | OciRef | str] = (),
        progress: ProgressReporter | None = None,
        *,
        layers: Sequence[LayerSpec] = (),
        config: ImageConfig | None = None,
    ) -> ComposedImage:
        """Make a new image of the layers of several, and make it runnable in the engine.

        Nothing is built and no registry is asked. Each layer comes once, where it came first; of what two
        images have at one path, that of the later layer is found, and the path is reported. The same images
        and layers in the same order, with the same config, give the same digest.

        Args:
            name: what the new image is called; it takes the place of what was composed by that name before.
            images: references or registry digests of images that `pull` brought into the store by layers,
                all for one platform, the lowest first.
            progress: told what happens.
            layers: more layers, which are in the store, to be laid over the images.
            config: how containers start. What it does not give is that of the last image that has it;
                variables, labels, ports and volumes are those of all images, the last one's first.

        Returns:
            The image, known by *name* and by a digest to pin, and the paths that conflict: different in
            type, mode, owner, size, content, link target or device, or hidden by a whiteout, in layers that
            no image itself lays over each other. Times of change do not count.

        Raises:
            InvalidReference: *name* or one of *images* is not a reference.
            InvalidSpec: *name* has a digest, there are neither images nor layers, the images are for
                different platforms, or a layer's media type is not one of a layer.
            LayersMissing: an image or layer is not in the store; nothing was sent.
            DigestMismatch: a blob in the store was altered; it was put aside, and the next `pull` fetches it
                again. Or an image is broken at its source.
            InvalidManifest: a layer can't be unpacked, or engines would differ in how.
            StoreError: the local store failed.
            ImageLoadFailed: the engine did not take it.
            EngineError: the engine failed otherwise.
        """

    async def push(
        self,
        image: ImageDigest | ImageRef | OciRef | str,
        to: OciRef | str | None = None,
        progress: ProgressReporter | None = None,
    ) -> ImageDigest:
        """Push an image that is in the store, pulled or composed, to a registry, byte for byte.

        The engine is not asked. Of an image for several platforms, the manifest that was pulled is pushed.
        Layers that the repository has are not sent, those that the store knows from another repository of the
        registry are mounted from there, and an upload that breaks off goes on where it was.

        Args:
            image: a reference or registry digest of an image that is in the store with all its layers.
            to: the name to give it, with a registry; None for its own.
            progress: told the bytes that the registry has.

        Returns:
            The digest at the destination: that of the manifest, the same as here.

        Raises:
            InvalidReference: *image* or *to* is not a reference.
            InvalidSpec: *image* is a mere digest and *to* is not given.
            LayersMissing: the image, or a layer of it, is not in the store; nothing was sent.
            DigestMismatch: *to* has a digest that is another image's; a blob in the store was altered, and is
                gone then; or the registry says that it has taken something else.
            Unauthorized: the registry wants credentials, or others.
            RegistryError: the registry refused the image or failed. `RequestRefused` if it sends us where no
                request may go.
            StoreError: the local store can't be read.
        """

    # Beyond the trait: what of ours the engine holds.

    async def images(self) -> list[ImageMetadata]:
        """List the images that were brought into the engine from this store and are there now.

        The engine is asked at each call; what it no longer holds is forgotten.

        Returns:
            Each with its registry digest, size, labels, names and platform, the newest first; images that
            others loaded are left out.

        Raises:
            EngineError: the engine could not be asked.
            StoreError: the notes on what was loaded, kept in the local store, can't be read.
        """

    async def tag(self, image: ImageDigest | ImageRef | OciRef | str, name: OciRef | str) -> ImageRef:
        """Give an image in the engine a further name; an image that had that name loses it.

        Args:
            image: a registry digest, an engine's image ID, or a reference.
            name: a reference without digest; without tag, ``latest`` is meant.

        Returns:
            The name as the engine knows it, and the registry's digest.

        Raises:
            InvalidReference: *name* is not a reference or has a digest, or *image* is neither a digest nor
                a reference.
            ImageNotFound: the engine has no such image; `pull` it first.
            EngineError: the engine refused.
        """

    async def remove_image(self, image: ImageDigest | ImageRef | OciRef | str) -> None:
        """Remove an image from the engine; the store keeps its layers.

        Given a reference, only that name goes if the image has others.

        Args:
            image: a registry digest, an engine's image ID, or a reference.

        Raises:
            InvalidReference: a string that is neither a digest nor a reference.
            ImageNotFound: the engine has no such image.
            EngineError: the engine refused, for example since a container uses the image.
        """

    async def reap(self) -> ReapReport:
        """Remove the containers that programs left in this engine which were killed.

        Never one of a program that lives, be it stopped for hours, nor one that another store's programs run,
        nor one that merely has our labels. Any number of tasks and processes may call it at once.

        Returns:
            The engine's IDs of the containers that were removed, and what could not be removed, with reasons:
            also what a program asked for just before it was killed, and the engine may still be creating.

        Raises:
            EngineUnavailable: the engine can't be reached.
            StreamTruncated: it went away meanwhile; what is left goes next time.
            StoreError: the store, which knows whose containers are whose, can't be looked into.
        """

    def events(
        self,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        filters: Mapping[str, str | Sequence[str]] | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Follow what happens in the engine: ``async with runtime.events() as events: async for ...``.

        A connection that is cut or falls silent, or an engine that restarts, interrupts nothing: of what
        the engine still tells of that time, nothing is lost and nothing is given twice. Docker tells its
        last 256 events, and after a restart only new ones.

        Args:
            since: events from then on, as a time with a zone or in seconds since 1970; None for from now on.
            until: end when all events up to then were given; None to go on for ever.
            filters: which ones: values by name, such as ``{"type": "container", "event": ["die"]}``.

        Raises:
            InvalidSpec: *until* is before *since*, or a value is not of its kind.
            EngineUnavailable: the engine can't be reached, or (while iterating) was away for a minute.
            EngineError: it refused the filters (while iterating).
        """

    @property
    def volumes(self) -> Volumes:
        """The engine's volumes: ``await runtime.volumes.create("data")``, or for the time of a context
        ``async with runtime.volumes.temporary() as volume``.
        """

    @property
    def networks(self) -> Networks:
        """The engine's networks: ``await runtime.networks.create("net")``, or for the time of a context
        ``async with runtime.networks.temporary() as network``.
        """
