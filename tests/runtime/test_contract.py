"""The runtime contract, on real engines of every generation: each method, each promise."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.demo.registry import LocalRegistry
from tests.runtime.conftest import containers
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine
    from tests.support.given import GivenEngine

NOWHERE = "sha256:" + "0" * 64


@pytest.fixture
def engine(contract_engine: Engine | GivenEngine) -> Engine | GivenEngine:
    """Each generation of engine in turn, and the tester's own."""
    return contract_engine


async def pulled(runtime: EngineRuntime, registry: LocalRegistry, name: str = "tiny:1") -> ar.OciRef:
    image = ar.OciRef.parse(f"{registry.host}/{name}")
    await runtime.pull(image)
    return image


async def shell(runtime: EngineRuntime, image: ar.OciRef, script: str, **fields: object) -> ar.RunOutcome:
    spec = ar.RunSpec(image, ["sh", "-c", script], capture_output=True, **fields)  # type: ignore[arg-type]
    return await runtime.run(spec)


# name, health_check


async def test_name_is_the_engine(runtime: EngineRuntime, engine: Engine | GivenEngine) -> None:
    """`name` says whose engine it is."""
    assert runtime.name == engine.kind


async def test_health_check_describes_the_engine(
    runtime: EngineRuntime, engine: Engine | GivenEngine
) -> None:
    """`health_check` gives the engine's version and the facts that the contract lists."""
    info = await runtime.health_check()

    assert info.name == engine.kind
    assert info.version == engine.version()["Version"]
    assert info.extra["endpoint"] == engine.url
    assert {
        "api_version",
        "min_api_version",
        "storage_driver",
        "image_store",
        "cgroup_version",
        "os",
        "architecture",
        "rootless",
        "cdi_devices",
        "found_by",
    } <= set(info.extra)


async def test_an_absent_engine_is_unavailable(tmp_path: Path) -> None:
    """Where no engine answers, `EngineUnavailable` names the address that was tried."""
    with pytest.raises(ar.EngineUnavailable, match=str(tmp_path)):
        async with ar.connect(f"unix://{tmp_path}/none.sock"):
            pass


async def test_a_runtime_that_is_not_open_says_so(engine: Engine | GivenEngine, tmp_path: Path) -> None:
    """Without `async with`, and after it, every method tells that; to enter twice is refused."""
    kind = {"docker": ar.DockerRuntime, "podman": ar.PodmanRuntime}[engine.kind]
    runtime = kind(engine.url, store=tmp_path / "store")
    with pytest.raises(RuntimeError, match="async with"):
        await runtime.health_check()
    async with runtime:
        with pytest.raises(RuntimeError, match="already open"):
            await runtime.__aenter__()
        await runtime.health_check()
    with pytest.raises(RuntimeError, match="async with"):
        await runtime.inspect(NOWHERE)


# resolve


