"""Who runs containers (L2, blocking): each owner records them in a directory that it locks while it lives.

The kernel drops the lock when the owner's process ends, however that ends, and not before: one that is
stopped for hours lives. A child that Python forks gives up its copy of the lock. One that foreign code forks,
and that runs no other program, keeps it: until it ends too, the owner counts as alive.

After a crash of the process, a record is whole or not there. It is not made to outlast a power cut, which
ends containers too.
"""

from __future__ import annotations

__all__ = ("Owned", "Record", "owners")

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import msgspec

from aioruntime.errors import StoreError, one_line
from aioruntime.store import directories, files

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.layout import Layout

_LOCK = "lock"
_RECORD_LIMIT = 64 * 1024


class Record(msgspec.Struct, frozen=True):
    """What is written down of a container before it is created, and again when its ID is known.

    Attributes:
        engine: ID of the engine that it is in.
        name: its name.
        nonce: the value of its own label.
        id: the engine's ID of it; empty as long as that is not known.
    """

    engine: str
    name: Annotated[str, msgspec.Meta(min_length=1)]
    nonce: str
    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-zA-Z]*\Z")] = ""


def owners(layout: Layout) -> list[str]:
    """List the owners that have a directory, dead and alive."""
    # What begins with a dot is being made, and its owner has recorded nothing yet.
    return [name for name in directories.names_in(layout.owners) if not name.startswith(".")]


class Owned:
    """What one owner has recorded; at any time, one process at most has taken it or made it.

    Args:
        layout: the store's paths.
        owner: the owner's name, that nobody else has.
    """

    def __init__(self, layout: Layout, owner: str) -> None:
        self._layout = layout
        self._path = layout.owners / owner
        self._lock: files.File | None = None

    def put(self, record: Record) -> bool | None:
        """Write a record, after an older one of the same container; None if we must wait for others.

        The directory is made for the first.
        """
        if self._lock is None and not self._make():
            return None
        path, data = self._file(record.nonce), msgspec.json.encode(record) + b"\n"
        if (older := files.open_existing(path)) is not None:
            # Replacing it would have some file systems write to the disk at once, what is soon removed.
            with older:
                older.write_at(older.status().size, data, len(data))
            return True
        with files.create(files.temporary(path), len(data)) as file:
            try:
                file.write_at(0, data, len(data))
                file.rename(path)
            except BaseException:
                file.unlink()
                raise
        return True

    def _make(self) -> bool:
        if not self._layout.prepare():
            return False
        directories.make(self._layout.owners)
        # It is seen only when it is locked, so that nobody takes it for a dead one's.
        new = self._path.with_name(f"{directories.UNFINISHED}{self._path.name}")
        try:
            directories.make(new)
            lock = files.open_locked(new / _LOCK)
            if lock is None:
                return False
            try:
                directories.rename(new, self._path)
            except BaseException:
                lock.close()
                raise
        except BaseException:
            with suppress(StoreError):
                directories.remove(new)
            raise
        lock.path = self._path / _LOCK
        self._lock = lock
        return True

    def take(self) -> bool:
        """Take what a dead owner left; False if it lives, left nothing, or another has taken it.

        Raises:
            StoreError: it can't be told whether the owner lives.
        """
        lock = files.open_regular(self._path / _LOCK)
        if lock is None:
            if self._names():
                raise StoreError(
                    f"{self._path} has records but no lock, so nobody can tell whether its owner lives; "
                    "remove the directory when you know that its containers are gone"
                )
            directories.remove(self._path)  # whoever removed the rest was interrupted
            return False
        try:
            if lock.try_lock():
                self._lock, lock = lock, None
                return True
            return False
        finally:
            if lock is not None:
                lock.close()

    def look(self) -> tuple[dict[Record, int], list[str]]:
        """Return the records, each with the time when it was written (ns), and what is wrong with others."""
        records: dict[Record, int] = {}
        faults: list[str] = []
        for name in self._names():
            try:
                record, written = self._read(self._path / name)
                records[record] = written
            except StoreError as exc:
                faults.append(str(exc))
        return records, faults

    def _read(self, path: Path) -> tuple[Record, int]:
        file = files.open_regular(path)
        if file is None:
            raise StoreError(f"{path} was removed by somebody else just now; try again")
        with file:
            data, status = file.read_at(0, _RECORD_LIMIT), file.status()
        try:
            # A line that was not finished is not believed; the one before it still is.
            record = msgspec.json.decode(b"".join(data.split(b"\n")[-2:-1]), type=Record)
            if path != self._file(record.nonce):
                raise msgspec.ValidationError("it is the record of another container")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            reason = one_line(str(exc))
            raise StoreError(
                f"{path} can't be read ({reason}), so its container stays; look for it by its label "
                f"aioruntime.owner={self._path.name}, then remove the file"
            ) from exc
        return record, status.modified_ns

    def drop(self, nonce: str) -> None:
        """Remove the record of a container; harmless if it is not there."""
        directories.unlink(self._file(nonce))

    def close(self) -> None:
        """Let the lock go; the directory goes too, unless it still has records. Harmless if never locked."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        with lock:
            if lock.in_place() and not self._names():  # a forked child has no lock, and removes nothing
                directories.remove(self._path)

    def _file(self, nonce: str) -> Path:
        return self._path / f"{nonce}.json"

    def _names(self) -> list[str]:
        return [
            name for name in directories.names_in(self._path) if name != _LOCK and not name.startswith(".")
        ]
