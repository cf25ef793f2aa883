"""Fixtures of the store's tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from aioruntime.store.store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    """A store not yet on disk; it must leave no file of it open."""
    made = ImageStore(tmp_path / "store")
    yield made
    assert open_in(made.path) == []


def _open_now() -> list[str]:
    while True:
        try:
            return os.listdir("/proc/self/fd")
        except InterruptedError:  # staged
            continue


def open_in(path: Path) -> list[str]:
    found = []
    for number in _open_now():
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # of the listing itself
        if target.startswith(str(path)):
            found.append(target)
    return found
