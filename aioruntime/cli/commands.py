"""What the commands do (L5)."""

from __future__ import annotations

__all__ = ("RunOptions", "doctor", "pull", "run")

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from aioruntime.cli.progress import reporter
from aioruntime.errors import ImageNotFound, InvalidSpec, RunError
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from aioruntime.runtime.connect import connect
from aioruntime.runtime.spec import GpuProfile, GpuSpec, Mount, RunSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path
    from typing import Any

_P = ParamSpec("_P")
# What shells report for a program that SIGPIPE ended.
_NO_READER = 141


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


def _quiet_without_a_reader(
    command: Callable[_P, Awaitable[int]],
) -> Callable[_P, Coroutine[Any, Any, int]]:
    """Make *command* end with 141, as other programs do, once nobody reads what it prints (``| head``)."""

    @wraps(command)
    async def quiet(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            status = await command(*args, **kwargs)
            sys.stdout.flush()
        except (BrokenPipeError, RunError) as exc:
            if not isinstance(exc, BrokenPipeError) and not isinstance(exc.__cause__, BrokenPipeError):
                raise
            # What is still buffered goes nowhere, so that the interpreter's last flush has nothing to tell.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
            return _NO_READER
        return status

    return quiet


@_quiet_without_a_reader
async def pull(image: str, *, url: str | None, store: Path | None, platform: str | None) -> int:
    """Pull an image and print its digest."""
    reference = OciRef.parse(image)
    wanted = Platform.parse(platform) if platform else None
    async with connect(url, store=store) as runtime:
        digest = await runtime.pull(reference, reporter(), platform=wanted)
    print(digest)
    return 0


@_quiet_without_a_reader
async def run(options: RunOptions, *, url: str | None, store: Path | None) -> int:
    """Run a container, its image pulled first if the engine lacks it; return its exit status."""
    spec = options.to_spec()
    async with connect(url, store=store) as runtime:
        try:
            await runtime.inspect(spec.image)
        except ImageNotFound:
            await runtime.pull(OciRef.parse(options.image), reporter())
        outcome = await runtime.run(spec)
    return outcome.exit_code


@_quiet_without_a_reader
async def doctor(*, url: str | None, store: Path | None) -> int:
    """Print what engine is found and what it can do."""
    async with connect(url, store=store) as runtime:
        info = await runtime.health_check()
        print(f"{info.name} {info.version}")
        for name, value in info.extra.items():
            print(f"  {name}: {value}")
        print(f"store: {runtime.store.path}")
    return 0
