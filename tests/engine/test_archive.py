from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine import containers
from aioruntime.engine.archive import get_archive, put_archive
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.errors import EngineError, InvalidSpec, StreamTruncated
from aioruntime.runtime.files import tar_of
from aioruntime.runtime.unpack import unpack
from tests.engine.running import created, output_of, started
from tests.support.leaks import assert_settles, snapshot
from tests.support.proxy import Fault, UnixProxy
from tests.support.scripted import Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.engines import Engine


def tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def pieces(data: bytes, size: int = 100) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_in_and_out(each_client: EngineClient, each_image: str, tmp_path: Path) -> None:
    """A directory goes into a container that has not been started, is seen by it, and comes out with more."""
    source = tmp_path / "BZh9"
    (source / "sub").mkdir(parents=True)
    (source / "sub/big").write_bytes(bytes(range(256)) * 10_000)
    (source / "program").write_text("#!/bin/sh\necho from outside; echo x > /BZh9/sub/new\n")
    (source / "program").chmod(0o755)
    (source / "link").symlink_to("sub/big")
    async with created(each_client, each_image, "/BZh9/program") as container:
        await put_archive(each_client, container, "/", tar_of(source))
        async with containers.attach(each_client, container) as output:
            await containers.start(each_client, container)
            assert (await output_of(output))["stdout"] == b"from outside\n"
        await containers.wait(each_client, container)

        (tmp_path / "into").mkdir()
        async with get_archive(each_client, container, "/BZh9") as (found, archive):
            assert (found.name, found.link_target) == ("BZh9", "")
            await unpack(archive, tmp_path / "into", under=found.name)
        back = tmp_path / "into/BZh9"
        assert (back / "sub/big").read_bytes() == (source / "sub/big").read_bytes()
        assert (back / "sub/new").read_bytes() == b"x\n"
        assert (back / "link").readlink() == (source / "link").readlink()
        assert (back / "program").stat().st_mode == (source / "program").stat().st_mode

        async with get_archive(each_client, container, "/BZh9/sub/big") as (found, archive):
            assert (found.name, found.size) == ("big", 2_560_000)
            await unpack(archive, tmp_path / "into", under="big")
        assert (tmp_path / "into/big").stat().st_size == 2_560_000
        with pytest.raises(EngineError):
            await put_archive(each_client, container, "/BZh9", pieces(tar(sub=b"a file")))
        await put_archive(each_client, container, "/BZh9", pieces(tar(program=b"new")))


async def test_a_container_that_runs(client: EngineClient, image: str, tmp_path: Path) -> None:
    """Files go into a running container, and come out."""
    async with started(client, image) as container:
        await put_archive(client, container, "/bin", pieces(tar(a=b"content")))
        async with get_archive(client, container, "/bin/a") as (found, archive):
            await unpack(archive, tmp_path, under=found.name)
    assert (tmp_path / "a").read_bytes() == b"content"


async def test_nothing_there(each_client: EngineClient, each_image: str) -> None:
    """No such container, file or directory is status 404."""
    async with created(each_client, each_image, "sleep", "1") as container:
        for name, path in ((container, "/no/such"), ("no-such-container", "/")):
            with pytest.raises(EngineError) as caught:
                async with get_archive(each_client, name, path):
                    pass
            assert caught.value.status == 404
            with pytest.raises(EngineError) as caught:
                await put_archive(each_client, name, path, pieces(tar(a=b"")))
            assert caught.value.status == 404


PLAIN = tar(a=b"content")
NOT_PLAIN = {
    "gzip": gzip.compress(PLAIN),
    "bzip2": bz2.compress(PLAIN),
    "xz": lzma.compress(PLAIN),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(600),
    "zstd's skippable frame": b"\x50\x2a\x4d\x18" + bytes(600),
    "a tar that begins as bzip2": tar(BZh9=b"content"),
    "text": b"text" * 200,
    "half a header": PLAIN[:300],
    "a wrong sum": b"b" + PLAIN[1:],
    "nothing": b"",
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
async def test_only_plain_archives_are_sent(docker_engine: Engine, tmp_path: Path, kind: str) -> None:
    """THREATS E10: nothing but a plain tar archive is sent to be unpacked, not one byte."""
    async with (
        UnixProxy(tmp_path / "s", docker_engine.socket) as proxy,
        EngineClient.open(Endpoint(proxy.url, "test")) as client,
    ):
        with pytest.raises(InvalidSpec, match=r"compressed|no tar"):
            await put_archive(client, "c", "/", pieces(NOT_PLAIN[kind]))
        assert not any("PUT" in line for one in proxy.connections for line in one.requests)


async def test_a_source_that_fails(client: EngineClient, image: str) -> None:
    """What the source of an archive raises comes out, at the beginning and in the middle."""

    async def failing(data: bytes) -> AsyncIterator[bytes]:
        yield data
        raise LookupError("the source")

    async with created(client, image, "sleep", "1") as container:
        for data in (b"", tar(a=bytes(100_000))[:50_000]):
            with pytest.raises(LookupError, match="the source"):
                await put_archive(client, container, "/", failing(data))


async def test_nothing_is_no_archive(
    server: ScriptedServer, fake: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer without an archive, as Podman gives while it cleans up, is asked again, then an error."""
    monkeypatch.setattr("aioruntime.engine.archive._PAUSES", (0.0, 0.0, 0.0))
    stat = {"name": "f", "size": 1, "mode": 420, "mtime": "2026-01-01T00:00:00Z", "linkTarget": ""}
    header = {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(stat).encode()).decode()}
    path = "/v1.41/containers/c/archive"
    route = server.on("GET", path, Reply(headers=header), Reply(headers=header, body=PLAIN))
    async with get_archive(fake, "c", "/f") as (_, archive):
        assert b"".join([piece async for piece in archive]) == PLAIN
    assert len(route.hits) == 2


async def test_cut(engine: Engine, client: EngineClient, image: str, tmp_path: Path) -> None:
    """An archive that is cut on its way out is told to be."""
    async with created(client, image, "sleep", "1") as container:
        await put_archive(client, container, "/", pieces(tar(big=bytes(500_000)), 100_000))
        async with (
            UnixProxy(tmp_path / "s", engine.socket) as proxy,
            EngineClient.open(Endpoint(proxy.url, "test")) as through,
        ):
            proxy.add(Fault("cut", after=300_000, request=r"GET .*/archive"))
            async with get_archive(through, container, "/big") as (_, archive):
                with pytest.raises(StreamTruncated):
                    await unpack(archive, tmp_path, under="big")


async def test_left_early(client: EngineClient, image: str) -> None:
    """Who reads only the beginning of an archive leaves nothing open."""
    async with created(client, image, "sleep", "1") as container:
        await put_archive(client, container, "/", pieces(tar(big=bytes(5_000_000)), 100_000))
        before = snapshot()
        async with get_archive(client, container, "/big") as (_, archive):
            assert await anext(archive)
        # The engine's own processes are below this one, so only files and tasks are compared.
        await assert_settles(type(before)(before.files, snapshot().children, before.tasks))
