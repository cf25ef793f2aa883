"""New images made of the layers of others, on every engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import write_image
from aioruntime.tasks import in_thread
from tests.store.helpers import blob_path
from tests.support.said import Said
from tests.support.tools import remove_images, tiny_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from aioruntime.demo.images import BuiltImage
    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

NAME = "example.org/all:1"
CONFIG = ImageConfig(env=("PATH=/bin",))


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


async def keep(
    store: ar.ImageStore,
    name: str,
    layers: Sequence[Mapping[str, bytes]],
    config: ImageConfig = CONFIG,
    **options: Any,
) -> BuiltImage:
    """Have an image in the store as if it had been pulled: the store is the layout that is written."""
    return await in_thread(lambda: write_image(store.path, name, layers, config, **options))


def specs(image: BuiltImage) -> list[ar.LayerSpec]:
    return [ar.LayerSpec(layer.digest, layer.size, layer.media_type) for layer in image.layers]


async def printed(runtime: EngineRuntime, image: ar.ImageRef | ar.OciRef, *command: str) -> list[str]:
    outcome = await runtime.run(ar.RunSpec(image, command, capture_output=True))
    assert (outcome.exit_code, outcome.stderr) == (0, b"")
    return outcome.stdout.decode(errors="replace").splitlines()


@pytest.mark.slow
async def test_three_tools_in_one(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """samtools, bcftools and bwa run from one image of their layers; made again it is the same, unsent."""
    tools = [f"{registry.host}/{tool}" for tool in ("samtools:gzip", "bcftools:gzip", "bwa:gzip")]
    for tool in tools:
        await runtime.pull(tool)
    requests = len(await registry.settle())
    said, again = Said(), Said()

    made = await runtime.compose_image(NAME, tools, said)
    repeated = await runtime.compose_image(NAME, [ar.OciRef.parse(tool) for tool in tools], again)

    image = made.reference
    assert (await printed(runtime, image, "samtools", "--version"))[0] == "samtools 1.16.1"
    assert (await printed(runtime, ar.OciRef.parse(NAME), "bcftools", "--version"))[0] == "bcftools 1.16"
    bwa = await runtime.run(ar.RunSpec(image, ["bwa"], capture_output=True))
    assert bwa.exit_code == 1
    assert b"\nProgram: bwa (alignment via Burrows-Wheeler transformation)\n" in bwa.stderr
    assert repeated == made
    assert made.conflicts == ()
    assert await runtime.is_locally_available(NAME, image.digest)
    assert (await runtime.inspect(image.digest)).digest == image.digest
    first, *others = [(await runtime.resolve(tool)).layers for tool in tools]
    own = {layer.digest: layer.size for layers in others for layer in layers if layer not in first}
    assert f": composed of {len(first) + len(own)} layers, " in said.last
    assert said.sent_bytes < sum(own.values()) + 100_000, "what the first image has is not sent"
    assert again.last.endswith(f" 0 conflicts, 0 bytes sent to {runtime.name}")
    after = (await registry.settle())[requests:]
    assert [request.path for request in after if "/blobs/" in request.path] == []


@pytest.mark.slow
async def test_deeper_than_the_engine_allows(runtime: EngineRuntime) -> None:
    """Two images of 70 layers make one of 139 that runs, merged where need be; again nothing is sent."""
    shell = tiny_files()
    for name in ("a", "b"):
        files = [{f"data/{name}{number:02}": b"%d\n" % number} for number in range(69)]
        await keep(runtime.store, f"example.org/{name}:1", [shell, *files])
    images, again = ["example.org/a:1", "example.org/b:1"], Said()

    made = await runtime.compose_image(NAME, images)
    repeated = await runtime.compose_image(NAME, images, again)

    listed = await printed(runtime, made.reference, "ls", "/data")
    assert listed == [f"{name}{number:02}" for name in "ab" for number in range(69)]
    assert (await runtime.inspect(made.reference)).digest == made.reference.digest
    assert repeated == made
    assert ": composed of 139 layers, 1 of them shared, 0 conflicts, 0 bytes sent" in again.last


async def test_conflicts_are_told(runtime: EngineRuntime) -> None:
    """The later image wins a path, an added layer wins over all; who loses what is told, by name."""
    store, shell = runtime.store, tiny_files()
    one = {"opt/a": b"1\n", "opt/b": b"1\n", "opt/c": b"1\n", "same": b"same"}
    two = {"opt/a": b"2\n", "opt/b": b"2\n", "opt/.wh.c": b"", "same": b"same"}
    first = await keep(store, "example.org/one:1", [shell, one])
    await keep(store, "example.org/two:1", [shell, two], family="docker", compression="zstd")
    added = specs(await keep(store, "example.org/added:1", [{"opt/b": b"3\n"}]))
    digest = first.manifest.digest
    said = Said()

    made = await runtime.compose_image(NAME, [digest, "example.org/two:1"], said, layers=added)

    assert made.conflicts == (
        ar.PathConflict("/opt/a", "example.org/two:1", (digest,)),
        ar.PathConflict("/opt/b", added[0].digest, (digest, "example.org/two:1")),
        ar.PathConflict("/opt/c", "example.org/two:1", (digest,)),
    )
    assert " 3 conflicts, " in said.last
    assert await printed(runtime, made.reference, "cat", "/opt/a", "/opt/b", "/same") == ["2", "3", "same"]
    assert await printed(runtime, made.reference, "ls", "/opt") == ["a", "b"]


async def test_how_containers_start(runtime: EngineRuntime) -> None:
    """What `config` gives wins, the rest is that of the images; layers alone make an image too."""
    store = runtime.store
    config = ImageConfig(env=("PATH=/bin", "A=1"), labels={"a": "1"}, cmd=("pwd",), working_dir="/opt")
    image = await keep(store, "example.org/one:1", [tiny_files(), {"opt/x": b"", "tmp/y": b""}], config)

    made = await runtime.compose_image(NAME, ["example.org/one:1"])
    assert await printed(runtime, made.reference) == ["/opt"]
    given = ar.ImageConfig(
        entrypoint=["sh", "-c"],
        command=["echo $A $B; pwd; id -u"],
        env={"B": "2"},
        user="7",
        working_dir="/tmp",
        labels={"b": "2"},
    )
    made = await runtime.compose_image(NAME, ["example.org/one:1"], config=given)
    assert await printed(runtime, made.reference) == ["1 2", "/tmp", "7"]
    assert (await runtime.inspect(NAME)).labels == {"a": "1", "b": "2"}

    given = ar.ImageConfig(env={"PATH": "/bin"}, command=["ls", "/opt"])
    made = await runtime.compose_image("example.org/layers:1", layers=specs(image), config=given)
    assert await printed(runtime, made.reference) == ["x"]


# What does not depend on the engine, on one of them.


@pytest.fixture
async def docker(docker_engine: Engine, store: ar.ImageStore) -> AsyncIterator[EngineRuntime]:
    """A runtime on Docker, with an empty store."""
    async with ar.DockerRuntime(docker_engine.url, store=store) as runtime:
        yield runtime
        await remove_images(runtime)


async def test_other_inputs_another_digest(docker: EngineRuntime) -> None:
    """The digest comes of the images, their order, the layers and the config; not of the name."""
    await keep(docker.store, "example.org/a:1", [{"x": b"1"}])
    await keep(docker.store, "example.org/b:1", [{"y": b"2"}])
    ways: list[dict[str, Any]] = [
        {"images": ["example.org/a:1"]},
        {"images": ["example.org/a:1", "example.org/b:1"]},
        {"images": ["example.org/b:1", "example.org/a:1"]},
        {"images": ["example.org/a:1"], "config": ar.ImageConfig(user="1")},
    ]

    digests = [(await docker.compose_image(NAME, **way)).reference.digest for way in ways]
    named = [
        (await docker.compose_image(f"example.org/{at}:1", **way)).reference.digest
        for at, way in enumerate(ways)
    ]

    assert len(set(digests)) == len(ways)
    assert named == digests


async def test_a_composed_image_is_kept(docker: EngineRuntime) -> None:
    """It stands in the store by its name as an OCI image that is valid, and can be composed again."""
    await keep(docker.store, "example.org/a:1", [{"x": b"1"}], family="docker")
    await keep(docker.store, "example.org/b:1", [{"y": b"2"}])
    made = await docker.compose_image(NAME, ["example.org/a:1", "example.org/b:1"])

    again = await docker.compose_image("example.org/again:1", [made.reference])

    assert again == replace(made, reference=replace(made.reference, reference="example.org/again:1"))
    manifest = json.loads(blob_path(docker.store, made.reference.digest).read_bytes())
    oci = "application/vnd.oci.image"
    assert manifest["mediaType"] == f"{oci}.manifest.v1+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {f"{oci}.layer.v1.tar+gzip"}
    resolved = await docker.resolve(f"{NAME}@{made.reference.digest}")
    assert [layer.digest for layer in resolved.layers] == [layer["digest"] for layer in manifest["layers"]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": []}, ar.InvalidSpec, "composed of nothing; give images, or layers"),
        ({"images": "example.org/a:1"}, ar.InvalidSpec, "images is one string; give a list"),
        ({"images": ["UPPER"]}, ar.InvalidReference, "UPPER"),
        (
            {"images": ["example.org/a:1", "example.org/z:1"]},
            ar.LayersMissing,
            "z:1 is not in the store .*pull",
        ),
        ({"images": ["sha256:" + "0" * 64]}, ar.LayersMissing, "sha256:000.* is not in the store .*pull"),
        (
            {"images": ["example.org/a:1", "example.org/s:1"]},
            ar.InvalidSpec,
            "a:1 is made for linux/.*s:1 for linux/s390x",
        ),
        (
            {"layers": [ar.LayerSpec("sha256:" + "0" * 64, 1, "x")]},
            ar.LayersMissing,
            "the added layers: 1 of 1 layers .* call ensure_layers first",
        ),
    ],
)
async def test_wrong_input(
    docker: EngineRuntime, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """What can't be composed is refused by an error that says what to do, and nothing is made."""
    await keep(docker.store, "example.org/a:1", [{"x": b"1"}])
    await keep(
        docker.store, "example.org/s:1", [{"x": b"1"}], replace(CONFIG, architecture="s390x", variant="")
    )

    with pytest.raises(error, match=message):
        await docker.compose_image(NAME, **arguments)

    assert NAME not in await docker.store.references()


