"""What is decided on a store of 100,000 blobs, without such a store."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING

from aioruntime.oci.digest import ImageDigest
from aioruntime.store.layout import Layout
from aioruntime.store.prune import UNNAMED_NS, plan_prune
from aioruntime.store.report import usage_of
from aioruntime.store.survey import Seen, Survey, survey
from aioruntime.store.threads import Threads
from aioruntime.store.tree import Tree
from tests.store.helpers import STALL_LIMIT, content, longest_stall, put_image, save
from tests.support.seeds import seed

if TYPE_CHECKING:
    from aioruntime.store.prune import Plan
    from aioruntime.store.store import ImageStore

SEED = 31  # unless the environment says otherwise
BLOBS = 100_000
LAYERS = 100
NOW = 2 * UNNAMED_NS


def crowded() -> Survey:
    """A store half of whose blobs are in 1,000 images, each with some of its neighbours' layers."""
    rng = random.Random(seed(SEED))
    blobs = {f"sha256:{rng.getrandbits(256):064x}": 1 + rng.randrange(1000) for _ in range(BLOBS)}
    used = {digest: NOW - rng.randrange(UNNAMED_NS) for digest in blobs}
    digests = list(blobs)
    images = []
    for number in range(1000):
        layers = tuple(digests[number * 50 : number * 50 + LAYERS])
        tree = Tree(layers, {digest: blobs[digest] for digest in layers}, ())
        images.append(Seen(f"image:{number}", ImageDigest(layers[0]), tree, used[layers[0]], pinned=False))
    return Survey(images, blobs, used, {}, {}, set(), {})


def emptied(survey: Survey) -> Plan:
    return plan_prune(survey, NOW, max_bytes=0, older_than=None)


async def test_a_decision_on_many_blobs() -> None:
    """100,000 blobs are decided on in a second of one processor, and the loop goes on meanwhile."""
    survey = crowded()
    before = time.thread_time()
    plan = emptied(survey)
    assert time.thread_time() - before < 1
    assert (len(plan.images), len(plan.blobs), plan.kept) == (1000, BLOBS, 0)
    assert await longest_stall(partial(Threads().run, emptied, survey)) < STALL_LIMIT


async def test_the_loop_goes_on_while_usage_is_told() -> None:
    """Telling of 1,000 images, with 100,000 blobs in all, never holds up the event loop for long."""
    assert await longest_stall(partial(Threads().run, usage_of, crowded(), 0)) < STALL_LIMIT


async def test_nothing_to_collect_for_python(store: ImageStore) -> None:
    """What is held of each blob is plain texts and numbers, which the garbage collector never looks at."""
    await put_image(store, "a", 1, 2)
    await save(store, *content(500, 9))
    seen = survey(Layout(store.path))
    plan = plan_prune(seen, NOW, max_bytes=0, older_than=None)
    [image] = seen.images
    held = [*seen.blobs, *seen.used, *image.tree.blobs, *image.tree.sizes, *plan.blobs]
    assert len(held) > 10
    assert {type(digest) for digest in held} == {str}
