"""What the commands do (L5)."""

from __future__ import annotations

__all__ = ("RunOptions", "doctor", "pull", "push", "reap", "run", "tags")

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from aioruntime.cli.progress import reporter
from aioruntime.engine.known_faults import known_faults
from aioruntime.engine.leftovers import find_leftovers
from aioruntime.errors import ImageNotFound, InvalidSpec
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from aioruntime.runtime.connect import connect
from aioruntime.runtime.gpu_spec import GpuProfile, GpuSpec
from aioruntime.runtime.mounts import Mount
from aioruntime.runtime.spec import RunSpec
from aioruntime.tasks import in_thread


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of ``aioruntime run`` as they were typed."""

    image: str
    command: Sequence[str]
    env: Sequence[str]
    mounts: Sequence[str]
    workdir: str | None
    user: str | None
    gpu: bool

    def to_spec(self) -> RunSpec:
        """Return the specification that they stand for.

        Raises:
            InvalidSpec: an option is not of its form.
            InvalidReference: the image is not a reference.
        """
        return RunSpec(
            image=OciRef.parse(self.image),
            command=self.command,
            env=dict(_variable(text) for text in self.env),
            mounts=[_mount(text) for text in self.mounts],
            gpu=GpuProfile(GpuSpec(required=True)) if self.gpu else GpuProfile(),
            working_dir=self.workdir,
            user=self.user,
        )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidSpec(f"--env {text}: expected NAME=VALUE")
    return name, value


def _mount(text: str) -> Mount:
    host, _, rest = text.partition(":")
    container, _, mode = rest.partition(":")
    if not container or mode not in ("", "ro", "rw"):
        raise InvalidSpec(f"--mount {text}: expected HOST:CONTAINER or HOST:CONTAINER:ro")
    return Mount(host, container, mode == "ro")


async def pull(image: str, *, url: str | None, store: str | None, platform: str | None) -> int:
    """Pull an image and print its digest."""
    reference = OciRef.parse(image)
    wanted = Platform.parse(platform) if platform else None
    async with connect(url, store=store) as runtime:
        digest = await runtime.pull(reference, reporter(), platform=wanted)
    print(digest)
    return 0


async def push(image: str, to: str | None, *, url: str | None, store: str | None) -> int:
    """Push an image that is in the store and print its digest."""
    async with connect(url, store=store) as runtime:
        print(await runtime.push(image, to, reporter()))
    return 0


async def tags(repository: str) -> int:
    """Print the tags of a repository."""
    async with RegistryClient() as client:
        async for tag in client.tags(OciRef.parse(repository)):
            print(tag)
    return 0


async def run(options: RunOptions, *, url: str | None, store: str | None) -> int:
    """Run a container, its image pulled first if the engine lacks it; return its exit status."""
    spec = options.to_spec()
    async with connect(url, store=store) as runtime:
        try:
            await runtime.inspect(spec.image)
        except ImageNotFound:
            await runtime.pull(OciRef.parse(options.image), reporter())
        outcome = await runtime.run(spec)
    return outcome.exit_code


async def reap(*, url: str | None, store: str | None) -> int:
    """Remove what killed programs left, print the IDs; return 1 if something could not be removed."""
    async with connect(url, store=store) as runtime:
        report = await runtime.reap()
    for container in report.removed:
        print(container)
    for reason in report.left:
        print(f"not removed: {reason}", file=sys.stderr)
    if report.elsewhere:
        print(f"{report.elsewhere} more are in other engines: reap there, with --url", file=sys.stderr)
    return 1 if report.left else 0


async def doctor(*, url: str | None, store: str | None) -> int:
    """Print what engine is found and what it can do."""
    async with connect(url, store=store) as runtime:
        info = await runtime.health_check()
        print(f"{info.name} {info.version}")
        for name, value in info.extra.items():
            print(f"  {name}: {value}")
        for sentence in known_faults(info.extra["parts"].split(",")):
            print(f"  {sentence}")
        places = (os.environ.get("TMPDIR") or "/tmp", "/var/tmp", f"{info.extra['data_root']}/tmp")
        for path, size in (await in_thread(find_leftovers, places)).items():
            print(f"left by an engine that died: {path} ({size} bytes), can be removed")
        references, free = await runtime.store.references(), await runtime.store.free_bytes()
        print(f"store: {runtime.store.path} ({len(references)} images, {free} bytes free)")
        for sentence in await runtime.store.lacking():
            print(f"  {sentence}")
    return 0