async def test_a_name_with_a_digest(docker: EngineRuntime) -> None:
    """A name that claims a digest is refused: the digest is what comes of it."""
    with pytest.raises(ar.InvalidSpec, match="has a digest"):
        await docker.compose_image(f"{NAME}@sha256:{'0' * 64}", ["example.org/a:1"])


async def test_layers_that_are_gone(docker: EngineRuntime) -> None:
    """An image that lost a layer in the store is refused, naming the image and the layer."""
    image = await keep(docker.store, "example.org/a:1", [{"x": b"1"}, {"y": b"2"}])
    lost = specs(image)[1].digest
    blob_path(docker.store, lost).unlink()

    with pytest.raises(
        ar.LayersMissing, match=r"example.org/a:1: 1 of 2 layers .* call pull first"
    ) as caught:
        await docker.compose_image(NAME, ["example.org/a:1"])

    assert caught.value.digests == (lost,)


@pytest.mark.parametrize("as_layer", [False, True])
async def test_a_layer_that_rotted(docker: EngineRuntime, as_layer: bool) -> None:
    """A blob that was altered on disk is found out and thrown away, so that the next pull fetches it."""
    await keep(docker.store, "example.org/a:1", [{"x": b"1"}], compression="none")
    image = await keep(docker.store, "example.org/b:1", [{"y": b"2"}], compression="none")
    [layer] = specs(image)
    path = blob_path(docker.store, layer.digest)
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    images, layers = (
        (["example.org/a:1"], [layer]) if as_layer else (["example.org/a:1", "example.org/b:1"], [])
    )

    with pytest.raises(ar.DigestMismatch):
        await docker.compose_image(NAME, images, layers=layers)

    assert await docker.store.missing([layer]) == [layer]
    assert NAME not in await docker.store.references()
