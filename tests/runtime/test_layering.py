"""Images deeper than an engine allows, and layers merged because the caller asks: on every engine."""

from __future__ import annotations

import random
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import write_image
from aioruntime.tasks import in_thread
from tests.assembly.stacks import add_stack, entry, packed, unpacked, write_layout
from tests.support.exported import CAPABILITY, exported
from tests.support.proxy import UnixProxy
from tests.support.said import Said
from tests.support.tools import tiny_files

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.assembly.stacks import Entry
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
@pytest.mark.parametrize("count", [150, pytest.param(300, marks=pytest.mark.full)])
async def test_a_deep_image_runs(
    runtime: EngineRuntime, registry: LocalRegistry, tmp_path: Path, count: int
) -> None:
    """An image of more layers than the engine can have runs, and the digest to pin finds it.

    It is one that Docker with a graph driver fails to pull by itself.
    """
    image = await deep_image(registry, tmp_path / "layout", count)
    if runtime._client.capabilities.image_store == "graph":
        with pytest.raises(ar.EngineError, match="max depth exceeded"):
            await runtime.pull(image, via="engine")

    digest = await runtime.pull(image)

    numbers = range(count - 3)
    expected = [*(f"{number:03}" for number in numbers), *map(str, numbers), "last"]
    assert await listed(runtime, image) == expected
    assert await runtime.is_locally_available(image, digest)
    assert (await runtime.inspect(digest)).digest == digest
    pinned = ar.OciRef(image.registry, image.repository, digest=digest)
    assert await listed(runtime, pinned) == expected


@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(150, marks=pytest.mark.full), 300])
async def test_a_deep_image_is_what_its_layers_say(
    runtime: EngineRuntime, registry: LocalRegistry, tmp_path: Path, count: int
) -> None:
    """THREATS I7, T15: files, modes, owners, links, capabilities are those of an independent unpacking."""
    rng = random.Random(count)
    layers: list[list[Entry]] = [[] for _ in range(count)]
    for number in range(3):
        add_stack(rng, f"stack{number}", layers)
    capability = {f"SCHILY.xattr.{CAPABILITY}": "\x01\0\0\x02\0\x04" + "\0" * 14}
    layers[count - 2].append(entry("stack0/capable", data=b"x", pax_headers=capability))
    archives = [packed(taken(layer)) for layer in layers]
    write_layout(tmp_path / "layout", archives)
    image = await registry.push(tmp_path / "layout", "x", f"deep-tree:{count}")

    await runtime.pull(image)
    found = await exported(runtime._client, (await runtime.inspect(image)).references[0])

    (tmp_path / "judge").mkdir()
    expected = {name: comparable(seen) for name, seen in unpacked(tmp_path / "judge", archives).items()}
    assert expected["stack0/capable"][4] != {}
    ours = {name: seen for name, seen in found.items() if name.startswith("stack")}
    assert {n for n in ours.keys() | expected.keys() if ours.get(n) != expected.get(n)} == set()


def taken(layer: list[Entry]) -> list[Entry]:
    """What every engine takes of a random layer.

    Docker wants no path twice in a layer; containerd no whiteout beside a path through what it hides, nor a
    directory that is merely implied where a lower layer has a file.
    """
    once = {info.name: (info, data) for info, data in layer}
    hidden = [name for name in once if "/.wh." in name and not name.endswith(".wh..wh..opq")]
    for name in hidden:
        path = name.replace("/.wh.", "/")
        if any(other == path or other.startswith(f"{path}/") for other in once):
            del once[name]
    whole: dict[str, Entry] = {}
    for name, each in once.items():
        for parent in list(reversed(PurePosixPath(name).parents))[1:]:
            whole.setdefault(str(parent), once.get(str(parent)) or entry(str(parent), tarfile.DIRTYPE))
        whole[name] = each
    return list(whole.values())


def comparable(seen: tuple[object, ...]) -> tuple[object, ...]:
    """What the judge saw, without the attributes that engines do not export."""
    attributes = seen[4]
    assert isinstance(attributes, dict)
    kept = {name: value for name, value in attributes.items() if name == CAPABILITY}
    return (*seen[:4], kept, *seen[5:])


async def test_what_is_shared_is_not_sent(
    runtime: EngineRuntime, registry: LocalRegistry, engine: Engine, tmp_path: Path
) -> None:
    """Samtools loaded, bcftools wanted: under 1 MiB goes to the engine, counted at its socket and ours."""
    said = Said()

    # Docker 20.10 can't read zstd, and gets those layers inflated.
    compression = "zstd" if runtime._client.capabilities.reads_zstd else "gzip"
    await runtime.pull(f"{registry.host}/samtools:{compression}")
    async with UnixProxy(tmp_path / "s", engine.socket) as proxy:
        async with type(runtime)(proxy.url, store=runtime.store) as counted:
            await counted.pull(f"{registry.host}/bcftools:{compression}", said)
        # Who takes any layer alone comes for it to a socket of ours.
        served = 0 if runtime._client.capabilities.sparse == "prefix" else said.sent_bytes
        assert 0 < proxy.up + served < 2**20


async def test_merging_when_asked(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """With `layering="merge"` the image runs as it would without; pulled again, nothing is sent."""
    said = Said()

    image = ar.OciRef.parse(f"{registry.host}/samtools:zstd")
    digest = await runtime.pull(image, said, layering="merge")
    outcome = await runtime.run(ar.RunSpec(image, ["samtools", "--version"], capture_output=True))
    again = await runtime.pull(image, said, layering="merge")

    assert outcome.stdout.startswith(b"samtools 1.16.1\n")
    assert again == digest == (await runtime.resolve(image)).digest
    assert said.messages[0].endswith("55 layers merged into 4")
    assert said.sent_bytes == 0


async def test_a_layering_that_is_none(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Another word is refused before anything is fetched."""
    with pytest.raises(ar.InvalidSpec, match="'keep' or 'merge'"):
        await runtime.pull(f"{registry.host}/tiny:1", layering="flatten")  # type: ignore[arg-type]
