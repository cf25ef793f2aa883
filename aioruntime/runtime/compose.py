"""Compose an image from others that are in the store, and make it runnable (L4)."""

from __future__ import annotations

__all__ = ("Composed", "compose")

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.compose import Source, compose_config, one_platform, stack_layers
from aioruntime.assembly.conflicts import find_conflicts
from aioruntime.assembly.damage import discard_damaged
from aioruntime.assembly.derive import derive_image
from aioruntime.assembly.inflate import measure
from aioruntime.assembly.load import LoadReport
from aioruntime.errors import DigestMismatch, InvalidSpec
from aioruntime.oci.image import ComposedImage, ImageRef
from aioruntime.runtime.kept import check_there, kept_image, shown
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import LayerSpec
    from aioruntime.oci.image_config import ImageConfig
    from aioruntime.oci.reference import OciRef
    from aioruntime.progress import ProgressReporter
    from aioruntime.runtime.locate import ImageTarget
    from aioruntime.runtime.session import Session
    from aioruntime.store.store import ImageStore

# Reading archives is bound by the processor; two at a time leave room for the loop.
_READERS = 2


@dataclass(frozen=True, slots=True)
class Composed:
    """What composing an image came to: the image, its layers, how many are shared, and what loading took."""

    image: ComposedImage
    layers: int
    shared: int
    loaded: LoadReport


async def compose(
    session: Session,
    name: OciRef,
    targets: Sequence[ImageTarget],
    layers: Sequence[LayerSpec],
    config: ImageConfig | None,
    progress: ProgressReporter,
) -> Composed:
    """Do what `ContainerRuntime.compose_image` promises."""
    _check(name, targets, layers)
    store = session.store
    here = session.client.capabilities.platform
    images = [(shown(target), await kept_image(session, target)) for target in targets]
    platform = one_platform(images, here)
    needed = (*layers, *(layer for _, image in images for layer in image.layers))
    async with store.lease([layer.digest for layer in needed]):
        await check_there(store, layers, "the added layers", "ensure_layers")
        try:
            sources = [Source.image(shown, image) for shown, image in images]
            stack = stack_layers([*sources, *await _measured(store, layers)])
            conflicts = await find_conflicts(store, stack, str(name), progress)
        except DigestMismatch:
            # A blob rotted on disk: without it, the next pull fetches it again.
            await discard_damaged(store, needed)
            raise
        document = compose_config([image for _, image in images], platform, config)
        image = derive_image(name, document, stack.layers)
        async with session.using(image):
            await keep_image(store, image)
            loaded = await session.assemble(image, progress, "keep")
    composed = ComposedImage(ImageRef(loaded.name, image.digest), conflicts)
    return Composed(composed, len(stack.layers), stack.shared, loaded)


def _check(name: OciRef, targets: Sequence[ImageTarget], layers: Sequence[LayerSpec]) -> None:
    if name.digest is not None:
        raise InvalidSpec(f"{name} has a digest; what is composed gets one, give it a name and a tag only")
    if isinstance(targets, str):
        raise InvalidSpec(f"images is one string; give a list, such as [{targets!r}]")
    if not targets and not layers:
        raise InvalidSpec(f"{name} would be composed of nothing; give images, or layers")


async def _measured(store: ImageStore, layers: Iterable[LayerSpec]) -> list[Source]:
    """Find out the diff IDs of layers that no image tells them of."""
    limiter = anyio.CapacityLimiter(_READERS)
    found: dict[ImageDigest, Source] = {}

    def read(layer: LayerSpec) -> Source:
        with store.open_blob(layer.digest) as blob:
            return Source.layer(layer, measure(blob, layer).diff_id)

    async def work(layer: LayerSpec) -> None:
        async with aclosing(store.stream(layer.digest, layer.size)) as pieces:
            async for _ in pieces:  # for its hash: no config tells what an altered one held before
                pass
        found[layer.digest] = await in_thread(read, layer, limiter=limiter)

    distinct = {layer.digest: layer for layer in layers}
    async with task_group() as group:
        for layer in distinct.values():
            group.start_soon(work, layer)
    return [found[digest] for digest in distinct]
