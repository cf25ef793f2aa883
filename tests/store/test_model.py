"""Random uses of a store by two processes that die, run into faults, and lose power; checked by a model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test as run_machine

from aioruntime.store import blobs, ingest, names, partial
from tests.store.model import CHILDREN, CONTENT, DIGESTS, IMAGES, NAMES, observe
from tests.store.shared_store import OTHER, SharedStore
from tests.store.uses import Ingest, Lease, Pin, Prune, Put, Remove, SetName, Use

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest

EXAMPLES = int(os.environ.get("AIORUNTIME_TEST_EXAMPLES", "2000"))
_IMAGE = IMAGES[0]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let blobs of a hundred bytes take the ways that those of many MiB take."""
    for module in (partial, ingest):
        monkeypatch.setattr(module, "CHUNK", 64)
    monkeypatch.setattr(partial, "_HASHED_AT_ONCE", 128)
    monkeypatch.setattr(blobs, "_CHUNK", 64)
    monkeypatch.setattr(names, "_PAUSE", 0)


def check(examples: int) -> None:
    only_search = os.environ.get("AIORUNTIME_TEST_SHRINK") == "0"
    run_machine(
        SharedStore,
        settings=settings(
            max_examples=examples,
            stateful_step_count=15,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.reuse, Phase.generate) if only_search else tuple(Phase),
        ),
    )


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_shared_store() -> None:
    """L1, L2, T8: whatever happens in whatever order, what was promised holds, and nothing is half done."""
    check(EXAMPLES)


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_a_shared_store_for_long() -> None:
    """L1, L2, T8: the same, 50,000 times."""
    check(50_000)


@pytest.mark.parametrize(
    ("undone", "promised"),
    [
        (Put(_IMAGE), Put(_IMAGE)),
        (Ingest(_IMAGE), Put(_IMAGE)),
        (Put(_IMAGE), SetName(NAMES[0], _IMAGE)),
        (SetName(NAMES[0], _IMAGE), SetName(NAMES[0], _IMAGE)),
        (Pin(NAMES[0]), Pin(NAMES[0])),
    ],
)
def test_what_another_left_undone(undone: Use, promised: Use) -> None:
    """L2, T8: what we are told is on the disk is, also if it was there because of one who died over it."""
    for at in range(1, 25):
        machine = SharedStore()
        try:
            machine.begin([_IMAGE])
            if not isinstance(undone, Pin):
                machine.do(OTHER, Remove(NAMES[0]))
            if isinstance(undone, SetName):
                machine.do(OTHER, Put(_IMAGE))
            machine.settle()
            machine.dies(undone, at, None)
            kept = machine.outcome(promised, OTHER) is None
            machine.lose_power(None)
            seen = observe(machine.root, machine.state)
            assert not kept or seen.blobs.get(_IMAGE) == CONTENT[_IMAGE]
            assert not kept or not isinstance(promised, SetName) or seen.named.get(NAMES[0]) == _IMAGE
            assert not kept or not isinstance(promised, Pin) or NAMES[0] in seen.pins
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
