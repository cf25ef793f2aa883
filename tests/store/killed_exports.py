"""Kills an export before its first change of a file system, then before its second, and so on.

Each is completed after.
`python -m tests.store.killed_exports DIRECTORY LINKED`. Prints the number of calls.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from aioruntime.store import directories, files
from aioruntime.store.store import ImageStore
from tests.store.layouts import add_image, list_images, names_in

_CALLS = (
    "open",
    "pwrite",
    "fsync",
    "rename",
    "link",
    "fchmod",
    "unlink",
    "mkdir",
)  # all that change something
_SIZE = 100_000


class _Deadly:
    """`os`, except that one of its calls kills before it is made."""

    def __init__(self, turn: int) -> None:
        self._left = turn

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in _CALLS:
            return call

        def counted(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted


def _killed(store: Path, out: Path, turn: int) -> bool:
    """Export in a process that is killed at call number *turn*; tell whether it came to that."""
    pid = os.fork()
    if pid == 0:
        try:
            os.umask(0o077)  # else nothing is linked
            deadly = _Deadly(turn)
            for module in (files, directories):
                setattr(module, "os", deadly)  # noqa: B010 - mypy knows that a module is no object of ours
            asyncio.run(ImageStore(store).export_layout("image", out))
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def main(directory: Path, linked: bool) -> None:
    source, store = directory / "source", directory / "store"
    image = add_image(source, 1, _SIZE)
    list_images(source, ("image", image))
    asyncio.run(ImageStore(store).import_layout(source))
    if not linked:
        setattr(files, "link", lambda *_: False)  # noqa: B010
    for turn in count(1):
        out = directory / f"out{turn}"
        killed = _killed(store, out, turn)
        if (out / "index.json").exists():
            assert names_in(out) in ({}, {"image": image["digest"]})
        asyncio.run(ImageStore(store).export_layout("image", out))
        assert names_in(out) == {"image": image["digest"]}, turn
        assert sorted(os.listdir(out)) == ["blobs", "index.json", "oci-layout"], turn
        shutil.rmtree(out)
        if not killed:
            break
    assert asyncio.run(ImageStore(store).verify()) == []
    print(turn - 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), bool(int(sys.argv[2])))