async def test_resolve_names_the_layers(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """`resolve` gives the manifest's layers with digest and size, and downloads no layer."""
    image = await runtime.resolve(f"{registry.host}/samtools:zstd")

    assert len(image.layers) == 56
    assert all(layer.size > 0 for layer in image.layers)
    assert image.digest == ar.ImageDigest.of(image.raw_manifest)
    fetched = [r.path for r in await registry.settle() if "/blobs/" in r.path]
    assert fetched == [f"/v2/samtools/blobs/{image.manifest.config.digest}"]


async def test_an_index_is_resolved_for_the_engine(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A multi-platform image gives the engine's own manifest; the digest to pin is the index's."""
    image = await runtime.resolve(f"{registry.host}/tiny:index")
    other = await runtime.resolve(f"{registry.host}/tiny:index", "linux/s390x")

    assert image.platform.architecture == (await runtime.health_check()).extra["architecture"]
    assert image.digest != image.manifest_digest == ar.ImageDigest.of(image.raw_manifest)
    assert (other.digest, other.platform.architecture) == (image.digest, "s390x")


# pull


@pytest.mark.parametrize("name", ["samtools:gzip", "samtools:zstd"])
async def test_a_pulled_tool_runs(runtime: EngineRuntime, registry: LocalRegistry, name: str) -> None:
    """A factored tool of 56 layers, gzip or zstd, runs after a pull, whatever the engine can read."""
    image = await pulled(runtime, registry, name)

    outcome = await runtime.run(ar.RunSpec(image, ["samtools", "--version"], capture_output=True))

    assert outcome.exit_code == 0
    assert outcome.stdout.startswith(b"samtools 1.16.1\n")


@pytest.mark.parametrize("name", ["tiny:1", "tiny:docker", "tiny:index"])
async def test_the_pulled_digest_pins_the_image(
    runtime: EngineRuntime, registry: LocalRegistry, name: str
) -> None:
    """The digest that `pull` returns is the registry's, and finds and runs the image from then on."""
    image = ar.OciRef.parse(f"{registry.host}/{name}")

    digest = await runtime.pull(image)

    assert digest == (await runtime.resolve(image)).digest
    assert (await runtime.inspect(digest)).digest == digest
    pinned = ar.OciRef(image.registry, image.repository, digest=digest)
    assert (await shell(runtime, pinned, "echo $FROM_IMAGE")).stdout == b"yes\n"


async def test_shared_layers_cross_the_wire_once(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """First pull: each blob once. Second image: only its own blobs. Third pull: no blob at all.

    The registry gives its layers to anybody, so none is asked for when it is here.
    """
    seen: list[dict[str, int]] = []
    asked: list[str] = []
    for name in ("samtools:zstd", "bcftools:zstd", "samtools:zstd"):
        before = len(await registry.settle())
        await runtime.pull(f"{registry.host}/{name}")
        requests = [r for r in (await registry.settle())[before:] if "/blobs/" in r.path]
        sent: dict[str, int] = {}
        for request in requests:
            if request.method == "GET":
                digest = request.path.rpartition("/")[2]
                sent[digest] = sent.get(digest, 0) + request.sent
        seen.append(sent)
        asked += [request.path for request in requests if request.method == "HEAD"]
    samtools = await runtime.resolve(f"{registry.host}/samtools:zstd")
    bcftools = await runtime.resolve(f"{registry.host}/bcftools:zstd")
    shared = {layer.digest for layer in samtools.layers} & {layer.digest for layer in bcftools.layers}

    assert len(shared) == 54
    assert seen[0] == sizes(samtools)
    assert seen[1] == {digest: size for digest, size in sizes(bcftools).items() if digest not in shared}
    assert seen[2] == {}
    assert asked == []


def sizes(image: ar.ResolvedImage) -> dict[str, int]:
    """The bytes of config and layers, by digest."""
    config = image.manifest.config
    return {config.digest: config.size, **{layer.digest: layer.size for layer in image.layers}}


async def test_an_expected_digest_is_held(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A pull that expects another digest is refused, telling both, before a layer is fetched."""
    image = f"{registry.host}/tiny:1"
    actual = (await runtime.resolve(image)).digest

    with pytest.raises(ar.DigestMismatch) as caught:
        await runtime.pull(image, expected_digest=NOWHERE)

    assert (caught.value.expected, caught.value.actual) == (NOWHERE, actual)
    assert await runtime.store.references() == {}
    with pytest.raises(ar.ImageNotFound):
        await runtime.inspect(actual)
    assert await runtime.pull(image, expected_digest=actual) == actual


async def test_expected_layers_are_held(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A pull that expects other, fewer or more layers is refused, telling the position."""
    image = f"{registry.host}/tiny:1"
    layers = list((await runtime.resolve(image)).layers)

    cases: list[tuple[list[ar.LayerSpec | str], int]] = [
        ([layers[0], layers[2], layers[1]], 1),
        ([*layers[:2]], 2),
        ([*layers, NOWHERE], 3),
    ]
    for expected, position in cases:
        with pytest.raises(ar.DigestMismatch) as caught:
            await runtime.pull(image, expected_layers=expected)
        assert caught.value.position == position
    assert await runtime.store.missing(layers) == layers
    await runtime.pull(image, expected_layers=layers)


async def test_the_engine_can_be_asked_to_pull(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """`via="engine"` has the daemon pull; the digest still pins the image, and no layer is stored."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")

    digest = await runtime.pull(image, via="engine")

    assert await runtime.is_locally_available(image, digest)
    assert await runtime.store.missing((await runtime.resolve(image)).layers) != []
    assert (await shell(runtime, image, "echo $FROM_IMAGE")).stdout == b"yes\n"
    assert [name for held in await runtime.images() for name in held.references] == [str(image)]
    await runtime.remove_image(image)
    assert (await runtime.images() != []) == await runtime.is_locally_available(image, digest)


async def test_docker_20_can_not_pull_zstd(
    docker_engine: Engine, registry: LocalRegistry, store: ar.ImageStore
) -> None:
    """Docker 20.10 fails to pull the zstd image by itself, and runs it after our pull."""
    image = f"{registry.host}/bcftools:zstd"
    async with ar.connect(docker_engine.url, store=store) as runtime:
        with pytest.raises(ar.EngineError, match="failed to register layer"):
            await runtime.pull(image, via="engine")
        await runtime.pull(image)
        spec = ar.RunSpec(ar.OciRef.parse(image), ["bcftools", "--version"], capture_output=True)
        assert (await runtime.run(spec)).stdout.startswith(b"bcftools 1.16")
        await remove_images(runtime)


async def test_a_missing_image_is_not_found(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Pulling what the registry lacks names the image and what to check."""
    with pytest.raises(ar.NotFound, match="no-such-tool"):
        await runtime.pull(f"{registry.host}/no-such-tool:1")


async def test_progress_is_exact(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Progress knows the bytes of all missing layers from its first word, and counts up to just them."""
    heard: list[tuple[str, int | None, int | None]] = []

    class Heard(ar.NoopProgress):
        def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
            heard.append((message, current, total))

    image = await runtime.resolve(f"{registry.host}/tiny:2")
    await runtime.ensure_layers(image.layers, Heard(), image=image.reference)

    assert {total for _, _, total in heard} == {image.size}
    counted = [current for _, current, _ in heard if current is not None]
    assert counted == sorted(counted)
    assert counted[-1] == image.size


# run


async def test_run_keeps_the_streams_apart(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Output is captured per stream, and a non-zero exit status is an outcome."""
    image = await pulled(runtime, registry)

    outcome = await shell(runtime, image, "echo out; echo err >&2; exit 7")

    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (7, b"out\n", b"err\n")
    assert outcome.duration > 0


async def test_run_passes_output_through(
    runtime: EngineRuntime, registry: LocalRegistry, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Without capturing, each stream comes out of this process's own."""
    image = await pulled(runtime, registry)

    outcome = await runtime.run(ar.RunSpec(image, ["sh", "-c", "echo out; echo err >&2"]))

    assert (outcome.stdout, outcome.stderr) == (b"", b"")
    assert tuple(capfdbinary.readouterr()) == (b"out\n", b"err\n")


async def test_run_sets_the_process_up(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Working directory, environment and user are those of the specification; the image's own otherwise."""
    image = await pulled(runtime, registry)

    outcome = await shell(
        runtime,
        image,
        "pwd; echo $FROM_IMAGE $MINE; id -u; id -g",
        working_dir=PurePosixPath("/data"),
        env={"MINE": "a b=c"},
        user="1000:1000",
    )

    assert outcome.stdout == b"/data\nyes a b=c\n1000\n1000\n"


async def test_run_mounts_what_it_is_told(
    runtime: EngineRuntime, registry: LocalRegistry, tmp_path: Path
) -> None:
    """A mount shows the host's directory, whatever its name; a read-only one can't be written."""
    image = await pulled(runtime, registry)
    host = tmp_path / "a b,c"
    host.mkdir()
    (host / "in").write_text("from the host")
    mounts = [ar.Mount(host, PurePosixPath("/rw")), ar.Mount(host, PurePosixPath("/ro"), read_only=True)]

    outcome = await shell(runtime, image, "cat /ro/in; echo x > /rw/out; echo x > /ro/no", mounts=mounts)

    assert outcome.stdout == b"from the host"
    assert outcome.exit_code != 0
    assert b"Read-only" in outcome.stderr
    assert (host / "out").read_text() == "x\n"
    assert not (host / "no").exists()


async def test_large_output_is_whole(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Eight MiB on one stream arrive to the byte."""
    image = await pulled(runtime, registry)

    outcome = await shell(runtime, image, "head -c 8388608 /dev/zero")

    assert outcome.stdout == bytes(8 * 2**20)


async def test_a_program_that_is_not_there(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A command that the image lacks is a `RunError` that names it, and no container is left."""
    image = await pulled(runtime, registry)

    with pytest.raises(ar.RunError, match="no-such-program"):
        await runtime.run(ar.RunSpec(image, ["no-such-program"], capture_output=True))

    assert await containers(runtime) == []


async def test_nothing_is_left_after_a_run(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A container is removed when it has ended, also when it failed."""
    image = await pulled(runtime, registry)

    await shell(runtime, image, "exit 3")

    assert await containers(runtime) == []


async def test_running_what_is_absent(runtime: EngineRuntime) -> None:
    """An image that the engine lacks is `ImageNotFound`, telling to pull it."""
    with pytest.raises(ar.ImageNotFound, match="pull it"):
        await runtime.run(ar.RunSpec("example.org/none:1"))


# inspect, is_locally_available


async def test_inspect_by_every_name(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Registry digest, engine ID, reference and `ImageRef` lead to the same image, its size and labels."""
    reference = ar.OciRef.parse(f"{registry.host}/tiny:1")
    image = await runtime.resolve(reference)
    digest = await runtime.pull(reference)

    by_digest = await runtime.inspect(digest)

    assert by_digest.labels == {"tiny": "yes"}
    assert by_digest.size_bytes is not None
    assert by_digest.size_bytes > 100_000
    assert await runtime.inspect(image.manifest.config.digest) == by_digest
    assert await runtime.inspect(reference) == by_digest
    assert await runtime.inspect(ar.ImageRef(str(reference), digest)) == by_digest


async def test_inspecting_what_is_absent(runtime: EngineRuntime) -> None:
    """A digest that the engine does not have is `ImageNotFound`."""
    with pytest.raises(ar.ImageNotFound, match="0000"):
        await runtime.inspect(ar.ImageDigest(NOWHERE))


async def test_availability_follows_the_engine(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """An image is available once it is pulled, not for another digest, and no more once it is removed."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    digest = (await runtime.resolve(image)).digest

    assert not await runtime.is_locally_available(image, digest)
    await runtime.pull(image)
    assert await runtime.is_locally_available(image, digest)
    assert not await runtime.is_locally_available(image, NOWHERE)
    await runtime.remove_image(image)
    assert not await runtime.is_locally_available(image, digest)


async def test_a_dead_engine_is_not_a_no(own_engine: Engine, tmp_path: Path) -> None:
    """If the engine can't be asked, availability is an error, not False."""
    async with ar.connect(own_engine.url, store=tmp_path / "store") as runtime:
        own_engine.kill()
        with pytest.raises(ar.EngineError):
            await runtime.is_locally_available("example.org/none:1", NOWHERE)


async def test_an_image_removed_behind_our_back_comes_back(
    runtime: EngineRuntime, registry: LocalRegistry
) -> None:
    """What is remembered of an engine is not believed: an image that vanished is loaded again in full."""
    image = await pulled(runtime, registry)
    before = len(await registry.settle())
    await remove_images(runtime)

    await runtime.pull(image)

    assert (await shell(runtime, image, "echo back")).stdout == b"back\n"
    assert [r for r in (await registry.settle())[before:] if "/blobs/" in r.path] == []


# gpu_args, mount_args


async def test_gpu_args_say_what_run_sends(runtime: EngineRuntime, engine: Engine | GivenEngine) -> None:
    """A required GPU is asked for by capability on Docker, by CDI name on Podman; none without a spec."""
    expected = {"docker": ["--gpus", "all"], "podman": ["--device", "nvidia.com/gpu=all"]}

    assert runtime.gpu_args(ar.GpuProfile(ar.GpuSpec(required=True))) == expected[engine.kind]
    assert runtime.gpu_args(ar.GpuProfile(ar.GpuSpec(required=False))) == []
    assert runtime.gpu_args(ar.GpuProfile()) == []


async def test_a_gpu_that_is_not_there(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A required GPU reaches the engine: on a machine without one it refuses, and nothing is left."""
    image = await pulled(runtime, registry)

    with pytest.raises(ar.RunError, match=r"(?i)gpu"):
        await shell(runtime, image, "true", gpu=ar.GpuProfile(ar.GpuSpec(required=True)))

    assert await containers(runtime) == []


def test_mount_arguments_survive_odd_paths() -> None:
    """Colons, commas and quotes in paths come through as one CSV record."""
    runtime = ar.DockerRuntime("unix:///none")
    mounts = [ar.Mount(Path('/a:b,c"d'), PurePosixPath("/data"), read_only=True)]

    assert runtime.mount_args(mounts) == ["--mount", 'type=bind,"source=/a:b,c""d",target=/data,readonly']


# ensure_layers, assemble_image


async def test_layers_then_image(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """`ensure_layers` then `assemble_image` makes a runnable image and gives its name and digest."""
    image = await runtime.resolve(f"{registry.host}/tiny:1")

    await runtime.ensure_layers(image.layers, image=image.reference)
    assert await runtime.store.missing(image.layers) == []
    ref = await runtime.assemble_image(image.reference, image.layers)

    assert ref == ar.ImageRef(f"{registry.host}/tiny:1", image.digest)
    outcome = await runtime.run(ar.RunSpec(ref, ["sh", "-c", "echo yes"], capture_output=True))
    assert outcome.stdout == b"yes\n"


async def test_layers_by_url(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A layer's `blob_url` is used when it is given; without one and without an image, the remedy is told."""
    image = await runtime.resolve(f"{registry.host}/tiny:1")
    layer = image.layers[1]
    url = f"http://{registry.host}/v2/tiny/blobs/{layer.digest}"

    with pytest.raises(ar.InvalidSpec, match="image="):
        await runtime.ensure_layers([layer])
    await runtime.ensure_layers([ar.LayerSpec(layer.digest, layer.size, layer.media_type, url)])

    assert await runtime.store.has(layer.digest, layer.size)


async def test_missing_layers_are_named(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Assembling without the layers says which are missing and what fetches them."""
    image = await runtime.resolve(f"{registry.host}/tiny:1")
    await runtime.ensure_layers(image.layers[:1], image=image.reference)

    with pytest.raises(ar.LayersMissing, match="ensure_layers") as caught:
        await runtime.assemble_image(image.reference, image.layers)

    assert caught.value.digests == tuple(layer.digest for layer in image.layers[1:])


async def test_assembling_needs_no_network(
    engine: Engine | GivenEngine, registry_storage: Path, store: ar.ImageStore
) -> None:
    """With manifest, config and layers in the store, an image is assembled with the registry gone."""
    async with ar.connect(engine.url, store=store) as runtime:
        async with LocalRegistry(registry_storage) as registry:
            image = await runtime.resolve(f"{registry.host}/tiny:1")
            await runtime.pull(image.reference)
        await remove_images(runtime)

        await runtime.assemble_image(image.reference, image.layers)

        assert (await shell(runtime, image.reference, "echo offline")).stdout == b"offline\n"
        await remove_images(runtime)


async def test_only_what_is_lacking_is_sent(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """A second image that shares its layers is loaded with few bytes, and a third pull sends none."""
    sent: list[int] = []

    class Sent(ar.NoopProgress):
        def finish(self, message: str) -> None:
            sent.append(int(message.rpartition(", ")[2].split()[0]))

    for name in ("samtools:gzip", "bcftools:gzip", "samtools:gzip"):
        await runtime.pull(f"{registry.host}/{name}", Sent())

    bcftools = await runtime.resolve(f"{registry.host}/bcftools:gzip")
    assert sent[0] > 30 * 2**20
    assert bcftools.layers[-1].size < sent[1] < bcftools.layers[-1].size + 100_000
    assert sent[2] == 0


async def test_the_store_is_a_layout(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """What was pulled stands in the store's index under its full reference."""
    await runtime.pull(f"{registry.host}/tiny:1")

    index = json.loads((runtime.store.path / "index.json").read_bytes())

    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert names == [f"{registry.host}/tiny:1"]
