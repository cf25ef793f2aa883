"""Files of this machine as a tar archive for a container, streamed (L4)."""

from __future__ import annotations

__all__ = ("tar_of",)

import os
import tarfile
from typing import TYPE_CHECKING

from aioruntime.assembly.tar import END
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator
    from pathlib import Path

_CHUNK = 1 << 18
_BLOCK = 512


async def tar_of(path: Path, *, name: str | None = None) -> AsyncGenerator[bytes]:
    """Give a file or directory of this machine as pieces of a plain tar archive, owned by root.

    Symbolic links in it are kept as such, sockets left out.

    Args:
        path: the file or directory; a symbolic link is followed.
        name: what to call it in the archive; None for its own name, ``.`` for the directory unpacked in.

    Raises:
        OSError: something can't be read, or a file became shorter meanwhile.
    """
    pieces = _gathered(path, name)
    try:
        while piece := await in_thread(next, pieces, b""):
            yield piece
    finally:
        await to_completion(in_thread(pieces.close))


def _gathered(path: Path, name: str | None) -> Generator[bytes]:
    """Join what is small, so that few pieces have to go from thread to thread."""
    path = path.resolve(strict=True)
    gathered = bytearray()
    for piece in _archive(path, os.path.join(".", path.name if name is None else name).removesuffix("/.")):
        gathered += piece
        if len(gathered) >= _CHUNK:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered) + END


def _archive(path: Path, name: str) -> Iterator[bytes]:
    # Beginning with "./", the archive can't be taken for a compressed one, whatever the file is called.
    with tarfile.open(os.devnull, "w", format=tarfile.PAX_FORMAT) as helper:
        waiting = [(os.fspath(path), name)]
        while waiting:
            place, inside = waiting.pop()
            info = helper.gettarinfo(place, inside)
            if info is None:  # a socket
                continue
            info.uid, info.gid, info.mtime = 0, 0, int(info.mtime)
            info.uname = info.gname = ""
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if info.isreg():
                yield from _content(place, info.size)
            elif info.isdir():
                below = sorted(os.listdir(place), reverse=True)
                waiting += [(os.path.join(place, one), f"{inside}/{one}") for one in below]


def _content(place: str, size: int) -> Iterator[bytes]:
    """Give just so many bytes of a file: the archive's header has told how many there are."""
    left = size
    with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        while left:
            piece = file.read(min(_CHUNK, left))
            if not piece:
                raise OSError(f"{place} became shorter while it was read")
            left -= len(piece)
            yield piece
    yield bytes(-size % _BLOCK)
