"""Files into a container and out of it, as plain tar archives (L2)."""

from __future__ import annotations

__all__ = ("PathStat", "get_archive", "put_archive")

import base64
import re
import tarfile
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import anyio
import msgspec

from aioruntime.engine.client import path_part
from aioruntime.engine.liveness import heard, while_alive
from aioruntime.errors import EngineError, InvalidSpec, one_line
from aioruntime.tasks import iterating, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    import aiohttp

    from aioruntime.engine.client import EngineClient

_BLOCK = 512
_PAUSES = (0.05, 0.2, 0.5, 1.0)
# What engines take for bzip2, gzip, xz and zstd (with its skippable frames). For some of them they run a
# program, and Docker was once made to run the container's own, as root of its machine.
_COMPRESSED = re.compile(rb"BZh|\x1f\x8b|\xfd7zXZ\0|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
# Bits of Go's os.FileMode.
_GO_SYMLINK = 27
_STAT = "X-Docker-Container-Path-Stat"


@dataclass(frozen=True, slots=True)
class PathStat:
    """A file or directory in a container.

    Attributes:
        name: its last name, the one that the names in its archive begin with.
        size: its size in bytes.
        mode: type and rights, in the bits of Go's ``os.FileMode``; the lowest nine are as everywhere.
        mtime: when it was last written.
        link_target: for a symbolic link, where to; empty otherwise.
    """

    name: str
    size: int
    mode: int
    mtime: datetime
    link_target: str


class _Stat(msgspec.Struct, rename="camel"):
    name: str
    size: int
    mode: int
    mtime: datetime
    link_target: str = ""


async def put_archive(
    client: EngineClient,
    container: str,
    path: str,
    tar: AsyncIterator[bytes],
) -> None:
    """Unpack a tar archive in a container, whether it runs or not.

    Prefer one that has not been started: what runs in it can meddle with the paths.

    Args:
        client: the engine.
        container: ID or name of the container.
        path: a directory in the container, to unpack in.
        tar: pieces of a tar archive that is not compressed; what it raises comes out.

    Raises:
        InvalidSpec: what *tar* gives is compressed or no tar archive; nothing was sent.
        EngineError: there is no such container or directory (status 404), or the engine refused the archive.
    """
    first = b""
    async for piece in tar:
        first += piece
        if len(first) >= _BLOCK:
            break
    _demand_plain(first)

    target = f"/containers/{path_part(container)}/archive"
    if client.capabilities.kind == "podman":
        # It would make a directory that is not there.
        with _naming(path):
            await client.send("HEAD", target, params={"path": path})
    call = client.stream(
        "PUT",
        target,
        params={"path": path, "noOverwriteDirNonDir": "1"},
        body=_from(first, tar),
        headers={"Content-Type": "application/x-tar"},
    )

    async def send() -> None:
        async with call as response:
            await response.read()

    await while_alive(client, send())


def _demand_plain(first: bytes) -> None:
    if _COMPRESSED.match(first):
        raise InvalidSpec("a tar archive is sent into a container as it is, and this one is compressed")
    block = first[:_BLOCK]
    if block == bytes(_BLOCK):
        return  # an archive of nothing
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as exc:
        raise InvalidSpec(f"what is to be sent into the container is no tar archive: {exc}") from exc


@asynccontextmanager
async def get_archive(
    client: EngineClient, container: str, path: str
) -> AsyncGenerator[tuple[PathStat, AsyncIterator[bytes]]]:
    """Give a file or directory of a container, as pieces of a tar archive, for the time of the context.

    What the archive says is for the container to choose: see `aioruntime.runtime.unpack`.

    Args:
        client: the engine.
        container: ID or name of the container; it need not run.
        path: the file or directory in the container; a symbolic link at its end is given as such.

    Raises:
        EngineError: there is no such container or path (status 404).
        EngineUnavailable: the engine can't be reached, or (while iterating) does not answer any more.
        StreamTruncated: the connection was cut (raised while iterating).
    """
    target = f"/containers/{path_part(container)}/archive"
    async with AsyncExitStack() as stack:
        for pause in _PAUSES:
            # aiohttp would ask for gzip, and Docker then takes its time to compress.
            headers = {"Accept-Encoding": "identity"}
            call = client.stream("GET", target, params={"path": path}, headers=headers)
            with _naming(path):
                response = await while_alive(client, stack.enter_async_context(call))
            stat = _path_stat(target, response.headers.get(_STAT, ""))
            pieces = _pieces(client, f"GET {target}", response)
            stack.push_async_callback(partial(_close, pieces))
            if first := await anext(pieces, b""):
                break
            # Podman gives nothing of a container that has just ended, while it cleans up.
            await stack.aclose()
            await anyio.sleep(pause)
        else:
            raise EngineError(f"GET {target}: the engine gave nothing of {one_line(path)}")
        yield stat, await stack.enter_async_context(iterating(_from(first, pieces)))


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say which path is not there; Podman does not."""
    try:
        yield
    except EngineError as exc:
        if exc.status == 404 and path not in exc.message:
            raise EngineError(f"{one_line(path)}: {exc.message}", status=404) from exc
        raise


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for piece in rest:
        yield piece


async def _close(pieces: AsyncGenerator[bytes]) -> None:
    await to_completion(pieces.aclose())


def _path_stat(target: str, told: str) -> PathStat:
    try:
        found = msgspec.json.decode(base64.b64decode(told, validate=True), type=_Stat)
    except (ValueError, msgspec.DecodeError) as exc:
        raise EngineError(
            f"GET {target}: the engine does not tell what is there: {one_line(str(exc))}"
        ) from exc
    # Podman tells the path itself for what is no link.
    link = found.link_target if found.mode >> _GO_SYMLINK & 1 else ""
    return PathStat(found.name, found.size, found.mode, found.mtime, link)


async def _pieces(client: EngineClient, call: str, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    with client.failures(call):
        while data := await heard(client, response.content.readany):
            yield data
