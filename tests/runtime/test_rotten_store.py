"""A store whose disk forgets: no engine ever gets a wrong layer, and the pull that finds one mends it."""

from __future__ import annotations

import errno
import os
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.assembly import load
from aioruntime.assembly.fetch import fetch_layers
from aioruntime.runtime.connect import connect
from aioruntime.store import files
from aioruntime.store.remedies import explained
from tests.runtime.test_contract import shell
from tests.store.helpers import blob_path, put_aside
from tests.store.test_verify import flip
from tests.support.seeds import seed
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

SEED = 24  # unless the environment says otherwise
DATA = "cat /data/one /data/two | head -c 12000"


async def filled(runtime: EngineRuntime, name: str) -> ar.ResolvedImage:
    """Have all of the image in the store, and nothing in the engine."""
    image = await runtime.resolve(name)
    await runtime.ensure_layers(image.layers, image=image.reference)
    return image


def flip_some(store: ar.ImageStore, layers: Iterable[ar.LayerSpec]) -> None:
    rng = random.Random(seed(SEED))
    for layer in layers:
        flip(blob_path(store, layer.digest), rng)


async def fetched(registry: LocalRegistry, image: ar.ResolvedImage) -> list[str]:
    """The layers that the registry was asked for since it runs, each as often."""
    layers = {layer.digest for layer in image.layers}
    digests = [seen.path.rpartition("/")[2] for seen in await registry.settle() if seen.method == "GET"]
    return sorted(digest for digest in digests if digest in layers)


@contextmanager
def hidden(storage: Path, digest: ar.ImageDigest) -> Iterator[None]:
    """Have the registry without that blob for the time of the context."""
    [blob] = storage.rglob(f"{digest.hex}/data")
    elsewhere = blob.with_name("hidden")
    blob.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(blob)


async def test_bits_flipped_in_all_layers(
    engine: Engine, registry: LocalRegistry, store: ar.ImageStore
) -> None:
    """L6, T24: a pull from a store with a bit flipped in every layer loads the right ones, fetched once more.

    After a restart, the store has them.
    """
    async with connect(engine.url, store=store) as runtime:
        image = await filled(runtime, f"{registry.host}/tiny:1")
    layers = sorted(layer.digest for layer in image.layers)
    flip_some(store, image.layers)
    for times in (2, 2):
        async with connect(engine.url, store=store.path) as runtime:
            await runtime.pull(image.reference)
            assert (await shell(runtime, image.reference, DATA)).stdout == b"1" * 5000 + b"2" * 7000
            assert await fetched(registry, image) == sorted(times * layers)
            assert await runtime.store.verify() == []
            await remove_images(runtime)
    assert sorted(name.partition(".")[0] for name in put_aside(store)) == [digest[7:] for digest in layers]


@pytest.mark.parametrize(("tag", "layering"), [("gzip", "keep"), ("zstd", "merge")])
async def test_bits_flipped_in_a_tool(
    runtime: EngineRuntime, registry: LocalRegistry, tag: str, layering: Any
) -> None:
    """L6, T24: of 55 layers, merged or not, those that rotted are found, fetched again, and the tool runs."""
    image = await filled(runtime, f"{registry.host}/samtools:{tag}")
    before = await fetched(registry, image)
    rotten = random.Random(seed(SEED)).sample(image.layers, 7)
    flip_some(runtime.store, rotten)

    await runtime.pull(image.reference, layering=layering)

    spec = ar.RunSpec(image.reference, ["samtools", "--version"], capture_output=True)
    assert (await runtime.run(spec)).stdout.startswith(b"samtools 1.16.1\n")
    again = sorted(str(layer.digest) for layer in rotten)
    assert await fetched(registry, image) == sorted([*before, *again])
    assert await runtime.store.verify() == []


