"""The one way to the file system (L2): every call of `os` that the store makes, with its errors told.

Opens never follow a symbolic link and never wait for a FIFO, and take nothing but regular files. Every
`OSError` leaves here as a `StoreError` that names the path and what can be done.
"""

from __future__ import annotations

__all__ = (
    "UNFINISHED",
    "File",
    "create",
    "default_root",
    "free_bytes",
    "link",
    "link_target",
    "lookup",
    "make_directory",
    "make_root",
    "names_in",
    "open_existing",
    "open_locked",
    "open_regular",
    "open_scratch",
    "processors",
    "read_only",
    "read_small",
    "refuse_trap",
    "remove",
    "rename",
    "replace",
    "scan",
    "sync_directory",
    "synced",
    "temporary",
    "touch",
    "unlink",
)

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import filelock
import platformdirs

from aioruntime.errors import StoreError
from aioruntime.store import access
from aioruntime.store.remedies import explained, is_full, not_a_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# O_NONBLOCK: opening a FIFO that someone put in a blob's place must not wait for its other end.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FICLONE = 0x40049409
# How the names begin of what is made beside its place.
UNFINISHED = ".aioruntime-"
_T = TypeVar("_T")
# Seconds that another user has to give a file that it made its permissions, which takes microseconds.
_TO_FINISH = 1.0


