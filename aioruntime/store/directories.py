"""The directories of the store (L2): what they hold looked up, renamed, removed and made to last.

With `files`, the one way to the file system: nothing else in the store calls `os`. Every `OSError` leaves
here as a `StoreError` that names the path and what can be done. Links are never followed.
"""

from __future__ import annotations

__all__ = (
    "UNFINISHED",
    "Status",
    "default_root",
    "free_bytes",
    "hand_over",
    "link_target",
    "lookup",
    "make",
    "make_root",
    "names_in",
    "read_only",
    "refuse_trap",
    "remove",
    "rename",
    "scan",
    "status_of",
    "sync",
    "synced",
    "telling",
    "unlink",
)

import errno
import fcntl
import os
import secrets
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import platformdirs

from aioruntime.errors import StoreError
from aioruntime.store import access
from aioruntime.store.remedies import explained, is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")
# How the names begin of what is made beside its place.
UNFINISHED = ".aioruntime-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def telling(path: Path, need: int = 0) -> Iterator[None]:
    """Tell an error of the system about *path* as a `StoreError`; *need* bytes were to be written."""
    try:
        yield
    except OSError as exc:
        have = free_bytes(path) if is_full(exc) else 0
        raise explained(exc, path, need=need, have=have) from exc


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


def status_of(found: os.stat_result) -> Status:
    """Keep what we use of what the system tells about a file."""
    regular = stat.S_ISREG(found.st_mode)
    return Status(regular, found.st_size, found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns)


def lookup(path: Path) -> Status | None:
    """Return the status of what is at *path*, not following a link; None if nothing is there."""
    with telling(path):
        try:
            return status_of(os.lstat(path))
        except FileNotFoundError:
            return None


def link_target(path: Path) -> str:
    """Return what a symbolic link says; empty if it is not there."""
    with telling(path):
        try:
            return os.readlink(path)
        except FileNotFoundError:
            return ""


def scan(path: Path) -> Iterator[tuple[str, Status]]:
    """Give the names in a directory, and what each names, in no order; nothing if it is not there."""
    with telling(path):
        try:
            entries = _uninterrupted(os.scandir, path)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    yield entry.name, status_of(entry.stat(follow_symlinks=False))


def names_in(path: Path) -> list[str]:
    """List the names in a directory, sorted; empty if it is not there."""
    with telling(path):
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


def rename(old: Path, new: Path, *, missing_ok: bool = False) -> bool:
    """Give a file a new name, in place of what has that name; `sync` makes it durable.

    Args:
        old: its name.
        new: the name that it gets.
        missing_ok: whether *old* may be gone.

    Returns:
        Whether it was there.
    """
    with telling(new):
        try:
            os.rename(old, new)
        except FileNotFoundError:
            if not missing_ok or os.path.lexists(old):
                raise
            return False
    return True


def unlink(path: Path) -> None:
    """Remove a file; harmless if it is not there."""
    with telling(path), suppress(FileNotFoundError):
        os.unlink(path)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it; harmless if it is not there."""
    with telling(path), suppress(FileNotFoundError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def sync(path: Path) -> bool:
    """Wait until the names in a directory are on the disk; False if its file system can't tell."""
    with telling(path):
        return _sync(path)


@contextmanager
def synced(path: Path) -> Iterator[None]:
    """Wait, when the context is left, until the names in a directory are on the disk.

    What could keep us from that is met before the names are changed, but an error of the disk.
    """
    with telling(path):
        fd = os.open(path, _DIRECTORY)
    try:
        yield
        with telling(path):
            _fsync(fd)
    finally:
        with suppress(OSError):
            os.close(fd)


def _sync(path: Path) -> bool:
    fd = os.open(path, _DIRECTORY)
    try:
        return _fsync(fd)
    finally:
        with suppress(OSError):
            os.close(fd)


def _fsync(fd: int) -> bool:
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
    with telling(path):
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
                _sync(place.parent)


def make(path: Path) -> None:
    """Make a directory, durable, with the permissions of the one that it is in; harmless if it is there."""
    with telling(path):
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
            hand_over(new, parent, mode)
            if new != path:
                with _alone_in(path.parent):
                    if path.is_dir():
                        raise FileExistsError
                    os.rename(new, path)
        except OSError:
            if new != path:
                with suppress(OSError):
                    os.rmdir(new)
            if not path.is_dir():  # else another was faster
                raise
            return
        _sync(path.parent)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Let nobody else of us give a new directory its name in *directory* meanwhile.

    A rename takes the place of an empty directory: what another thread or process puts into that just then
    would have nowhere to go.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def hand_over(made: int | Path, parent: os.stat_result, mode: int) -> None:
    """Give what we made the group of its directory, and permissions that no umask has taken from."""
    found = os.stat(made)
    # A file system without permissions refuses, or the directory's group is not one of ours.
    if found.st_gid != parent.st_gid:
        with suppress(PermissionError):
            os.chown(made, -1, parent.st_gid)
    if stat.S_IMODE(found.st_mode) != mode:
        with suppress(PermissionError):
            os.chmod(made, mode)


def read_only(path: Path) -> bool:
    """Tell whether a directory is there in which we may not make anything."""
    return os.path.isdir(path) and not os.access(path, os.W_OK | os.X_OK)


def refuse_trap(path: Path) -> None:
    """Raise StoreError if the directory is open to all and of another user; harmless if it is not there."""
    with telling(path), suppress(FileNotFoundError):
        found = os.stat(path)
        if access.is_trap(found, os.geteuid()):
            raise StoreError(
                f"{path} belongs to user {found.st_uid}, and anybody may write to it; "
                "set AIORUNTIME_STORE to a directory of your own, or to one that a group shares (mode 2770)"
            )


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
