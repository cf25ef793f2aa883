"""Images deeper than an engine allows, and layers merged because the caller asks: on every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import write_image
from aioruntime.tasks import in_thread
from tests.support.tools import tiny_files

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

LIST = "ls /data; cat /data/*; cat /first; ls -d /gone"


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


async def deep_image(registry: LocalRegistry, layout: Path, count: int) -> ar.OciRef:
    """An image of *count* layers: a shell, then one file a layer, one of them removed by the last."""
    layers: list[dict[str, bytes]] = [tiny_files(), {"first": b"x", "gone": b"soon"}]
    layers += [{f"data/{number:03}": b"%d\n" % number} for number in range(count - 3)]
    layers.append({".wh.gone": b"", "first": b"last\n"})
    await in_thread(write_image, layout, "deep", layers, ImageConfig(env=("PATH=/bin",)))
    return ar.OciRef.parse(await registry.push(layout, "deep", f"deep:{count}"))


async def listed(runtime: EngineRuntime, image: ar.OciRef | ar.ImageRef) -> list[str]:
    outcome = await runtime.run(ar.RunSpec(image, ["sh", "-c", LIST], capture_output=True))
    assert b"/gone" in outcome.stderr, "the whiteout of the last layer hides it"
    return outcome.stdout.decode().split()


@pytest.mark.slow
@pytest.mark.parametrize("count", [150, 300])
async def test_a_deep_image_runs(
    runtime: EngineRuntime, registry: LocalRegistry, tmp_path: Path, count: int
) -> None:
    """An image of more layers than the engine can have runs, and the digest to pin finds it."""
    image = await deep_image(registry, tmp_path / "layout", count)

    digest = await runtime.pull(image)

    numbers = range(count - 3)
    expected = [*(f"{number:03}" for number in numbers), *map(str, numbers), "last"]
    assert await listed(runtime, image) == expected
    assert await runtime.is_locally_available(image, digest)
    assert (await runtime.inspect(digest)).digest == digest
    pinned = ar.OciRef(image.registry, image.repository, digest=digest)
    assert await listed(runtime, pinned) == expected


async def test_merging_when_asked(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """With `layering="merge"` the image runs as it would without; pulled again, nothing is sent."""
    said: list[str] = []

    class Said(ar.NoopProgress):
        def finish(self, message: str) -> None:
            said.append(message)

    image = ar.OciRef.parse(f"{registry.host}/samtools:zstd")
    digest = await runtime.pull(image, Said(), layering="merge")
    outcome = await runtime.run(ar.RunSpec(image, ["samtools", "--version"], capture_output=True))
    again = await runtime.pull(image, Said(), layering="merge")

    assert outcome.stdout.startswith(b"samtools 1.16.1\n")
    assert again == digest == (await runtime.resolve(image)).digest
    assert said[0].endswith("55 layers merged into 4")
    assert ", 0 bytes sent to " in said[1]


async def test_a_layering_that_is_none(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Another word is refused before anything is fetched."""
    with pytest.raises(ar.InvalidSpec, match="'keep' or 'merge'"):
        await runtime.pull(f"{registry.host}/tiny:1", layering="flatten")  # type: ignore[arg-type]
