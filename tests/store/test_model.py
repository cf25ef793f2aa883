"""Random uses of a store by two processes that die, run into faults, and lose power; checked by a model."""

from __future__ import annotations

import errno
import logging
import os
import time
from functools import partial as partial_of
from multiprocessing import TimeoutError, get_context
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test as run_machine

from aioruntime.store import blobs, ingest, names, partial, verify
from tests.store.disk import Trouble
from tests.store.model import CHILDREN, CONTENT, DIGESTS, IMAGES, NAMES, observe
from tests.store.shared_store import DISK, ONE, OTHER, Inline, SharedStore
from tests.store.uses import Ingest, Lease, Pin, Prune, Put, Remove, SetName, Use
from tests.support.seeds import seed as chosen_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.oci.digest import ImageDigest

EXAMPLES = int(os.environ.get("AIORUNTIME_TEST_EXAMPLES", "2000"))
_IMAGE = IMAGES[0]


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    """Let blobs of a hundred bytes take the ways that those of many MiB take."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        yield


def make_small(patch: pytest.MonkeyPatch) -> None:
    for module in (partial, ingest):
        patch.setattr(module, "CHUNK", 64)
    patch.setattr(partial, "_HASHED_AT_ONCE", 128)
    patch.setattr(blobs, "_CHUNK", 64)
    patch.setattr(names, "_PAUSE", 0)
    patch.setattr(names, "_LOOKS", 3)
    # What threads do is done at once, as elsewhere: a thousand of them take longer to start.
    patch.setattr(verify, "Threads", Inline)


def check(examples: int, limit: float) -> None:
    """Run examples, half of them in a process of their own, so that two processors share the work.

    Args:
        examples: their number.
        limit: seconds that they may take.
    """
    number = chosen_seed()
    with TemporaryDirectory(prefix="models", dir=DISK) as place, get_context("spawn").Pool(2) as pool:
        work = partial_of(check_part, examples // 2, place)
        parts = pool.imap_unordered(work, [f"{number}.{half}" for half in "ab"])
        until = time.monotonic() + limit
        for _ in "ab":
            try:
                parts.next(max(0, until - time.monotonic()))
            except TimeoutError:
                pytest.fail(f"{examples} examples of seed {number} are not done after {limit} s")


def check_part(examples: int, place: str, chosen: str) -> None:
    make_small(pytest.MonkeyPatch())
    logging.disable()  # of a list of names that another tool wrote half of, thousands of times
    SharedStore.place = place
    only_search = os.environ.get("AIORUNTIME_TEST_SHRINK") == "0"
    run_machine(
        seed(chosen)(SharedStore),
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            database=None,
            print_blob=True,
            report_multiple_bugs=not only_search,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,) if only_search else (Phase.generate, Phase.shrink),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_shared_store() -> None:
    """L1, L2, T8: whatever happens in whatever order, what was promised holds, and nothing is half done."""
    check(EXAMPLES, limit=600)


def test_a_run_that_hangs() -> None:
    """T8: a run of the model that does not end is stopped and told, with its seed."""
    with pytest.raises(pytest.fail.Exception, match=r"seed \d+ are not done"):
        check(10**6, limit=0.1)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_shared_store_for_long() -> None:
    """L1, L2, T8: the same, 50,000 times."""
    check(50_000, limit=7000)


@pytest.mark.parametrize(
    ("undone", "promised"),
    [
        (Put(_IMAGE), Put(_IMAGE)),
        (Ingest(_IMAGE), Put(_IMAGE)),
        (Put(_IMAGE), SetName(NAMES[0], _IMAGE)),
        (SetName(NAMES[0], _IMAGE), SetName(NAMES[0], _IMAGE)),
        (Pin(NAMES[0]), Pin(NAMES[0])),
        (Remove(NAMES[0]), Remove(NAMES[0])),
    ],
)
def test_what_another_left_undone(undone: Use, promised: Use) -> None:
    """L2, T8: what we are told is on the disk is, also if it was there because of one who died over it."""
    for at in range(1, 25):
        machine = SharedStore()
        try:
            machine.begin([_IMAGE])
            if not isinstance(undone, Pin | Remove):
                machine.do(OTHER, Remove(NAMES[0]))
            if isinstance(undone, SetName):
                machine.do(OTHER, Put(_IMAGE))
            machine.settle()
            machine.dies(undone, at, None)
            kept = not isinstance(machine.outcome(promised, OTHER), type)
            machine.lose_power(None)
            seen = observe(machine.root, machine.state)
            assert not kept or isinstance(promised, Remove) or seen.blobs.get(_IMAGE) == CONTENT[_IMAGE]
            assert not kept or not isinstance(promised, Remove) or NAMES[0] not in seen.named
            assert not kept or not isinstance(promised, SetName) or seen.named.get(NAMES[0]) == _IMAGE
            assert not kept or not isinstance(promised, Pin) or NAMES[0] in seen.pins
        finally:
            machine.teardown()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("use", [Put(_IMAGE), Ingest(_IMAGE), SetName(NAMES[0], IMAGES[1]), Pin(NAMES[0])])
def test_what_the_disk_did_not_take(use: Use, number: int) -> None:
    """L4, T8: wherever the disk fails us, what we are told is on it is, at once or when it is tried again."""
    for at in range(1, 25):
        machine = SharedStore()
        try:
            machine.begin(IMAGES[:2])
            if isinstance(use, Put | Ingest):
                machine.do(ONE, Remove(NAMES[0]))
            machine.settle()
            expected = machine.expected(use, ONE)[1]
            if isinstance(machine.outcome(use, ONE, Trouble(at, number)), type):
                assert not isinstance(machine.outcome(use, ONE), type)
            machine.lose_power(None)
            seen = observe(machine.root, machine.state)
            assert (seen.blobs, seen.named, seen.pins) == (expected.blobs, expected.named, expected.pins)
        finally:
            machine.teardown()


def test_removed_after_it_was_half_renamed() -> None:
    """L1, T8: wherever two die who give a name to a newer image and remove it, the older does not get it."""
    for renamed in range(4, 12):
        for removed in range(4, 12):
            machine = SharedStore()
            try:
                machine.begin(IMAGES[:2])
                machine.dies(SetName(NAMES[0], IMAGES[1]), renamed, None)
                machine.dies(Remove(NAMES[0]), removed, None)
            finally:
                machine.teardown()


@pytest.mark.parametrize(
    ("here", "other"),
    [
        ([], SetName(NAMES[0], _IMAGE)),
        ([_IMAGE], SetName(NAMES[1], _IMAGE)),
        ([_IMAGE], Pin(NAMES[0])),
        ([], Lease([_IMAGE])),
        ([_IMAGE], Lease(list(CHILDREN[_IMAGE]), image=_IMAGE)),
    ],
)
def test_begun_while_others_collect(here: list[ImageDigest], other: Use) -> None:
    """L11, T8: whenever somebody begins to use, name or pin what is being collected, nothing of it goes."""
    for at in range(1, 80):
        machine = SharedStore()
        try:
            machine.begin(here)
            machine.meanwhile(Prune(DIGESTS, max_bytes=0), other, at)
        finally:
            machine.teardown()
