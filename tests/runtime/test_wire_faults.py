"""Faults between registry and store, on a real registry: corruption, cuts, two processes at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.support import killing
from tests.support.proxy import Fault, TcpProxy

if TYPE_CHECKING:
    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime

FETCH = """
import asyncio, sys
import aioruntime as ar
async def main(reference, store, url):
    # What breaks off is not tried again, so that the next process has something to do.
    async with (
        ar.RegistryClient(retries=0) as registry,
        ar.connect(url, store=store, registry=registry) as runtime,
    ):
        image = await runtime.resolve(reference)
        print("resolved")
        await runtime.ensure_layers(image.layers, image=image.reference)
asyncio.run(main(*sys.argv[1:]))
"""


def address(registry: LocalRegistry) -> tuple[str, int]:
    host, _, port = registry.host.partition(":")
    return host, int(port)


async def test_a_corrupted_blob_is_refused(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A byte altered on the way gives `DigestMismatch` naming digest and host, and nothing is stored."""
    async with TcpProxy(*address(registry)) as proxy:
        host = f"127.0.0.1:{proxy.port}"
        image = await runtime.resolve(f"{host}/tiny:1")
        bad = image.layers[0]
        proxy.add(Fault("corrupt", after=bad.size // 2, request=f"blobs/{bad.digest}"))

        with pytest.raises(ar.DigestMismatch, match=bad.digest) as caught:
            await runtime.pull(image.reference)

        assert host in str(caught.value)
        assert caught.value.expected == bad.digest != caught.value.actual
        assert not await runtime.store.has(bad.digest)
        assert await runtime.store.verify() == []
        await runtime.pull(image.reference)
        assert await runtime.store.has(bad.digest, bad.size)


async def test_a_cut_download_is_resumed_by_the_next_process(
    registry: LocalRegistry, store: ar.ImageStore, podman_engine: object
) -> None:
    """A download cut at half is resumed with `Range` by another process; what was kept is not asked again."""
    url = podman_engine.url  # type: ignore[attr-defined]
    async with TcpProxy(*address(registry)) as proxy:
        reference = f"127.0.0.1:{proxy.port}/tiny:1"
        async with ar.connect(url, store=store) as runtime:
            image = await runtime.resolve(reference)
        big = image.layers[0]
        proxy.add(Fault("cut", after=big.size // 2, request=f"blobs/{big.digest}"))
        program = killing.Program(FETCH, arguments=(reference, str(store.path), url))

        with pytest.raises(killing.ChildFailed, match="resumes"):
            await killing.run(program)
        await killing.run(program)

    answers = [(r.status, r.sent) for r in await registry.settle() if r.path.endswith(big.digest)]
    assert [status for status, _ in answers] == [200, 206]
    assert answers[1][1] == pytest.approx(big.size / 2, abs=1024)
    assert await store.missing(image.layers) == []
    assert await store.verify() == []


async def test_two_processes_fetch_each_blob_once(
    registry: LocalRegistry, store: ar.ImageStore, docker_engine: object
) -> None:
    """Two processes that want the same image at once download each blob once in all."""
    url = docker_engine.url  # type: ignore[attr-defined]
    reference = f"{registry.host}/samtools:gzip"
    program = killing.Program(FETCH, arguments=(reference, str(store.path), url))

    await asyncio.gather(killing.run(program), killing.run(program))

    async with ar.connect(url, store=store) as runtime:
        image = await runtime.resolve(reference)
    layers = {str(layer.digest): layer.size for layer in image.layers}
    sent = dict.fromkeys(layers, 0)
    for request in await registry.settle():
        digest = request.path.rpartition("/")[2]
        if request.method == "GET" and digest in layers:
            sent[digest] += request.sent
    assert sent == layers
