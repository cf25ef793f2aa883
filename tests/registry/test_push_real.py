"""Pushing to a registry as people run it: Debian's docker-registry, behind each kind of door."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import TYPE_CHECKING

import pytest

from aioruntime.demo.registry import LocalRegistry
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.tasks import in_thread
from tests.registry.uploads import Image, InstantClock
from tests.support.proxy import Fault, TcpProxy
from tests.support.served_image import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioruntime.demo.registry import Request
    from tests.support.registries import Guarded

random_bytes = random.Random(5).randbytes
LARGE = random_bytes((9 << 20) + 1)


async def push(client: RegistryClient, image: Image, name: str, *mounts: str) -> str:
    reference = OciRef.parse(name)
    return await client.push(
        reference,
        image.manifest,
        image.media_type,
        image.blobs,
        image,
        mounts={blob: repository for repository in mounts for blob in image.data},
    )


async def settled(guarded: Guarded, client: RegistryClient) -> tuple[Request, ...]:
    """All that was answered before is in the registry's log; give it, without the question that tells so."""
    marker = secrets.token_hex(8)
    await client.exists(OciRef.parse(f"{guarded.host}/marker:{marker}"))
    async with asyncio.timeout(60):
        while not await in_thread(guarded.registry._has_settled, marker):  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # another process's file: nothing to wait on
    return tuple(request for request in guarded.registry.requests() if "/marker/" not in request.path)


async def assert_pulled(client: RegistryClient, image: Image, name: str) -> None:
    """What the registry has under *name* is *image*, byte for byte."""
    reference = OciRef.parse(name)
    document = await client.document(reference, reference.selector)
    assert (document.raw, document.media_type) == (image.manifest, image.media_type)
    for blob in image.blobs:
        async with client.blob(reference, blob) as stream:
            assert b"".join([chunk async for chunk in stream]) == image.data[blob.digest]


async def test_push_and_pull(guarded: Guarded) -> None:
    """What is pushed is pulled byte for byte; again nothing is sent, and elsewhere it is mounted."""
    image = Image(LARGE, random_bytes(1000), b"")
    async with RegistryClient(**guarded.options) as client:
        assert not await client.exists(OciRef.parse(f"{guarded.host}/lab/new:1"))
        assert await push(client, image, f"{guarded.host}/lab/new:1") == image.digest
        first = len(await settled(guarded, client))
        await push(client, image, f"{guarded.host}/lab/new:2")
        second = len(await settled(guarded, client))
        await push(client, image, f"{guarded.host}/lab/other:1", "lab/new")
        third = await settled(guarded, client)

        for name in ("lab/new:1", f"lab/new:2@{image.digest}", "lab/other:1"):
            assert await client.exists(OciRef.parse(f"{guarded.host}/{name}"))
            await assert_pulled(client, image, f"{guarded.host}/{name}")
        assert {tag async for tag in client.tags(OciRef.parse(f"{guarded.host}/lab/new"))} == {"1", "2"}

    again = [(r.method, r.status) for r in third[first:second] if r.status != 401]
    assert sorted(again) == [("HEAD", 200)] * 4 + [("PUT", 201)]
    posts = [r for r in third[second:] if r.method == "POST" and r.status != 401]
    assert [r.status for r in posts] == [201] * 4
    assert all("mount=sha256:" in r.path and "from=lab/new" in r.path for r in posts)
    assert {r.method for r in third[second:]} <= {"HEAD", "POST", "PUT"}
    assert [r.path for r in third[second:] if r.method == "PUT"] == ["/v2/lab/other/manifests/1"]


async def test_behind_a_mirror(guarded: Guarded) -> None:
    """A push goes past the mirror; what the mirror has is pulled from there, the rest from the registry."""
    half, rest = LARGE[: 5 << 20], random_bytes(70_000)
    path = f"lab/mirrored-{secrets.token_hex(4)}"
    name = f"{path}:1"
    image = Image(half, rest)
    async with LocalRegistry() as mirror, RegistryClient() as plain:
        await push(plain, Image(half), f"{mirror.host}/{name.replace(':1', ':half')}")
        filled = len(await mirror.settle())
        options = {**guarded.options, "mirrors": {guarded.host: [mirror.host]}, "plain_http": [mirror.host]}
        async with RegistryClient(**options) as client:
            await push(client, image, f"{guarded.host}/{name}")
            pushed = await mirror.settle()
            await assert_pulled(client, image, f"{guarded.host}/{name}")
        asked = (await mirror.settle())[len(pushed) :]

    assert len(pushed) == filled
    assert [digest for digest in image.data if f"/v2/{path}/blobs/{digest}" in given(asked)] == [
        digest for digest in image.data if digest != digest_of(rest)
    ]


def given(requests: Sequence[Request]) -> set[str]:
    return {request.path for request in requests if (request.method, request.status) == ("GET", 200)}


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("after", [0, 1, 1 << 19, (1 << 20) - 1])
async def test_cut_on_the_way(method: str, after: int) -> None:
    """A push survives a connection that breaks at a body's first byte, in the middle or at its last one."""
    image = Image(LARGE) if method == "PATCH" else Image(LARGE[: 1 << 20])
    async with LocalRegistry() as registry, RegistryClient(clock=InstantClock()) as client:
        host, port = registry.host.split(":")
        async with TcpProxy(host, int(port)) as proxy:
            pattern = rf"{method} /v2/tool/blobs/uploads/"
            fault = proxy.add(Fault("reset", after, "up", request=pattern))
            await push(client, image, f"{proxy.origin}/tool:1")
        assert fault.reached.is_set()
        await assert_pulled(client, image, f"{registry.host}/tool:1")


async def test_many_tags() -> None:
    """All of 250 tags are listed."""
    image = Image()
    names = [f"t{number:03}" for number in range(250)]
    async with LocalRegistry() as registry, RegistryClient() as client:
        await push(client, image, f"{registry.host}/tool:t000")
        for start in range(1, 250, 16):
            async with asyncio.TaskGroup() as group:
                for name in names[start : start + 16]:
                    group.create_task(push(client, image, f"{registry.host}/tool:{name}"))
        found = [tag async for tag in client.tags(OciRef.parse(f"{registry.host}/tool"))]

    assert sorted(found) == names
