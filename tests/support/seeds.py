"""The seed of tests that draw at random: from the environment, and always printed."""

from __future__ import annotations

import os
import random

__all__ = ("SEED_VARIABLE", "seed")

SEED_VARIABLE = "AIORUNTIME_TEST_SEED"


def seed(usual: int | None = None) -> int:
    """Return AIORUNTIME_TEST_SEED, else *usual*, else a new number; print it, for the test to be repeated."""
    given = os.environ.get(SEED_VARIABLE)
    new = random.SystemRandom().randrange(10**9) if usual is None else usual
    number = int(given) if given else new
    print(f"{SEED_VARIABLE}={number}")
    return number
