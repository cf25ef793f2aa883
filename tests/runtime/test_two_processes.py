"""Two processes assemble the same image into the same engine at once: one image, no error."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.support.tools import push_mid_size, remove_images

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

ROUNDS = 2
_REPOSITORY = Path(__file__).resolve().parents[2]


class Puller:
    """A process that pulls the image each time it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().rstrip()

    async def pull(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(b"pull\n")
        return await self.line()


@asynccontextmanager
async def puller(*arguments: object) -> AsyncIterator[Puller]:
    """Start a process and wait until it is ready; end it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.runtime.puller", *map(str, arguments)),
        cwd=_REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        started = Puller(process)
        assert await started.line() == "ready"
        yield started
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """The engine that the test asks for."""
    return every_engine


@pytest.mark.parametrize("stores", ["the same store", "a store each"])
@pytest.mark.parametrize(
    "every_engine", ["docker-20.10", "podman-4.3", "docker-26.1-containerd"], indirect=True
)
async def test_two_at_once(
    runtime: EngineRuntime, engine: Engine, registry: LocalRegistry, tmp_path: Path, stores: str
) -> None:
    """Two processes that pull one image into one engine at once both succeed, and it is there once."""
    image = await push_mid_size(registry, tmp_path / "layout")
    first = runtime.store.path
    second = first if stores == "the same store" else tmp_path / "other"
    async with puller(engine.url, first, image) as one, puller(engine.url, second, image) as two:
        digest = (await runtime.resolve(image)).digest
        for _ in range(ROUNDS):
            answers = await asyncio.gather(one.pull(), two.pull())
            assert set(answers) == {str(digest)}
            listed = await runtime._client.json("GET", "/images/json", params={"all": "1"})
            assert len(listed) == 1
            assert listed[0]["RepoTags"] == [str(image)]
            outcome = await runtime.run(ar.RunSpec(image, ["ls", "/data"], capture_output=True))
            assert outcome.stdout == b"0\n1\n2\n3\n"
            await remove_images(runtime)
