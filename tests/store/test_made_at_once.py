"""A directory that several make at once, each to put something into it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aioruntime.store import directories

if TYPE_CHECKING:
    from pathlib import Path

AT_ONCE, TURNS = 4, 40


def test_nobody_takes_the_place_of_an_empty_one(tmp_path: Path) -> None:
    """What is put into a directory as soon as it is there stays, however many make that directory."""
    together = threading.Barrier(AT_ONCE)

    def put(top: Path, number: int) -> None:
        (top / f"{number}.new").write_text("x")
        together.wait()
        directories.make(top / "shared")
        os.rename(top / f"{number}.new", top / "shared" / str(number))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for turn in range(TURNS):
            top = tmp_path / str(turn)
            top.mkdir()
            top.chmod(0o2775)  # as a store that a group shares
            for made in [threads.submit(put, top, number) for number in range(AT_ONCE)]:
                made.result()
            assert sorted(os.listdir(top)) == ["shared"]
            assert len(os.listdir(top / "shared")) == AT_ONCE
