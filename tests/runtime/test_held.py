"""What of ours an engine holds: found by the digest a user pins, whatever others do to engine and store."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.engine import containers
from aioruntime.engine.images import pull_image
from aioruntime.tasks import task_group
from tests.conftest import started
from tests.support.said import Said
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

NOWHERE = "sha256:" + "0" * 64


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


async def raw(runtime: EngineRuntime, method: str, path: str, **params: str) -> Any:
    """Ask the engine as another client would, past everything that the runtime knows."""
    return await runtime._client.json(method, path, params=params)


async def runs(runtime: EngineRuntime, image: ar.OciRef | ar.ImageRef | str, script: str) -> bytes:
    outcome = await runtime.run(ar.RunSpec(image, ["sh", "-c", script], capture_output=True))
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stdout


# images, tag, remove_image


async def test_images_lists_ours(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """`images` gives each image that we loaded, newest first, as `inspect` describes it; nothing else."""
    assert await runtime.images() == []
    names = [f"{registry.host}/tiny:{tag}" for tag in ("0", "1", "index")]
    digests = [await runtime.pull(name) for name in names]
    await pull_image(runtime._client, f"{registry.host}/tiny:2")

    listed = await runtime.images()

    # tiny:1 is what the index names for this platform: one image, found by both digests.
    assert [image.digest for image in listed] == [digests[2], digests[0]]
    for image in listed:
        described = await runtime.inspect(image.digest)
        assert (image.id, image.labels, image.platform) == (
            described.id,
            described.labels,
            described.platform,
        )
        assert sorted(image.references) == sorted(described.references)
        assert image.size_bytes is not None
        assert image.size_bytes > 0
    assert listed[0].labels == {"tiny": "yes"}
    assert set(names[1:]) <= set(listed[0].references)


async def test_images_forgets_what_is_gone(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """An image that another client removed is listed no more, nor remembered; a nameless one is listed."""
    gone = await runtime.pull(f"{registry.host}/tiny:0")
    stays = await runtime.pull(f"{registry.host}/tiny:1")
    await raw(runtime, "DELETE", f"/images/{(await runtime.inspect(gone)).id}", force="1")
    await pull_image(runtime._client, f"{registry.host}/tiny:2")
    other = await raw(runtime, "GET", f"/images/{registry.host}/tiny:2/json")
    await raw(runtime, "POST", f"/images/{other['Id']}/tag", repo=f"{registry.host}/tiny", tag="1")

    listed = await runtime.images()

    assert [(image.digest, image.references) for image in listed] == [(stays, ())]
    assert [image.digests[0] for image in await runtime._open.memory.recall()] == [stays]


async def test_tag_gives_a_name(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A tagged image has both names, by digest, ID, reference and `ImageRef`; the name alone can go again."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    digest = await runtime.pull(image)
    engine_id = (await runtime.inspect(digest)).id
    assert engine_id is not None

    named = await runtime.tag(digest, "example.org/mine/tool:7")
    assert named == ar.ImageRef("example.org/mine/tool:7", digest)
    assert await runtime.tag(image, "tool") == ar.ImageRef("docker.io/library/tool:latest", digest)
    assert (await runtime.tag(engine_id, ar.OciRef.parse("example.org/by-id:1"))).digest == digest
    assert (await runtime.tag(named, "example.org/by-ref:1")).digest == digest

    assert await runs(runtime, "tool", "echo $FROM_IMAGE") == b"yes\n"
    assert (await runtime.inspect("example.org/mine/tool:7")).digest == digest
    assert len((await runtime.images())[0].references) == 5
    await runtime.remove_image("example.org/mine/tool:7")
    with pytest.raises(ar.ImageNotFound):
        await runtime.inspect("example.org/mine/tool:7")
    assert await runtime.is_locally_available(image, digest)


async def test_tag_takes_a_name_over(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A name given to another image means that image from then on, and the first is still found by digest."""
    first, second = [await runtime.pull(f"{registry.host}/tiny:{tag}") for tag in ("1", "2")]
    await runtime.tag(first, "example.org/tool:1")
    assert (await runtime.inspect("example.org/tool:1")).digest == first

    await runtime.tag(second, "example.org/tool:1")

    assert (await runtime.inspect("example.org/tool:1")).digest == second
    assert (await runtime.inspect(first)).digest == first


