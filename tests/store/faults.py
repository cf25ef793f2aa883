"""Uses a store with a fault at its first file-system call, then again at its second, and so on to the last.

`python -m tests.store.faults DIRECTORY kill|ERRNO`. Each run is a forked process with a fresh store; after
it, another looks whether the store kept its promises, and uses it again. Prints the number of calls.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioruntime.errors import StoreError
from aioruntime.store import files
from aioruntime.store.store import ImageStore
from tests.store.helpers import MIB, content, partials, put_descriptor, save

if TYPE_CHECKING:
    from collections.abc import Callable

_CALLS = (
    "open",
    "pread",
    "pwrite",
    "fsync",
    "rename",
    "fchmod",
    "chmod",
    "chown",
    "unlink",
    "mkdir",
    "ftruncate",
    "fstat",
    "lstat",
)


class Faulty:
    """`os`, except that one call of those that the store makes fails or kills."""

    def __init__(self, turn: int, fault: Callable[[], None]) -> None:
        self._left = turn
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in _CALLS:
            return call

        def counted(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                self._fault()
            return call(*arguments)

        return counted


async def use(store: ImageStore) -> None:
    await save(store, *content(MIB + 500))
    descriptor = await put_descriptor(store, b"manifest")
    await store.set_reference("ours", descriptor)
    _promised(store).touch()
    await store.set_reference("more", descriptor)
    await store.update_note("a", lambda old: (old or b"") + b"1")


def _promised(store: ImageStore) -> Path:
    """Return the path of a file made once the first reference was set."""
    return store.path.with_suffix(".promised")


async def check(store: ImageStore) -> None:
    assert await store.verify() == []
    found = await store.references()
    assert "ours" in found or not _promised(store).exists()
    for descriptor in found.values():
        assert await store.read(descriptor.digest) == b"manifest"
    assert set(await store.read_note("a") or b"") <= set(b"1")
    await use(store)
    assert await store.verify() == []
    assert partials(store) == []
    assert not list(store.path.rglob(".*"))


def _forked(run: Callable[[], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        finally:
            if code:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def _with_fault(store: ImageStore, turn: int, number: int | None) -> None:
    happened = False

    def fault() -> None:
        nonlocal happened
        happened = True
        if number is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(number, os.strerror(number))

    setattr(files, "os", Faulty(turn, fault))  # noqa: B010 - mypy knows that a module is no object of ours
    try:
        asyncio.run(use(store))
    except StoreError as exc:
        assert happened
        assert isinstance(exc.__cause__, OSError)  # noqa: PT017 - not in a test
    if not happened:
        os._exit(3)


def main(directory: str, kind: str) -> None:
    number = None if kind == "kill" else int(kind)
    for turn in count(1):
        store = ImageStore(Path(directory) / f"{turn}")
        status = _forked(lambda: _with_fault(store, turn, number))  # noqa: B023 - called at once
        if os.waitstatus_to_exitcode(status) == 3:
            print(turn - 1)
            return
        assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if number is None else 0), turn
        assert _forked(lambda: asyncio.run(check(store))) == 0, turn  # noqa: B023 - called at once


if __name__ == "__main__":
    main(*sys.argv[1:])
