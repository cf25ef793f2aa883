"""The demo: two tools as factored images from Debian packages, pulled, shared and run (L5)."""

from __future__ import annotations

__all__ = ("demo",)

import secrets
import shutil
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.cli.progress import reporter
from aioruntime.demo.images import BuiltImage, build_tool_image
from aioruntime.demo.registry import LocalRegistry, Request
from aioruntime.errors import AioRuntimeError
from aioruntime.oci.reference import OciRef
from aioruntime.runtime.connect import connect
from aioruntime.runtime.spec import RunSpec
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aioruntime.runtime.docker import DockerRuntime
    from aioruntime.runtime.podman import PodmanRuntime

_TOOLS = ("samtools", "bcftools")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a registry was asked for: blobs, and the bytes of its answers."""

    blobs: int
    received: int


def traffic(requests: Sequence[Request]) -> Traffic:
    """Add up the requests that carried something to a client."""
    blobs = {r.path for r in requests if r.method == "GET" and "/blobs/sha256:" in r.path}
    return Traffic(len(blobs), sum(r.sent for r in requests if r.method == "GET"))


async def demo(url: str | None) -> int:
    """Show the main job on real packages, and end everything that was started for it."""
    async with _workshop() as work, LocalRegistry() as registry:
        print(f"registry   docker-registry on {registry.host}")
        images = {tool: await _publish(tool, work, registry) for tool in _TOOLS}
        async with connect(url, store=work / "store") as runtime:
            info = await runtime.health_check()
            print(
                f"engine     {info.name} {info.version}, {info.extra['found_by']}, {info.extra['endpoint']}"
            )
            references = {tool: OciRef.parse(f"{registry.host}/{tool}:latest") for tool in _TOOLS}
            try:
                await _show(runtime, registry, references, images)
            finally:
                for reference in references.values():
                    await to_completion(_discard(runtime, reference))
    return 0


@asynccontextmanager
async def _workshop() -> AsyncIterator[Path]:
    directory = Path(tempfile.gettempdir(), f"aioruntime-demo-{secrets.token_hex(8)}")
    try:
        await in_thread(directory.mkdir, 0o700)
        yield directory
    finally:
        await in_thread(shutil.rmtree, directory, True)


async def _publish(tool: str, work: Path, registry: LocalRegistry) -> BuiltImage:
    started = time.monotonic()
    image = await build_tool_image(tool, work / "layout", work / "cache", compression="gzip", name=tool)
    await registry.push(work / "layout", tool, f"{tool}:latest")
    size = sum(layer.size for layer in image.layers)
    print(
        f"built      {tool}: {len(image.layers)} layers from Debian packages, {_mib(size)}, "
        f"pushed in {time.monotonic() - started:.1f} s"
    )
    return image


async def _show(
    runtime: DockerRuntime | PodmanRuntime,
    registry: LocalRegistry,
    references: dict[str, OciRef],
    images: dict[str, BuiltImage],
) -> None:
    progress = reporter()
    known: set[str] = set()
    for tool in (*_TOOLS, _TOOLS[0]):
        before = len(await registry.settle())
        started = time.monotonic()
        await runtime.pull(references[tool], progress)
        seconds = time.monotonic() - started
        seen = traffic((await registry.settle())[before:])
        layers = [layer.digest for layer in images[tool].layers]
        here = sum(digest in known for digest in layers)
        known.update(layers)
        print(
            f"pulled     {tool}: {here} of {len(layers)} layers were already here; "
            f"{seen.blobs} blobs, {_mib(seen.received)} over the wire, {seconds:.2f} s"
        )
        command = [tool, "--version"]
        outcome = await runtime.run(RunSpec(references[tool], command, capture_output=True))
        if outcome.exit_code:
            raise AioRuntimeError(f"{' '.join(command)} ended with {outcome.exit_code}: {outcome.stderr!r}")
        first_line = outcome.stdout.decode(errors="replace").partition("\n")[0]
        print(f"ran        {' '.join(command)}: {outcome.duration:.2f} s\n{first_line}")


async def _discard(runtime: DockerRuntime | PodmanRuntime, reference: OciRef) -> None:
    # It may never have got there, or the engine be gone: then the error under way tells why.
    with suppress(AioRuntimeError):
        await runtime.remove_image(reference)


def _mib(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
