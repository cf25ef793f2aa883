"""The images that tests pull: real tools from Debian packages, and tiny ones."""

from __future__ import annotations

import io
import random
import tarfile
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aioruntime.demo.documents import ImageConfig
from aioruntime.demo.images import build_tool_image, write_image, write_index
from aioruntime.demo.registry import LocalRegistry
from aioruntime.engine import images
from aioruntime.errors import ImageNotFound
from aioruntime.oci.reference import OciRef
from aioruntime.tasks import in_thread
from tests.support.given import kept_images
from tests.support.rootfs import program_tar

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.blobs import Compression
    from aioruntime.runtime.engine_runtime import EngineRuntime

TOOLS = ("samtools", "bcftools", "bwa")
COMPRESSIONS: Final[tuple[Compression, ...]] = ("gzip", "zstd")
PROGRAMS = ("sh", "cat", "sleep", "head", "id", "env", "pwd", "ls")
PASSWD = b"root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"


async def publish(layout: Path, cache: Path, storage: Path) -> None:
    """Build every image and push it to a registry that keeps *storage*.

    ``samtools``, ``bcftools`` and ``bwa`` have the tags ``gzip`` and ``zstd``; ``tiny:0`` has two layers of
    one file, ``tiny:1`` three small ones with a shell, ``tiny:2`` one more, ``tiny:docker`` is tiny:1 with
    Docker's media types, and ``tiny:index`` is tiny:1 for two platforms with an attestation beside them.
    """
    async with LocalRegistry(storage) as registry:
        for compression in COMPRESSIONS:
            for tool in TOOLS:
                name = f"{tool}-{compression}"
                await build_tool_image(tool, layout, cache, compression=compression, name=name)
                await registry.push(layout, name, f"{tool}:{compression}")
        await in_thread(_write_tiny, layout)
        for tag in ("0", "1", "2", "docker", "index"):
            await registry.push(layout, f"tiny-{tag}", f"tiny:{tag}")


def _write_tiny(layout: Path) -> None:
    programs = tiny_files()
    config = ImageConfig(
        env=("PATH=/bin", "FROM_IMAGE=yes"), cmd=("sh", "-c", "echo hello"), labels={"tiny": "yes"}
    )
    layers = [programs, {"etc/passwd": PASSWD, "data/one": b"1" * 5000}, {"data/two": b"2" * 7000}]
    write_image(layout, "tiny-0", [{"one": b"1"}, {"two": b"2"}], config)
    write_image(layout, "tiny-1", layers, config)
    write_image(layout, "tiny-2", [*layers, {"data/three": b"3" * 9000}], config)
    write_image(layout, "tiny-docker", layers, config, family="docker")
    ours = write_image(layout, None, layers, config)
    other = write_image(
        layout, None, [{"etc/other": b"x"}], replace(config, architecture="s390x", variant="")
    )
    write_index(layout, "tiny-index", [other, ours], attestation=True)


async def push_mid_size(registry: LocalRegistry, layout: Path) -> OciRef:
    """Push an image of several MiB, so that an engine has something to do with it."""
    layers = [tiny_files()]
    layers += [{f"data/{number}": random.Random(number).randbytes(3 << 20)} for number in range(4)]
    await in_thread(write_image, layout, "mid", layers, ImageConfig(env=("PATH=/bin",)))
    return OciRef.parse(await registry.push(layout, "mid", "mid:1"))


def tiny_files() -> dict[str, bytes]:
    """A shell and a few programs with their libraries, by path."""
    with tarfile.open(fileobj=io.BytesIO(program_tar(*PROGRAMS)), mode="r:") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


async def remove_images(runtime: EngineRuntime) -> None:
    """Remove every image that the engine holds, but none that a tester's own engine had before."""
    client = runtime._client
    for image in await client.json("GET", "/images/json"):
        if image["Id"] not in kept_images(runtime):
            with suppress(ImageNotFound):
                await images.remove_image(client, image["Id"], force=True)