async def test_an_image_that_the_engine_holds(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """L6: what `verify` put aside is fetched by the next pull, though the engine needs none of it."""
    image = await runtime.resolve(f"{registry.host}/tiny:1")
    await runtime.pull(image.reference)
    damaged = sorted([image.manifest_digest, image.manifest.config.digest, image.layers[0].digest])
    for digest in damaged:
        flip(blob_path(runtime.store, digest), random.Random(seed(SEED)))
    assert await runtime.store.verify(repair=True) == damaged

    await runtime.pull(image.reference)

    assert [each.missing for each in await runtime.store.images()] == [()]
    assert await runtime.store.verify() == []


async def test_no_files_where_blobs_were(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """L7: a FIFO, a directory and a link in the places of manifest, config and layer: the pull mends them."""
    image = await runtime.resolve(f"{registry.host}/tiny:1")
    await runtime.pull(image.reference)
    await remove_images(runtime)
    places: list[Path] = [
        blob_path(runtime.store, digest)
        for digest in (image.manifest_digest, image.manifest.config.digest, image.layers[1].digest)
    ]
    for place in places:
        place.unlink()
    os.mkfifo(places[0])
    places[1].mkdir()
    places[2].symlink_to("/etc/passwd")

    await runtime.pull(image.reference)

    assert (await shell(runtime, image.reference, DATA)).stdout == b"1" * 5000 + b"2" * 7000
    assert await runtime.store.verify() == []
    assert sorted(name.partition(".")[0] for name in put_aside(runtime.store)) == sorted(
        place.name for place in places
    )


async def test_a_disk_that_goes_on_forgetting(
    runtime: EngineRuntime, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L6: a layer that is wrong again once it was fetched again is an error, no loop; nothing is loaded."""
    image = await filled(runtime, f"{registry.host}/tiny:1")
    fetches = 0

    async def forgotten(*arguments: Any, **named: Any) -> Any:
        nonlocal fetches
        fetches += 1
        report = await fetch_layers(*arguments, **{**named, "arrivals": None})
        flip_some(runtime.store, image.layers[:1])
        for layer in image.layers:
            named["arrivals"].arrived(layer.digest)
        return report

    monkeypatch.setattr("aioruntime.runtime.session.fetch_layers", forgotten)
    with pytest.raises(ar.DigestMismatch, match=image.layers[0].digest.hex):
        await runtime.pull(image.reference)

    assert fetches == 2
    assert not await runtime.is_locally_available(image.reference, image.digest)
    assert await runtime.store.missing(image.layers) == [image.layers[0]]


async def test_a_registry_that_is_gone(
    runtime: EngineRuntime, registry: LocalRegistry, registry_storage: Path
) -> None:
    """L6: what rotted and can't be fetched again is an error that says so; the next pull mends it."""
    image = await filled(runtime, f"{registry.host}/tiny:1")
    flip_some(runtime.store, image.layers[:1])
    lost = image.layers[0].digest
    with hidden(registry_storage, lost), pytest.raises(ar.RegistryError, match=lost.hex) as caught:
        await runtime.pull(image.reference)
    assert any(f"{lost.hex} was altered" in note for note in caught.value.__notes__)
    assert not await runtime.is_locally_available(image.reference, image.digest)

    await runtime.pull(image.reference)
    assert (await shell(runtime, image.reference, DATA)).stdout == b"1" * 5000 + b"2" * 7000


async def test_assembled_without_a_network(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """L6: `assemble_image` fetches nothing: what rotted is an error, and put aside for `ensure_layers`."""
    image = await filled(runtime, f"{registry.host}/tiny:1")
    before = await fetched(registry, image)
    flip_some(runtime.store, image.layers[:1])
    with pytest.raises(ar.DigestMismatch, match=image.layers[0].digest.hex):
        await runtime.assemble_image(image.reference, image.layers)
    assert await fetched(registry, image) == before
    assert not await runtime.is_locally_available(image.reference, image.digest)

    await runtime.ensure_layers(image.layers, image=image.reference)
    await runtime.assemble_image(image.reference, image.layers)
    assert (await shell(runtime, image.reference, DATA)).stdout == b"1" * 5000 + b"2" * 7000


async def test_no_descriptor_left(
    engine: Engine, registry: LocalRegistry, store: ar.ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that can't be opened for want of descriptors is told as that; no layer is suspected."""
    async with connect(engine.url, store=store) as runtime:
        image = await filled(runtime, f"{registry.host}/tiny:1")
        path = blob_path(store, image.layers[0].digest)
        opened, looked = files.open_regular, []

        def refuse(there: Path) -> files.File | None:
            if there == path:
                cause = OSError(errno.EMFILE, "Too many open files")
                raise explained(cause, there) from cause
            return opened(there)

        async def look(*_: object) -> list[ar.ImageDigest]:
            looked.append("a layer")
            return []

        monkeypatch.setattr(files, "open_regular", refuse)
        monkeypatch.setattr(load, "discard_damaged", look)
        with pytest.raises(ar.StoreError, match="ulimit -n"):
            await runtime.pull(image.reference)
        assert looked == []
        monkeypatch.undo()
        await runtime.pull(image.reference)
