"""What is staged: processes that pull at once, that rush in by the hundred images, that are killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from aioruntime.demo.registry import LocalRegistry
from tests.store.crowd import roles
from tests.store.crowd.images import publish
from tests.store.crowd.journal import Journal, deeds, owed
from tests.store.crowd.judge import corrupt, judge, lost
from tests.store.crowd.processes import Member
from tests.store.crowd.roles import Place
from tests.store.crowd.skopeo import copy_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.store.crowd.images import Known

# Deaths between two looks at the store.
_DEATHS = 25


@asynccontextmanager
async def serving(folder: Path, count: int) -> AsyncIterator[tuple[LocalRegistry, list[Known]]]:
    """Serve *count* images that share layers."""
    async with LocalRegistry() as registry:
        yield registry, await publish(registry, folder / "layouts", count)


def place_in(folder: Path, images: Sequence[Known]) -> Place:
    """Return a place with a store that is not there yet."""
    journals = folder / "journals"
    journals.mkdir(parents=True)
    return Place(folder / "store", images, journals)


async def asked(registry: LocalRegistry, images: Sequence[Known]) -> Counter[str]:
    """Count how often the registry was asked for each layer."""
    layers = {layer for image in images for layer in image.layers}
    counts = Counter(
        request.path.rpartition("/")[2]
        for request in await registry.settle()
        if request.method == "GET" and "/blobs/" in request.path
    )
    return Counter({layer: counts[layer] for layer in layers})


async def asked_once(registry: LocalRegistry, images: Sequence[Known], before: Counter[str]) -> None:
    """Find that each layer was asked for once since *before*."""
    now = await asked(registry, images)
    wrong = {layer: now[layer] - before[layer] for layer in now if now[layer] - before[layer] != 1}
    assert not wrong, f"requests for a layer: {wrong}"


async def gather_once(registry: LocalRegistry, place: Place, max_bytes: int | None) -> None:
    """Have 10 processes pull 5 images each at once, and hold them until all have done so, while two prune."""
    before = await asked(registry, place.images)
    count = len(place.images)
    with ExitStack() as stack:
        pruners = [stack.enter_context(Member(roles.prune, place, max_bytes)) for _ in range(2)]
        pullers = []
        for number in range(10):
            five = [place.images[(number + step) % count] for step in range(5)]
            pullers.append(stack.enter_context(Member(roles.pull_and_hold, place, five)))
        await _all([*pruners, *pullers], "ready")
        for word in ("pulled", "end"):
            for member in pullers:
                member.tell()
            await _all(pullers, word)
        for member in pruners:
            member.tell()
        await _all(pruners, "end")
    await asked_once(registry, place.images, before)
    assert not (wrong := corrupt(place.store)), wrong


async def rush(registry: LocalRegistry, place: Place, seed: str, other: Path) -> int:
    """Have 16 processes pull all images while others prune, verify, copy; return the count of names owed."""
    before = await asked(registry, place.images)
    with ExitStack() as stack:
        others = [stack.enter_context(Member(roles.prune, place, None)) for _ in range(2)]
        others.append(stack.enter_context(Member(roles.verify, place)))
        visitors = [
            stack.enter_context(Member(roles.visit, place, number, f"{seed}-{number}"))
            for number in range(16)
        ]
        await _all([*others, *visitors], "ready")
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(copy_until(stop, other, place.store))
            for member in visitors:
                member.tell()
            await _all(visitors, "end")
            stop.set()
        for member in others:
            member.tell()
        await _all(others, "end")
    await asked_once(registry, place.images, before)
    promised = owed(deeds(place.journals.glob("*.jsonl"))) | {image.name for image in place.images}
    assert not (broken := await lost(place, promised)), broken
    assert not (wrong := corrupt(place.store)), wrong
    return len(promised)


async def _all(members: Sequence[Member], word: str) -> None:
    for member in members:
        heard = await member.heard()
        assert heard == word, heard


async def riot(place: Place, seed: str, seconds: float, pause: float) -> tuple[int, int]:
    """Kill one of 8 processes after another, and all of them now and then, to look at the store.

    Args:
        place: where.
        seed: what all chances are drawn from.
        seconds: how long, more or less.
        pause: seconds between two deaths, on average.

    Returns:
        Deaths, and how many promises were looked after, added up over all looks.
    """
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    deaths = kept = looks = 0
    folder = place.journals
    while time.monotonic() < end:
        place = replace(place, journals=folder / f"journals-{looks}")
        place.journals.mkdir()
        riot = _Riot(place, f"{seed}-{looks}", squeezing=looks % 2 == 1)
        with riot.stack:
            for _ in range(_DEATHS):
                await asyncio.sleep(chance.uniform(0, 2 * pause))
                await riot.replace(chance.randrange(8))
            await riot.end()
        deaths += riot.deaths
        kept += await judge(place)
        looks += 1
    return deaths, kept


class _Riot:
    """8 processes that do anything, and the next one for each that dies."""

    def __init__(self, place: Place, seed: str, *, squeezing: bool) -> None:
        self.deaths = 0
        self.stack = ExitStack()
        self._place = place
        self._seed = seed
        self._squeezing = squeezing
        self._born = 0
        self._alive = [self._start() for _ in range(8)]

    def _start(self) -> tuple[str, Member]:
        seed = f"{self._seed}-{self._born}"
        self._born += 1
        member = Member(roles.anything, self._place, seed, self._squeezing)
        return seed, self.stack.enter_context(member)

    async def replace(self, number: int) -> None:
        """Kill a process, and start another."""
        await self._kill(*self._alive[number])
        self._alive[number] = self._start()

    async def end(self) -> None:
        """Kill all."""
        for _, member in self._alive:
            member.process.kill()
        for seed, member in self._alive:
            await self._kill(seed, member)

    async def _kill(self, seed: str, member: Member) -> None:
        await member.killed()
        self.deaths += 1
        with Journal(self._place.journals / f"{seed}.jsonl") as journal:
            journal.death()
