"""The engine's disk is full: told as such by each engine, and the next pull succeeds when there is room."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.engine.disk import load_failure
from tests.conftest import demand
from tests.support import engines
from tests.support.tools import push_mid_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime

DISK = 40 << 20


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of its own, too small for the image below while `ballast` lies on it."""
    with tempfile.TemporaryDirectory(prefix="ai-disk-") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


@contextmanager
def on_small_disk(flavor: engines.Flavor, what: str) -> Iterator[tuple[engines.Engine, Path]]:
    """An engine whose data, or whose temporary directory, is on a small disk; and the file that fills it."""
    demand(flavor)
    if what == "data":
        with small_disk() as disk, engines.start(flavor, data=disk) as engine:
            yield engine, disk / "ballast"
        return
    with engines.start(flavor) as engine:
        # The engine sees mounts of its own: the new one has to be made there.
        inside = ["nsenter", f"--target={engine.process.pid}", "--mount"]
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", f"{engine.root}/tmp"]
        subprocess.run([*inside, *mount], check=True)
        yield engine, Path(f"/proc/{engine.pid}/root{engine.root}/tmp/ballast")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flavor", "what"), [("docker-20.10", "data"), ("podman-4.3", "data"), ("podman-4.3", "temporary files")]
)
async def test_a_full_disk(
    registry: LocalRegistry, store: ar.ImageStore, tmp_path: Path, flavor: str, what: str
) -> None:
    """E2: no room for an image is EngineDiskFull with the remedy; when there is room, the next pull works."""
    image = await push_mid_size(registry, tmp_path / "layout")
    with on_small_disk(engines.FLAVORS[flavor], what) as (engine, ballast):
        ballast.write_bytes(bytes(DISK - (8 << 20)))
        async with ar.connect(engine.url, store=store) as runtime:
            with pytest.raises(
                ar.EngineDiskFull, match=f"make room .*{engine.data}.*{engine.kind} system prune"
            ):
                await runtime.pull(image)
            with pytest.raises(ar.ImageNotFound):
                await runtime.inspect(image)

            ballast.unlink()
            await runtime.pull(image)
            spec = ar.RunSpec(image, ["ls", "/data"], capture_output=True)
            assert (await runtime.run(spec)).stdout == b"0\n1\n2\n3\n"


async def test_a_full_disk_that_the_engine_does_not_tell(runtime: EngineRuntime) -> None:
    """E2: if the disk of an engine on this machine has less room than what was sent, that is told."""
    said = ar.EngineError("payload does not match any of the supported image formats", status=500)

    some = await load_failure(runtime._client, said, sent=1000)
    more = await load_failure(runtime._client, said, sent=1 << 60)

    assert type(some) is ar.ImageLoadFailed
    assert isinstance(more, ar.EngineDiskFull)
    assert more.status == 500
    assert f"was sent {1 << 60}" in str(more)
    assert said.message in str(more)


@pytest.mark.parametrize("words", ["write /x: no space left on device", "open /x: Disk quota exceeded"])
async def test_what_engines_say_of_a_full_disk(runtime: EngineRuntime, words: str) -> None:
    """E2: the kernel's words for a full disk or quota in the engine's answer are EngineDiskFull."""
    failure = await load_failure(runtime._client, ar.EngineError(words), sent=0)
    assert isinstance(failure, ar.EngineDiskFull)