@contextmanager
def _telling(path: Path, need: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        have = free_bytes(path) if is_full(exc) else 0
        raise explained(exc, path, need=need, have=have) from exc


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
        with _telling(self.path):
            return _status(os.fstat(self._fd))

    def read_at(self, offset: int, count: int) -> bytes:
        """Read up to *count* bytes from *offset* on; fewer only at the end."""
        parts = []
        with _telling(self.path):
            while count and (part := os.pread(self._fd, count, offset)):
                parts.append(part)
                offset += len(part)
                count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write_at(self, offset: int, data: bytes | bytearray | memoryview, need: int) -> None:
        """Write all of *data* at *offset*; *need* is the number of bytes to tell if the disk is full."""
        with _telling(self.path, need), memoryview(data) as view:
            done = 0
            while done < len(view):
                with view[done:] as rest:
                    done += os.pwrite(self._fd, rest, offset + done)

    def truncate(self, length: int) -> None:
        """Cut the file to *length* bytes."""
        with _telling(self.path):
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
        with _telling(self.path, need):
            os.fsync(self._fd)

    def protect(self) -> None:
        """Make the file read-only for everyone, where that can be: another user's file stays as it is."""
        with suppress(OSError):
            os.fchmod(self._fd, stat.S_IMODE(os.fstat(self._fd).st_mode) & ~0o222)

    def try_lock(self) -> bool:
        """Take the exclusive lock; False if it is held elsewhere or the path has another file by now."""
        _lockable.add(self)
        with _telling(self.path):
            self._locked = filelock.lock_descriptor(self._fd, blocking=False)
        # Its last holder may have renamed or removed the file between our open and our lock.
        return self._locked and self.in_place()

    def in_place(self) -> bool:
        """Tell whether the path still has this file: if not, others may have its lock too."""
        found = lookup(self.path) if self._fd >= 0 else None
        return found is not None and found.same_file(self.status())

    def rename(self, new: Path) -> None:
        """Give this file a new name, in place of what has that name; `sync_directory` makes it durable."""
        if not self.in_place():
            raise StoreError(
                f"{self.path} was removed or replaced while it was written; try again, "
                "and leave what is in the store to the tools that write it"
            )
        rename(self.path, new)

    def unlink(self) -> None:
        """Remove the file; harmless if it is not there, or is another's by now."""
        if self.in_place():
            unlink(self.path)

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


class Status(NamedTuple):
    """What the file system tells about a file."""

    regular: bool
    size: int
    device: int
    inode: int
    changed_ns: int
    modified_ns: int

    @property
    def device_name(self) -> str:
        """The device as ``/proc/locks`` writes it."""
        return f"{os.major(self.device):02x}:{os.minor(self.device):02x}"

    def same_file(self, other: Status) -> bool:
        """Tell whether both are of one file, whatever its content."""
        return (self.device, self.inode) == (other.device, other.inode)


def _status(found: os.stat_result) -> Status:
    regular = stat.S_ISREG(found.st_mode)
    return Status(regular, found.st_size, found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns)


def lookup(path: Path) -> Status | None:
    """Return the status of what is at *path*, not following a link; None if nothing is there."""
    with _telling(path):
        try:
            return _status(os.lstat(path))
        except FileNotFoundError:
            return None


def open_regular(path: Path) -> File | None:
    """Open a file for reading; None if nothing is there."""
    with _telling(path):
        try:
            return _regular(os.open(path, os.O_RDONLY | _FLAGS), path)
        except FileNotFoundError:
            return None


def open_existing(path: Path) -> File | None:
    """Open a file for reading and writing; None if nothing is there."""
    with _telling(path):
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
    with _telling(path, need):
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
        _hand_over(fd, parent, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _hand_over(made: int | Path, parent: os.stat_result, mode: int) -> None:
    """Give what we made the group of its directory, and permissions that no umask has taken from."""
    found = os.stat(made)
    # A file system without permissions refuses, or the directory's group is not one of ours.
    if found.st_gid != parent.st_gid:
        with suppress(PermissionError):
            os.chown(made, -1, parent.st_gid)
    if stat.S_IMODE(found.st_mode) != mode:
        with suppress(PermissionError):
            os.chmod(made, mode)


def open_scratch(directory: Path) -> File:
    """Open a file for reading and writing that has no name, and is gone when it is closed."""
    with _telling(directory), tempfile.TemporaryFile(dir=directory, buffering=0) as file:
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
    unlink(path)
    with _telling(path, need):
        return File(_make_file(path, os.O_WRONLY), path)


def link(file: File, path: Path, like: File) -> bool:
    """Give a file a further name, if nothing has that.

    False if others may read *like* than may read the file, or if the file system can't, or won't.
    """
    with _telling(path):
        if _readers(os.fstat(file._fd)) != _readers(os.fstat(like._fd)):
            return False
    try:
        os.link(file.path, path, follow_symlinks=False)
    except OSError:
        return False
    found = lookup(path)
    if found is not None and found.same_file(file.status()):
        return True
    unlink(path)  # the file had been replaced since it was opened
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
            if over is not None and lookup(path) != over:
                file.unlink()
                return False
            file.rename(path)
        except BaseException:
            file.unlink()
            raise
    sync_directory(path.parent)
    return True


def temporary(path: Path) -> Path:
    """Return where `replace` writes what *path* gets."""
    return path.with_name(f".{path.name}.new")


def rename(old: Path, new: Path, *, missing_ok: bool = False) -> bool:
    """Give a file a new name, in place of what has that name; `sync_directory` makes it durable.

    Args:
        old: its name.
        new: the name that it gets.
        missing_ok: whether *old* may be gone.

    Returns:
        Whether it was there.
    """
    with _telling(new):
        try:
            os.rename(old, new)
        except FileNotFoundError:
            if not missing_ok or os.path.lexists(old):
                raise
            return False
    return True


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it; harmless if it is not there."""
    with _telling(path), suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def unlink(path: Path) -> None:
    """Remove a file; harmless if it is not there."""
    with _telling(path), suppress(FileNotFoundError):
        os.unlink(path)


def sync_directory(path: Path) -> bool:
    """Wait until the names in a directory are on the disk; False if its file system can't tell."""
    with _telling(path):
        return _sync_directory(path)


@contextmanager
def synced(path: Path) -> Iterator[None]:
    """Wait, when the context is left, until the names in a directory are on the disk.

    What could keep us from that is met before the names are changed, but an error of the disk.
    """
    with _telling(path):
        fd = os.open(path, _DIRECTORY)
    try:
        yield
        with _telling(path):
            _fsync_directory(fd)
    finally:
        with suppress(OSError):
            os.close(fd)


def _sync_directory(path: Path) -> bool:
    fd = os.open(path, _DIRECTORY)
    try:
        return _fsync_directory(fd)
    finally:
        with suppress(OSError):
            os.close(fd)


def _fsync_directory(fd: int) -> bool:
    try:
        os.fsync(fd)
    except OSError as exc:
        # Some network file systems can't sync a directory, and say so with this.
        if exc.errno != errno.EINVAL:
            raise
        return False
    return True


def make_root(path: Path, mode: int = 0o700) -> None:
    """Make a directory and those above it; harmless if it is there.

    Args:
        path: the directory.
        mode: its permissions, of which a umask may take some; by default, for this user alone.
    """
    with _telling(path):
        if path.is_dir():
            return
        above = [parent for parent in path.parents if not parent.is_dir()]
        for place in (*reversed(above), path):
            try:
                os.mkdir(place, mode if place == path else 0o777)
            except FileExistsError:
                if not place.is_dir():
                    raise StoreError(f"{place} is not a directory; remove what is in the way") from None
            # A directory above the store may be closed to us for reading; the system syncs it in its time.
            with suppress(PermissionError):
                _sync_directory(place.parent)


def make_directory(path: Path) -> None:
    """Make a directory, durable, with the permissions of the one that it is in; harmless if it is there."""
    with _telling(path):
        if path.is_dir():
            return
        parent = os.stat(path.parent)
        mode = access.directory_mode(parent)
        # Others must never find it as a umask leaves it: it is made beside, and comes with its permissions.
        new = path
        if access.is_shared(parent):
            new = path.with_name(f"{UNFINISHED}{path.name}.{secrets.token_hex(4)}")
        try:
            os.mkdir(new, mode)
            _hand_over(new, parent, mode)
            if new != path:
                os.rename(new, path)
        except OSError:
            if new != path:
                with suppress(OSError):
                    os.rmdir(new)
            if not path.is_dir():  # else another was faster
                raise
            return
        _sync_directory(path.parent)


def read_only(path: Path) -> bool:
    """Tell whether a directory is there in which we may not make anything."""
    return os.path.isdir(path) and not os.access(path, os.W_OK | os.X_OK)


def refuse_trap(path: Path) -> None:
    """Raise StoreError if the directory is open to all and of another user; harmless if it is not there."""
    with _telling(path), suppress(FileNotFoundError):
        found = os.stat(path)
        if access.is_trap(found, os.geteuid()):
            raise StoreError(
                f"{path} belongs to user {found.st_uid}, and anybody may write to it; "
                "set AIORUNTIME_STORE to a directory of your own, or to one that a group shares (mode 2770)"
            )


def touch(path: Path, *, make: bool = True) -> None:
    """Set a file's time to now.

    Args:
        path: the file.
        make: whether it is made if it is not there.
    """
    with _telling(path):
        try:
            os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            if make:
                with suppress(FileExistsError):  # another made it now
                    os.close(_make_file(path, os.O_WRONLY))


def scan(path: Path) -> Iterator[tuple[str, Status]]:
    """Give the names in a directory, and what each names, in no order; nothing if it is not there."""
    with _telling(path):
        try:
            entries = _uninterrupted(os.scandir, path)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    yield entry.name, _status(entry.stat(follow_symlinks=False))


def names_in(path: Path) -> list[str]:
    """List the names in a directory, sorted; empty if it is not there."""
    with _telling(path):
        try:
            return sorted(_uninterrupted(os.listdir, path))
        except FileNotFoundError:
            return []


def _uninterrupted(call: Callable[[Path], _T], path: Path) -> _T:
    """Make a call again that a signal interrupted, as Python does by itself for most, but not for these."""
    while True:
        try:
            return call(path)
        except InterruptedError:
            continue


def link_target(path: Path) -> str:
    """Return what a symbolic link says; empty if it is not there."""
    with _telling(path):
        try:
            return os.readlink(path)
        except FileNotFoundError:
            return ""


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


def free_bytes(path: Path) -> int:
    """Return the bytes that we may still write on the disk that holds *path*, or will hold it."""
    for place in (path, *path.parents):
        try:
            found = os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise explained(exc, place) from exc
        return found.f_bavail * found.f_frsize
    return 0


def default_root() -> Path:
    """Return the store's usual place: ``$AIORUNTIME_STORE``, else under the user's cache directory."""
    if chosen := os.environ.get("AIORUNTIME_STORE"):
        return Path(chosen)
    try:
        return platformdirs.user_cache_path("aioruntime") / "store"
    except RuntimeError as exc:
        raise StoreError("no home directory to keep the store in; set AIORUNTIME_STORE or HOME") from exc
