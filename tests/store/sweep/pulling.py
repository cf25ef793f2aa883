"""Pulling from a registry while calls of the store fail."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.fetch import fetch_layers
from aioruntime.demo.registry import LocalRegistry
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress
from aioruntime.registry.client import RegistryClient
from tests.store.helpers import ROOT
from tests.store.sweep import world
from tests.store.sweep.operations import Operation
from tests.store.sweep.world import PART, PIECE, SHARED, Place
from tests.support.layouts import write_layout
from tests.support.served_image import make_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.sweep.record import Record

_LAYERS = (SHARED, PART, world.data(2 * PIECE + 3, 21), b"tiny")
_CONTENTS = make_image("tool", "1", _LAYERS)
_host = ""


@contextmanager
def registry() -> Iterator[None]:
    """Run a registry in a process of its own, so that the one which forks has no loop and no threads."""
    global _host
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        _host = serving.stdout.readline().strip()
        assert _host
        yield
        serving.communicate()


async def _pull(place: Place, record: Record) -> None:
    store = place.store
    reference = OciRef.parse(f"{_host}/tool:1")
    async with RegistryClient() as client:
        image = await client.resolve(reference)
        await fetch_layers(
            image.layers,
            image=reference,
            source=client,
            store=store,
            progress=NoopProgress(),
            connections=anyio.CapacityLimiter(1),
        )
        await keep_image(store, image)


async def _check_pulled(place: Place, record: Record) -> None:
    if record.said("end"):
        named = (await place.store.references())[f"{_host}/tool:1"]
        assert await place.store.read(named.digest) == _CONTENTS["/v2/tool/manifests/1"]
        for data in _LAYERS:
            assert await place.store.read(ImageDigest.of(data)) == data


PULL = Operation("pull", _pull, _check_pulled, partials=())


async def _serve() -> None:
    with tempfile.TemporaryDirectory() as directory:
        layout = Path(directory) / "layout"
        write_layout(layout, _CONTENTS)
        async with LocalRegistry() as running:
            await running.push(layout, "tool", "tool:1")
            print(running.host, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
