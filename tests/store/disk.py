"""A machine whose processes die between two system calls, and whose disk forgets what was not synced.

`Machine` stands in for `os` in `files` and `directories` of the store. It keeps books of what a power cut
would undo: content written since the file's last fsync, and names changed since the directory's last one.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

_FULL_CALLS = ("open", "pwrite", "mkdir", "rename", "fsync")
_CHANGES = (*_FULL_CALLS, "ftruncate", "fchmod", "unlink", "utime")


class Died(BaseException):
    """The process ends here; nothing that it would still do is done."""


@dataclass
class Trouble:
    """What happens at the *at*-th call of a process that changes, or may lock, something.

    Args:
        at: the call, from 1 on.
        number: what it fails with; None if it is the process's last. Opening what is there never is.
        meanwhile: what another process does just before it.
    """

    at: int
    number: int | None = None
    meanwhile: Callable[[], None] | None = None
    happened: bool = False


@dataclass
class _Undo:
    """A change of a name, not yet durable."""

    directory: str
    undo: Callable[[], None]
    # Where a file was that got another name; and what a power cut does once it is durable that it left.
    left: str = ""
    lose: Callable[[], None] | None = None


@dataclass
class Machine:
    """Calls of `os` by several processes, one of them at a time.

    Args:
        attic: a directory on the same file system, for what a power cut brings back.
    """

    attic: Path
    process: str = ""
    trouble: Trouble | None = None
    dead: set[str] = field(default_factory=set)
    _owners: dict[int, str] = field(default_factory=dict)
    _names: list[_Undo] = field(default_factory=list)
    _content: dict[tuple[int, int], bytes] = field(default_factory=dict)
    _lost: set[tuple[int, int]] = field(default_factory=set)
    _kept: int = 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        if not callable(value) or isinstance(value, type):
            return value
        own = vars(Machine).get(f"_{name}", None)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.process in self.dead:
                raise Died
            if name in _CHANGES and (name != "open" or arguments[1] & os.O_CREAT or self._between):
                self._before(name, arguments)
            return own(self, *arguments, **options) if own else value(*arguments, **options)

        self.__dict__[name] = call
        return call

    @property
    def _between(self) -> bool:
        # Another may come before any open: that is also where the locks are taken.
        return self.trouble is not None and self.trouble.meanwhile is not None

    def _before(self, name: str, arguments: Any) -> None:
        trouble = self.trouble
        if trouble is None:
            return
        trouble.at -= 1
        if trouble.meanwhile is not None:
            if trouble.at == 0:
                self.trouble = None
                trouble.happened = True
                trouble.meanwhile()
            return
        if trouble.at > 0 or (trouble.number == errno.ENOSPC and name not in _FULL_CALLS):
            return
        trouble.happened = True
        if name == "pwrite" and trouble.at == 0:
            fd, data, offset = arguments
            self._pwrite(fd, data[: len(data) // 2], offset)
        if trouble.number is None:
            self.dead.add(self.process)
            raise Died
        if trouble.number == errno.EIO:
            self.trouble = None
            if name == "fsync":
                # The pages count as clean from now on, though they never came to the disk.
                self._lost.add(_identity(arguments[0]))
        raise OSError(trouble.number, os.strerror(trouble.number))

    @contextmanager
    def running(self, process: str, trouble: Trouble | None = None) -> Iterator[None]:
        """Make the calls those of *process*."""
        before = self.process, self.trouble
        self.process, self.trouble = process, trouble
        try:
            yield
        finally:
            self.process, self.trouble = before

    def bury(self, process: str) -> None:
        """Close what a dead process had open, so that its locks are free, and let one of its name live."""
        for fd in [fd for fd, owner in self._owners.items() if owner == process]:
            del self._owners[fd]
            os.close(fd)
        self.dead.discard(process)

    # Calls that are more than those of `os`

    def _open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        fd = os.open(path, flags, mode)
        self._owners[fd] = self.process
        if new:
            self._named(path, lambda: path.unlink(missing_ok=True))
        return fd

    def _close(self, fd: int) -> None:
        del self._owners[fd]
        os.close(fd)

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        self._soil(fd)
        return os.pwrite(fd, data, offset)

    def _ftruncate(self, fd: int, length: int) -> None:
        self._soil(fd)
        os.ftruncate(fd, length)

    def _soil(self, fd: int) -> None:
        key = _identity(fd)
        if key not in self._content:
            self._content[key] = Path(f"/proc/self/fd/{fd}").read_bytes() if os.fstat(fd).st_size else b""

    def _fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            path = os.readlink(f"/proc/self/fd/{fd}")
            self._names = [change for change in self._names if change.directory != path]
            for change in self._names:
                if change.left == path and change.lose is not None:
                    change.undo = change.lose
        elif _identity(fd) not in self._lost:
            self._content.pop(_identity(fd), None)

    def _rename(self, old: Path, new: Path) -> None:
        saved = self._keep(new)
        os.rename(old, new)

        def undo() -> None:
            with suppress(FileNotFoundError):
                if os.path.lexists(old):
                    os.unlink(new)
                else:
                    os.rename(new, old)
            if saved is not None:
                os.rename(saved, new)

        def lose() -> None:
            new.unlink(missing_ok=True)
            if saved is not None:
                os.rename(saved, new)

        self._names.append(_Undo(str(new.parent), undo, str(old.parent), lose))

    def _unlink(self, path: Path) -> None:
        saved = self._keep(path)
        os.unlink(path)

        def undo() -> None:
            if saved is not None and not os.path.lexists(path):
                os.rename(saved, path)

        self._named(path, undo)

    def _mkdir(self, path: Path, mode: int = 0o777) -> None:
        os.mkdir(path, mode)
        self._named(path, lambda: shutil.rmtree(path, ignore_errors=True))

    def _keep(self, path: Path) -> Path | None:
        # Kept also so that no inode's number is given out twice.
        self._kept += 1
        saved = self.attic / str(self._kept)
        with suppress(FileNotFoundError):
            os.link(path, saved, follow_symlinks=False)
            return saved
        return None

    def _named(self, path: Path, undo: Callable[[], None]) -> None:
        self._names.append(_Undo(str(path.parent), undo))

    # Power

    def settle(self) -> None:
        """Bring all to the disk, as happens after a while."""
        self._names.clear()
        self._content.clear()
        self._lost.clear()

    def cut_power(self, root: Path, chance: random.Random | None) -> None:
        """Undo what was not synced below *root*: as much as *chance* will have, or all of it."""
        kept = 0 if chance is None else chance.choice((0, chance.randint(0, len(self._names))))
        for change in reversed(self._names[kept:]):
            change.undo()
        for path in root.rglob("*") if self._content else ():
            found = path.lstat()
            before = self._content.get((found.st_dev, found.st_ino))
            if before is not None and stat.S_ISREG(found.st_mode):
                now = path.read_bytes()
                some = now[: chance.randint(0, len(now))] if chance else b""
                left = (before, some, some + bytes(len(now) - len(some)), now)
                path.chmod(0o600)
                path.write_bytes(chance.choice(left) if chance else before)
        self.settle()


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
