"""An archive from a container as files of this machine, checked (L4).

Whoever controls a container writes the archives that come out of it. Nothing here goes by the names in
them alone: each directory on the way is opened for what it is, never through a symbolic link.
"""

from __future__ import annotations

__all__ = ("unpack",)

import asyncio
import errno
import os
import queue
import stat
import tarfile
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from aioruntime.assembly.tar import BadTar, Header, TarReader, split_header
from aioruntime.errors import ArchiveRefused, one_line
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_CHUNK = 1 << 18
_BLOCK = 512
# Linux's own limit of a path.
_PATH_LIMIT = 4096
_RIGHTS = 0o755
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECES_AHEAD = 4


async def unpack(tar: AsyncIterator[bytes], into: Path, *, under: str) -> None:
    """Unpack an archive from a container in a directory of this machine.

    Files get their content, times and rights, without write rights for others and without set-user-ID and
    the like; they belong to whoever unpacks. What is there already is replaced, but no directory by a file.

    Args:
        tar: the pieces of the archive; what it raises comes out.
        into: the directory, which must exist.
        under: the only name in *into* that the archive may touch: it, and what is below it; ``.`` for all.

    Raises:
        ArchiveRefused: it is no archive, or has names that are not under *under*, links that lead elsewhere,
            devices, pipes, or the like. What came before stays in *into*; nothing else was touched.
        OSError: the disk is full, *into* may not be written, or the like.
    """
    feed = _Feed(asyncio.get_running_loop())
    async with task_group() as group:
        group.start_soon(in_thread, _unpack, feed, into, under)
        await feed.fill(tar)


class _Ended(Exception):
    """Nobody waits for the files any more."""


