"""Many processes on one store: each layer is fetched once, nothing in use goes, no promise is broken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.store.crowd.scenes import gather_once, place_in, riot, rush, serving
from tests.store.crowd.skopeo import lost_by_skopeo, write_other
from tests.support.seeds import seed

if TYPE_CHECKING:
    from pathlib import Path


async def test_ten_processes_pull_at_once(tmp_path: Path) -> None:
    """L8, L11: of 10 processes that pull overlapping images, one fetches each layer; pruners take nothing.

    That holds also for pruners that want the store to be empty, as long as the images are in use.
    """
    async with serving(tmp_path, 10) as (registry, images):
        for max_bytes in (None, 0):
            await gather_once(registry, place_in(tmp_path / str(max_bytes), images), max_bytes)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(0, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param(300, marks=[pytest.mark.full, pytest.mark.timeout(900)]),
    ],
)
async def test_rush(tmp_path: Path, seconds: float) -> None:
    """L9, L12, T6: with 16 processes, pruners, a verifier and skopeo, no name of ours and no blob is lost."""
    number = seed()
    other = write_other(tmp_path / "other")
    rounds = names = 0
    end = time.monotonic() + seconds
    async with serving(tmp_path, 20) as (registry, images):
        while not rounds or time.monotonic() < end:
            names += await rush(
                registry, place_in(tmp_path / str(rounds), images), f"{number}-{rounds}", other
            )
            rounds += 1
    print(f"{rounds} rounds, 0 of {names} names lost, each layer asked for once")
    failed, lost = await lost_by_skopeo(other, tmp_path / "plain", 20)
    print(f"beside it, of 20 skopeo at once into one plain layout {failed} fail, and {lost} lose their name")


@pytest.mark.parametrize(
    ("seconds", "pause"),
    [
        pytest.param(45, 0.3, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param(600, 0.6, marks=[pytest.mark.full, pytest.mark.timeout(1200)]),
    ],
)
async def test_random_kills(tmp_path: Path, seconds: float, pause: float) -> None:
    """L1, L12, T2: of processes killed at any moment no damage is left, no lock, and no broken promise."""
    number = seed()
    async with serving(tmp_path, 12) as (_, images):
        deaths, kept = await riot(place_in(tmp_path, images), str(number), seconds, pause)
    print(f"{deaths} kills; {kept} promises kept")
    assert deaths
    assert kept
