"""Files into a running container and out of it, on each generation of engine."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.runtime.conftest import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


@pytest.fixture
async def container(runtime: EngineRuntime, shell: str) -> AsyncIterator[ar.Container]:
    """A container that goes on until it is removed."""
    async with runtime.start(script(shell, "sleep 600")) as container:
        yield container


async def test_there_and_back(container: ar.Container, tmp_path: Path) -> None:
    """A directory that was put into the container comes out of it as it was."""
    source = tmp_path / "tree"
    (source / "below").mkdir(parents=True)
    (source / "below" / "big").write_bytes(bytes(range(256)) * 20_000)
    (source / "link").symlink_to("below/big")

    await container.put(source, "/data")
    assert (await container.run(["cat", "/data/tree/link"])).stdout == bytes(range(256)) * 20_000
    (back := tmp_path / "back").mkdir()

    assert await container.get_into("/data/tree", back) == back / "tree"
    assert (back / "tree" / "below" / "big").read_bytes() == bytes(range(256)) * 20_000
    assert (back / "tree" / "link").readlink().name == "big"


async def test_an_archive_as_a_stream(container: ar.Container) -> None:
    """An archive is taken as it comes in pieces, and given so; a compressed one is refused."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("hello")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"hello"))

    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    await container.put(pieces(buffer.getvalue()), "/data")
    async with container.get("/data/hello") as archive:
        data = b"".join([piece async for piece in archive])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        [member] = tar.getmembers()
        assert (member.name, member.size) == ("hello", 5)
    with pytest.raises(ar.InvalidSpec, match="compressed"):
        await container.put(pieces(b"\x1f\x8b\x08" + bytes(600)), "/data")


async def test_what_is_not_there(container: ar.Container, tmp_path: Path) -> None:
    """A path that does not exist, in the container or here, is an error that names it."""
    with pytest.raises(ar.EngineError, match="nowhere") as caught:
        await container.get_into("/nowhere", tmp_path)
    assert caught.value.status == 404
    with pytest.raises(FileNotFoundError, match="absent"):
        await container.put(tmp_path / "absent", "/data")
    with pytest.raises(ar.EngineError) as caught:
        await container.put(tmp_path, "/nowhere")
    assert caught.value.status == 404


async def test_mounts_are_told(
    runtime: EngineRuntime, shell: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """THREATS E10: files put into a running container with mounts are sent, and the log says so."""
    (tmp_path / "one").write_text("1")
    spec = script(shell, "sleep 600", mounts=[ar.Mount(tmp_path, "/mounted")])
    async with runtime.start(spec) as container:
        await container.put(tmp_path / "one", "/data")
    assert "with /mounted mounted" in caplog.text