class _Feed:
    """Bytes from the event loop for a thread that reads them, a few pieces ahead."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(_PIECES_AHEAD)
        self._piece = memoryview(b"")
        self._complete = False

    async def fill(self, tar: AsyncIterator[bytes]) -> None:
        """Pass everything on; however that ends, the thread comes to an end too."""
        try:
            async for piece in tar:
                await self._room.acquire()
                self._pieces.put(piece)
            self._complete = True
        finally:
            self._pieces.put(None)

    def read(self, count: int) -> bytes:
        """Return up to *count* bytes, none at the end; called by the thread."""
        while not self._piece:
            piece = self._pieces.get()
            if piece is None:
                self._pieces.put(None)  # for the next call
                if not self._complete:
                    raise _Ended
                return b""
            self._piece = memoryview(piece)
            with suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._room.release)
        found = bytes(self._piece[:count])
        self._piece = self._piece[count:]
        return found


def _unpack(feed: _Feed, into: Path, under: str) -> None:
    top = () if under in ("", ".", "/") else (os.fsencode(under),)
    with suppress(_Ended), closing(_Tree(into, top)) as tree:
        try:
            reader, found = TarReader(feed), False
            for header in reader:
                found = True
                tree.add(header, reader)
        except BadTar as exc:
            raise ArchiveRefused(f"the archive from the container is broken: {one_line(str(exc))}") from exc
        while feed.read(_CHUNK):
            pass  # padding; a cut is seen at the end
        if not found:
            raise ArchiveRefused("the archive from the container is empty: its engine can't read that path")


class _Tree:
    """The directory that is unpacked in, held open."""

    def __init__(self, into: Path, top: tuple[bytes, ...]) -> None:
        self._top = top
        self._root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    def add(self, header: Header, reader: TarReader) -> None:
        """Make what *header* tells, its content taken from *reader*."""
        parts = self._parts(header.name, header)
        if not parts:
            if header.kind != "directory":
                raise _refused(header, "it would replace the directory that is unpacked in")
            return
        parent = self._open(parts[:-1], header)
        try:
            self._make(header, reader, parent, parts)
        except tarfile.HeaderError as exc:
            raise _refused(header, "its header is broken") from exc
        finally:
            os.close(parent)

    def _parts(self, name: bytes, header: Header) -> tuple[bytes, ...]:
        """Return the names on the way to *name*, all of which lie where they may."""
        parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
        below = parts and name.startswith(b"/")
        if below or b".." in parts or b"\0" in name or len(name) > _PATH_LIMIT:
            raise _refused(header, "such a name is none of a file below a directory")
        if parts[: len(self._top)] != self._top:
            raise _refused(header, "it was not asked for")
        return parts

    def _open(self, parts: tuple[bytes, ...], header: Header, *, make: bool = True) -> int:
        """Open a directory below the root, none of them a symbolic link, and make what is missing."""
        place = os.dup(self._root)
        for part in parts:
            try:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=place)
                below = os.open(part, _DIRECTORY, dir_fd=place)
            except OSError as exc:
                if exc.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                    raise
                raise _refused(header, f"{part!r} on the way is no directory") from exc
            finally:
                os.close(place)
            place = below
        return place

    def _make(self, header: Header, reader: TarReader, parent: int, parts: tuple[bytes, ...]) -> None:
        name = parts[-1]
        main, records = split_header(header.blocks)
        info = tarfile.TarInfo.frombuf(main[:_BLOCK], "utf-8", "surrogateescape")
        if header.kind == "directory":
            self._make_directory(parent, name, info.mode, header)
            return
        if header.kind not in ("file", "link", "symlink") or info.issparse() or _is_sparse(records):
            raise _refused(header, "it is a device, a pipe or a sparse file")
        if header.kind == "symlink":
            _demand_inside(header, max(0, len(parts) - 1 - len(self._top)))
        if header.kind == "link":
            source = self._parts(header.link, header)
            if source == parts:
                return
        _remove(parent, name, header)
        if header.kind == "symlink":
            os.symlink(header.link, name, dir_fd=parent)
        elif header.kind == "link":
            self._link(header, source, parent, name)
        else:
            _write(header, reader, parent, name, info)

    def _make_directory(self, parent: int, name: bytes, mode: int, header: Header) -> None:
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        place = self._open_one(parent, name, header)
        try:
            os.fchmod(place, mode & _RIGHTS | 0o700)
        finally:
            os.close(place)

    def _open_one(self, parent: int, name: bytes, header: Header) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except NotADirectoryError as exc:
            raise _refused(header, "a file is there already") from exc

    def _link(self, header: Header, source: tuple[bytes, ...], parent: int, name: bytes) -> None:
        if not source:
            raise _refused(header, "it links to a directory")
        place = self._open(source[:-1], header, make=False)
        try:
            if not stat.S_ISREG(os.stat(source[-1], dir_fd=place, follow_symlinks=False).st_mode):
                raise _refused(header, "it links to what is no file")
            os.link(source[-1], name, src_dir_fd=place, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as exc:
            raise _refused(header, "it links to a file that is not there") from exc
        finally:
            os.close(place)


def _write(header: Header, reader: TarReader, parent: int, name: bytes, info: tarfile.TarInfo) -> None:
    left = header.size
    with open(os.open(name, _FILE, 0o600, dir_fd=parent), "wb") as file:
        for piece in reader.content():
            file.write(piece[:left])  # without the padding
            left -= min(left, len(piece))
        file.flush()
        os.fchmod(file.fileno(), info.mode & _RIGHTS | 0o600)
        with suppress(OverflowError, OSError):  # a time that this machine does not know
            os.utime(file.fileno(), (info.mtime, info.mtime))


def _remove(parent: int, name: bytes, header: Header) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError) as exc:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
        raise _refused(header, "a directory is there already") from exc


def _demand_inside(header: Header, depth: int) -> None:
    """Refuse a symbolic link, *depth* directories down in what is unpacked, that leads out of that.

    Its own directory is real, so that leading ".." can be counted. Behind a name they can't: that may be
    a link itself, to a place of another depth.
    """
    parts = [part for part in header.link.split(b"/") if part not in (b"", b".")]
    up = next((n for n, part in enumerate(parts) if part != b".."), len(parts))
    if header.link.startswith(b"/") or up > depth or b".." in parts[up:]:
        raise _refused(header, "it is a symbolic link that may lead elsewhere")


def _is_sparse(records: dict[bytes, bytes]) -> bool:
    return any(key.startswith(b"GNU.sparse.") for key in records)


def _refused(header: Header, why: str) -> ArchiveRefused:
    name = one_line(os.fsdecode(header.name).encode(errors="replace").decode())
    return ArchiveRefused(f"{name} in the archive from the container is refused: {why}")
