"""Images that share most of their layers, in a layout and in a registry."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.demo.images import write_image, write_index
from aioruntime.demo.layers import files_layer
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from aioruntime.demo.blobs import Layer
    from aioruntime.demo.images import BuiltImage
    from aioruntime.demo.registry import LocalRegistry

_REPOSITORY = "crowd/images"
_SHARED = 6
_LARGE = 2 * 2**20


@dataclass(frozen=True, slots=True)
class Known:
    """An image that was pushed: how to pull it, its name in a layout of its own, and what it consists of."""

    reference: str
    local: str
    layout: Path
    digest: ImageDigest
    blobs: frozenset[ImageDigest]
    layers: frozenset[ImageDigest]

    @property
    def name(self) -> str:
        """What the store calls it once it is pulled."""
        return OciRef.parse(self.reference).canonical


async def publish(registry: LocalRegistry, layout: Path, count: int) -> list[Known]:
    """Push *count* images; each layer but one is in several of them. *layout* gets the layouts of all."""
    built = await in_thread(_build, layout, count)
    reference = await registry.push(layout / "all", "all", f"{_REPOSITORY}:all")  # in one go
    repository = reference.removesuffix(":all")
    return [_known(image, repository, layout / str(number)) for number, image in enumerate(built)]


def _known(image: BuiltImage, repository: str, layout: Path) -> Known:
    manifest, config = ImageDigest(image.manifest.digest), ImageDigest(image.config.digest)
    layers = frozenset(ImageDigest(layer.digest) for layer in image.layers)
    reference = f"{repository}@{manifest}"
    return Known(reference, str(image.name), layout, manifest, layers | {manifest, config}, layers)


def _build(layout: Path, count: int) -> list[BuiltImage]:
    pool = [_layer(f"shared/{number}", _LARGE if number % 6 == 0 else 40_000) for number in range(count + 2)]
    images = []
    for number in range(count):
        shared = [pool[(number + step) % len(pool)] for step in range(_SHARED)]
        own = _layer(f"own/{number}", 20_000)
        name = f"crowd.test/image:{number}"
        write_image(layout / str(number), name, [*shared, own])
        images.append(write_image(layout / "all", name, [*shared, own]))
    write_index(layout / "all", "all", images)
    return images


def _layer(path: str, size: int) -> Layer:
    return files_layer({path: random.Random(path).randbytes(size)}, "none")
