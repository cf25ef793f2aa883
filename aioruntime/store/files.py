"""The files of the store (L2): opened, read, written, locked and replaced, with every error told.

With `directories`, the one way to the file system: nothing else in the store calls `os`. Opens never follow a
symbolic link and never wait for a FIFO, and take nothing but regular files.
"""

from __future__ import annotations

__all__ = (
    "File",
    "create",
    "link",
    "open_existing",
    "open_locked",
    "open_regular",
    "open_scratch",
    "processors",
    "read_small",
    "replace",
    "temporary",
    "touch",
)

import fcntl
import os
import stat
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import filelock

from aioruntime.errors import StoreError
from aioruntime.store import access, directories
from aioruntime.store.remedies import not_a_file

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.directories import Status

# O_NONBLOCK: opening a FIFO that someone put in a blob's place must not wait for its other end.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FICLONE = 0x40049409
# Seconds that another user has to give a file that it made its permissions, which takes microseconds.
_TO_FINISH = 1.0


class File:
    """An open regular file. All calls block; none moves a file position.

    Args:
        fd: its descriptor, owned from now on.
        path: where it was opened.
    """

    __slots__ = ("_fd", "_locked", "path")

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._locked = False
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def status(self) -> Status:
        """Return size and identity of the file."""
        with directories.telling(self.path):
            return directories.status_of(os.fstat(self._fd))

    def read_at(self, offset: int, count: int) -> bytes:
        """Read up to *count* bytes from *offset* on; fewer only at the end."""
        parts = []
        with directories.telling(self.path):
            while count and (part := os.pread(self._fd, count, offset)):
                parts.append(part)
                offset += len(part)
                count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview, need: int) -> None:
        """Write all of *data* at *offset*; *need* is the number of bytes to tell if the disk is full."""
        with directories.telling(self.path, need), memoryview(data) as view:
            done = 0
            while done < len(view):
                with view[done:] as rest:
                    done += os.pwrite(self._fd, rest, offset + done)

    def truncate(self, length: int) -> None:
        """Cut the file to *length* bytes."""
        with directories.telling(self.path):
            os.ftruncate(self._fd, length)

    def clone(self, source: File) -> bool:
        """Share the content of *source*, on the disk too; False if the file system can't."""
        try:
            fcntl.ioctl(self._fd, _FICLONE, source._fd)
        except OSError:
            return False
        return True

    def sync(self, need: int = 0) -> None:
        """Wait until the content is on the disk."""
        with directories.telling(self.path, need):
            os.fsync(self._fd)

    def protect(self) -> None:
        """Make the file read-only for everyone, where that can be: another user's file stays as it is."""
        with suppress(OSError):
            os.fchmod(self._fd, stat.S_IMODE(os.fstat(self._fd).st_mode) & ~0o222)

    def try_lock(self) -> bool:
        """Take the exclusive lock; False if it is held elsewhere or the path has another file by now."""
        _lockable.add(self)
        with directories.telling(self.path):
            self._locked = filelock.lock_descriptor(self._fd, blocking=False)
        # Its last holder may have renamed or removed the file between our open and our lock.
        return self._locked and self.in_place()

    def in_place(self) -> bool:
        """Tell whether the path still has this file: if not, others may have its lock too."""
        found = directories.lookup(self.path) if self._fd >= 0 else None
        return found is not None and found.same_file(self.status())

    def rename(self, new: Path) -> None:
        """Give this file a new name, in place of what has that name; `directories.sync` makes it durable."""
        if not self.in_place():
            raise StoreError(
                f"{self.path} was removed or replaced while it was written; try again, "
                "and leave what is in the store to the tools that write it"
            )
        directories.rename(self.path, new)

    def unlink(self) -> None:
        """Remove the file; harmless if it is not there, or is another's by now."""
        if self.in_place():
            directories.unlink(self.path)

    def forget(self) -> None:
        """Close in a forked child what its parent locked: the lock is the parent's, and goes with it."""
        with suppress(OSError):
            os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Release the lock and close; harmless if already closed."""
        _lockable.discard(self)
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        # Data that matters was synced; what close reports late can't be acted on any more.
        with suppress(OSError):
            if self._locked:
                # A child forked by foreign code may share the lock: closing alone would leave it held.
                filelock.unlock_descriptor(fd)
        with suppress(OSError):
            os.close(fd)


# Descriptors that may have a lock. A child forked by Python gives up its copies: it would keep the locks of a
# parent that is killed, and lose those of one that lives by closing them.
_lockable: set[File] = set()


def _forget_locks() -> None:
    while _lockable:
        _lockable.pop().forget()


os.register_at_fork(after_in_child=_forget_locks)


def open_regular(path: Path) -> File | None:
    """Open a file for reading; None if nothing is there."""
    with directories.telling(path):
        try:
            return _regular(os.open(path, os.O_RDONLY | _FLAGS), path)
        except FileNotFoundError:
            return None


def open_existing(path: Path) -> File | None:
    """Open a file for reading and writing; None if nothing is there."""
    with directories.telling(path):
        try:
            return _regular(os.open(path, os.O_RDWR | _FLAGS), path)
        except FileNotFoundError:
            return None


def open_locked(path: Path, need: int = 0) -> File | None:
    """Open a file for reading and writing, made if it is not there, and lock it; None if that must wait.

    Args:
        path: the file.
        need: bytes that are to be written, to be told if there is no room for another file.
    """
    with directories.telling(path, need):
        fd = _open_or_make(path)
        if fd is None:
            return None
        file = _regular(fd, path)
    try:
        if file.try_lock():
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _open_or_make(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | _FLAGS)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another was faster; what it makes may not be open to us yet
            return _make_file(path, os.O_RDWR)
    except PermissionError:
        with suppress(FileNotFoundError):
            found = os.lstat(path)
            if access.is_unfinished(found, os.stat(path.parent)):
                if abs(time.time() - found.st_ctime) > _TO_FINISH:
                    os.unlink(path)  # its maker was killed
            elif not os.access(path, os.R_OK | os.W_OK):
                raise
    return None


def _make_file(path: Path, access_mode: int) -> int:
    parent = os.stat(path.parent)
    mode = access.file_mode(parent)
    fd = os.open(path, access_mode | os.O_CREAT | os.O_EXCL | _FLAGS, mode)
    try:
        directories.hand_over(fd, parent, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_scratch(directory: Path) -> File:
    """Open a file for reading and writing that has no name, and is gone when it is closed."""
    with directories.telling(directory), tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        return File(os.dup(file.fileno()), directory)


def _regular(fd: int, path: Path) -> File:
    file = File(fd, path)
    try:
        if not file.status().regular:
            raise not_a_file(path)
    except BaseException:
        file.close()
        raise
    return file


def create(path: Path, need: int = 0) -> File:
    """Open a new file for writing, *need* bytes of it, in place of what has that name."""
    directories.unlink(path)
    with directories.telling(path, need):
        return File(_make_file(path, os.O_WRONLY), path)


def link(file: File, path: Path, like: File) -> bool:
    """Give a file a further name, if nothing has that.

    False if others may read *like* than may read the file, or if the file system can't, or won't.
    """
    with directories.telling(path):
        if _readers(os.fstat(file._fd)) != _readers(os.fstat(like._fd)):
            return False
    try:
        os.link(file.path, path, follow_symlinks=False)
    except OSError:
        return False
    found = directories.lookup(path)
    if found is not None and found.same_file(file.status()):
        return True
    directories.unlink(path)  # the file had been replaced since it was opened
    return False


def _readers(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_uid, found.st_gid, found.st_mode & 0o555


def replace(path: Path, data: bytes, *, over: Status | None = None) -> bool:
    """Put *data* at *path*, so that readers and a power cut find the old content or the new, never a mix.

    The caller holds a lock that keeps others from doing the same.

    Args:
        path: the file.
        data: its new content.
        over: what to replace; if something else is at *path* by then, it stays. None for whatever is there.

    Returns:
        Whether it was replaced.
    """
    new = temporary(path)
    with create(new, len(data)) as file:
        try:
            file.write_at(0, data, len(data))
            file.sync(len(data))
            if over is not None and directories.lookup(path) != over:
                file.unlink()
                return False
            file.rename(path)
        except BaseException:
            file.unlink()
            raise
    directories.sync(path.parent)
    return True


def temporary(path: Path) -> Path:
    """Return where `replace` writes what *path* gets."""
    return path.with_name(f".{path.name}.new")


def touch(path: Path, *, make: bool = True) -> None:
    """Set a file's time to now.

    Args:
        path: the file.
        make: whether it is made if it is not there.
    """
    with directories.telling(path):
        try:
            os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            if make:
                with suppress(FileExistsError):  # another made it now
                    os.close(_make_file(path, os.O_WRONLY))


def read_small(path: str, limit: int) -> bytes | None:
    """Return up to *limit* bytes of a small file; None if that fails, for whatever reason.

    For thousands of files in a row: `open_regular` tells more, and takes several times as long.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
        try:
            return os.pread(fd, limit, 0)
        finally:
            os.close(fd)
    except OSError:
        return None


def processors() -> int:
    """Return how many processors this process may use."""
    # Linux alone tells which ones.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