async def test_tag_refuses(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A name with a digest, or none at all, is InvalidReference; an image that is not there ImageNotFound."""
    digest = await runtime.pull(f"{registry.host}/tiny:0")

    for name in (f"example.org/tool:1@{NOWHERE}", "Tool", ""):
        with pytest.raises(ar.InvalidReference):
            await runtime.tag(digest, name)
    with pytest.raises(ar.ImageNotFound):
        await runtime.tag(NOWHERE, "example.org/tool:1")
    assert [image.references for image in await runtime.images()] == [(f"{registry.host}/tiny:0",)]


async def test_an_image_in_use_stays(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """An image that a container runs from is not removed, however it is named; the container runs on."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    digest = await runtime.pull(image)
    held = await runtime.inspect(digest)
    name, client = "in-use", runtime._client
    await containers.create(client, {"Image": held.id, "Cmd": ["sleep", "300"]}, name=name)
    try:
        await containers.start(client, name)
        for target in (digest, held.id, f"{image.registry}/tiny@{digest}", image):
            assert target is not None
            with pytest.raises(ar.EngineError) as refused:
                await runtime.remove_image(target)
            assert refused.value.status == 409
        assert (await containers.inspect(client, name)).running
    finally:
        await containers.remove(client, name, force=True)
    assert [listed.references for listed in await runtime.images()] == [(str(image),)]
    await runtime.remove_image(digest)
    assert await runtime.images() == []


# The digest that a user pins, after what others did


async def test_removing_a_name_moved_by_others(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """E13: a name that another client gave to its image stays there, and ours keeps the names it has."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    digest = await runtime.pull(image)
    kept = await runtime.tag(digest, "example.org/kept:1")
    other = await runtime.pull(f"{registry.host}/tiny:2")
    other_id = (await runtime.inspect(other)).id
    await raw(runtime, "POST", f"/images/{other_id}/tag", repo=f"{registry.host}/tiny", tag="1")

    await runtime.remove_image(image)

    assert (await runtime.inspect(digest)).references == (kept.reference,)
    assert digest in [listed.digest for listed in await runtime.images()]
    assert (await runtime.inspect(image)).digest == other


async def test_removed_behind_our_back(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """After another client's removal the digest finds nothing; after a pull it finds the image again."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:index")
    digest = await runtime.pull(image)
    config = (await runtime.resolve(image)).manifest.config.digest
    await raw(runtime, "DELETE", f"/images/{registry.host}/tiny:index")

    for pinned in (digest, config):
        assert not await runtime.is_locally_available(image, pinned)
        with pytest.raises(ar.ImageNotFound):
            await runtime.inspect(pinned)
    with pytest.raises(ar.ImageNotFound):
        await runtime.run(ar.RunSpec(f"{image.registry}/tiny@{digest}"))
    assert await runtime.pull(image) == digest
    assert await runtime.is_locally_available(image, digest)
    assert await runs(runtime, f"{image.registry}/tiny@{digest}", "echo $FROM_IMAGE") == b"yes\n"


async def test_a_part_removed_behind_our_back(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """When the image that shares layers with a new one was removed, the new one is loaded in full."""
    await runtime.pull(f"{registry.host}/tiny:1")
    await raw(runtime, "DELETE", f"/images/{registry.host}/tiny:1")

    digest = await runtime.pull(f"{registry.host}/tiny:2")

    assert await runtime.is_locally_available("x", digest)
    assert await runs(runtime, f"{registry.host}/tiny:2", "cat /data/one") == b"1" * 5000


async def test_brought_back_by_somebody_else(
    runtime: EngineRuntime, registry: LocalRegistry, engine: Engine, tmp_path: Path
) -> None:
    """What was removed, asked for in vain and then loaded by another program with its own store is found."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:index")
    digest = await runtime.pull(image)
    await raw(runtime, "DELETE", f"/images/{registry.host}/tiny:index")
    assert not await runtime.is_locally_available(image, digest)

    async with ar.connect(engine.url, store=tmp_path / "other") as other:
        await other.pull(image)

    assert await runtime.is_locally_available(image, digest)
    assert (await runtime.inspect(digest)).labels == {"tiny": "yes"}


async def test_a_name_moved_by_others(
    runtime: EngineRuntime, registry: LocalRegistry, engine: Engine, store: ar.ImageStore
) -> None:
    """E13: when another client gives our name to another image, digest and reference mean the pulled one.

    A new runtime takes the name as the engine has it; a pull moves it back.
    """
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    digest = await runtime.pull(image)
    other = await runtime.pull(f"{registry.host}/tiny:2")
    other_id = (await runtime.inspect(other)).id
    await raw(runtime, "POST", f"/images/{other_id}/tag", repo=f"{registry.host}/tiny", tag="1")

    assert (await runtime.inspect(digest)).digest == digest
    assert (await runtime.inspect(image)).digest == digest
    with pytest.raises(AssertionError, match="three"):
        await runs(runtime, image, "cat /data/three")
    async with ar.connect(engine.url, store=store) as later:
        assert await later.is_locally_available(image, digest)
        assert (await later.inspect(digest)).digest == digest
        assert (await later.inspect(image)).digest == other
        assert await later.pull(image) == digest
        assert (await later.inspect(image)).digest == digest
    async with ar.connect(engine.url, store=store) as last:
        assert (await last.inspect(image)).digest == digest


async def test_all_names_taken_by_others(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """An image that lost its only name is found by its digest, and a pull names it again, sending nothing."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    digest = await runtime.pull(image)
    await pull_image(runtime._client, f"{registry.host}/tiny:0")
    other = await raw(runtime, "GET", f"/images/{registry.host}/tiny:0/json")
    await raw(runtime, "POST", f"/images/{other['Id']}/tag", repo=f"{registry.host}/tiny", tag="1")

    assert await runtime.is_locally_available(image, digest)
    assert (await runtime.inspect(digest)).references == ()
    said = Said()
    assert await runtime.pull(image, said) == digest
    assert ", 0 bytes sent" in said.last
    assert (await runtime.inspect(digest)).references == (str(image),)


@pytest.fixture(params=["docker-20.10", "podman-4.3", "docker-26.1-containerd"])
def wiped_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine for one test alone."""
    yield from started(request.param)


def wipe(engine: Engine) -> None:
    """Kill the engine, empty its data directory and start it again."""
    engine.kill()
    for entry in engine.data.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    engine.start()


async def test_a_wiped_engine(wiped_engine: Engine, registry: LocalRegistry, store: ar.ImageStore) -> None:
    """After the data directory was wiped nothing is available; a pull fetches nothing and brings it back."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    async with ar.connect(wiped_engine.url, store=store) as runtime:
        digest = await runtime.pull(image)
    wipe(wiped_engine)

    async with ar.connect(wiped_engine.url, store=store) as runtime:
        assert not await runtime.is_locally_available(image, digest)
        with pytest.raises(ar.ImageNotFound):
            await runtime.inspect(digest)
        assert await runtime.images() == []
        said = Said()
        assert await runtime.pull(image, said) == digest
        assert ": 0 of 3 layers fetched" in said.last
        assert await runtime.is_locally_available(image, digest)
        assert await runs(runtime, f"{image.registry}/tiny@{digest}", "echo $FROM_IMAGE") == b"yes\n"


async def test_wiped_while_connected(
    own_engine: Engine, registry: LocalRegistry, store: ar.ImageStore
) -> None:
    """A runtime that was open while its engine lost everything does not believe what it noted before."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    async with ar.connect(own_engine.url, store=store) as runtime:
        digest = await runtime.pull(image)
        wipe(own_engine)
        with suppress(ar.EngineError):  # the connection that died with the engine
            await runtime.health_check()

        assert not await runtime.is_locally_available(image, digest)
        assert await runtime.pull(image) == digest
        assert await runs(runtime, image, "echo $FROM_IMAGE") == b"yes\n"


@pytest.mark.parametrize("other", ["docker", "podman"])
async def test_two_engines_share_a_store(
    docker_engine: Engine, registry: LocalRegistry, store: ar.ImageStore, other: str
) -> None:
    """Two engines loaded from one store at once each have their own images, whatever the other loses."""
    flavor = {"docker": "docker-20.10", "podman": "podman-4.3"}[other]
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    for second_engine in started(flavor):
        async with (
            ar.connect(docker_engine.url, store=store) as first,
            ar.connect(second_engine.url, store=ar.ImageStore(store.path)) as second,
        ):
            digests: list[ar.ImageDigest] = []

            async def pull(runtime: EngineRuntime, found: list[ar.ImageDigest] = digests) -> None:
                found.append(await runtime.pull(image))

            async with task_group() as group:
                group.start_soon(pull, first)
                group.start_soon(pull, second)
            assert digests[0] == digests[1]
            await raw(second, "DELETE", f"/images/{registry.host}/tiny:1")

            assert await second.images() == []
            assert not await second.is_locally_available(image, digests[0])
            assert [held.digest for held in await first.images()] == digests[:1]
            assert await first.is_locally_available(image, digests[0])
            assert await runs(first, f"{image.registry}/tiny@{digests[0]}", "echo $FROM_IMAGE") == b"yes\n"
            assert await second.pull(image) == digests[0]
            assert await runs(second, image, "echo $FROM_IMAGE") == b"yes\n"
            await remove_images(first)
