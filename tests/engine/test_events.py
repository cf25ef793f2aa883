"""Events: in full and once each, over cuts, silence and restarts of the engine."""

from __future__ import annotations

import asyncio
import itertools
import time
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.engine import containers
from aioruntime.engine import events as module
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.event_history import Event, History, read_event
from aioruntime.engine.events import events
from aioruntime.errors import EngineError, EngineUnavailable, InvalidSpec
from aioruntime.tasks import in_thread
from tests.engine.running import created
from tests.support.leaks import assert_settles, snapshot
from tests.support.proxy import Fault, UnixProxy
from tests.support.rootfs import import_image, program_tar

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.engines import Engine

_SECOND = 10**9


def event(number: int, time_ns: int) -> Event:
    return Event("container", "die", str(number), MappingProxyType({}), time_ns)


@given(
    st.lists(st.tuples(st.integers(0, 30 * 10), st.integers(0, 90)), max_size=60),
    st.lists(st.integers(0, 60), max_size=6),
    st.integers(0, 300),
)
def test_nothing_lost_and_nothing_twice(times: list[tuple[int, int]], cuts: list[int], since: int) -> None:
    """Whatever is cut where, each event since the beginning is given once.

    The engine tells events up to 9 s later than their times say, some at the same time, and of what came
    before a connection all that is not older than it was asked for.
    """
    # Told in this order: by the time they happened and how late they are told, in tenths of a second.
    told = sorted(enumerate(times), key=lambda pair: pair[1][0] + pair[1][1])
    log = [event(number, at * _SECOND // 10) for number, (at, _) in told]
    history = History(since * _SECOND // 10)
    got: list[Event] = []
    stops = [*sorted(min(cut, len(log)) for cut in cuts), len(log)]
    done = 0
    for stop in stops:
        asked = history.since_ns
        got += [each for each in log[:stop] if each.time_ns >= asked and history.is_new(each)]
        done = stop

    assert done == len(log)
    assert sorted(got, key=lambda each: each.id) == sorted(
        (each for each in log if each.time_ns >= since * _SECOND // 10), key=lambda each: each.id
    )


def test_memory_of_what_was_given() -> None:
    """What is long past is not remembered: no replay can bring it again."""
    history = History(0)
    for number in range(100_000):
        assert history.is_new(event(number, number * _SECOND // 10))

    assert len(history._given) == len(history._by_time) < 200


def test_what_an_event_tells() -> None:
    """Type, action, ID, attributes and the time to the nanosecond are read; what is none is an error."""
    message = {
        "status": "die",
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": "abc", "Attributes": {"exitCode": "3"}},
        "time": 1700000000,
        "timeNano": 1700000000123456789,
    }
    found = read_event(message)

    assert (found.type, found.action, found.id, dict(found.attributes)) == (
        "container",
        "die",
        "abc",
        {"exitCode": "3"},
    )
    assert found.time == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert len({found, read_event(message)}) == 1
    with pytest.raises(EngineError, match="timeNano"):
        read_event({**message, "timeNano": None})


async def lives(client: EngineClient, image: str, count: int) -> list[str]:
    """Let containers live and be removed; return their IDs."""
    found = []
    for _ in range(count):
        async with created(client, image, "sh", "-c", "exit 3") as container:
            await containers.start(client, container)
            await containers.wait(client, container)
            found.append(container)
    return found


LIFE = ("create", "start", "die", "destroy")
ONES = {"type": "container"}


def of_life(found: list[Event]) -> list[tuple[str, str]]:
    """Which container did what."""
    return [(each.id, each.action) for each in found if each.action in LIFE]


async def told(client: EngineClient, since: float) -> list[Event]:
    async with events(client, since=since, until=time.time(), filters=ONES) as stream:
        return [each async for each in stream]


async def test_from_then_until_then(every_engine: Engine) -> None:
    """With a beginning and an end, all events between are given, then it ends; also if the end lies ahead.

    Filters choose. An end before the beginning is refused.
    """
    image = import_image(every_engine, "events", program_tar("sh"))
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as client:
        since = time.time()
        first, second = await lives(client, image, 2)
        before = await told(client, since)
        async with events(
            client, since=since, until=time.time() + 1, filters={"event": ["die"], "container": first}
        ) as stream:
            filtered = [each async for each in stream]
        with pytest.raises(InvalidSpec, match="until"):
            async with events(client, since=since, until=since - 1):
                pass

    life = [(first, action) for action in LIFE]
    assert [pair for pair in of_life(before) if pair[0] == first] == life
    assert {pair[0] for pair in of_life(before)} == {first, second}
    assert [(each.id, each.action) for each in filtered] == [(first, "die")]
    assert abs(filtered[0].time.timestamp() - since) < 60
    assert every_engine.kind == "podman" or filtered[0].attributes["exitCode"] == "3"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"since": "1h"}, "since '1h' is not a moment"),
        ({"since": float("nan")}, "since nan is not a moment"),
        ({"until": float("inf")}, "until inf is not a moment"),
        ({"since": datetime(2026, 1, 1)}, "since .* tells no time zone"),
        ({"filters": ["type=container"]}, "filters is not a mapping but list"),
        ({"filters": {"type": 5}}, "filter type 5 is not a list"),
        ({"filters": {"type": ["container", 5]}}, "filter type: 5 is not text"),
        ({"filters": {5: "container"}}, "filter 5: 5 is not text"),
    ],
)
async def test_what_can_not_be_followed(settings: dict[str, Any], message: str) -> None:
    """A moment or a filter that is none is refused at once, before the engine is asked."""
    nobody: Any = None
    with pytest.raises(InvalidSpec, match=message):
        await events(nobody, **settings).__aenter__()


async def test_what_happens_now(client: EngineClient, image: str) -> None:
    """Entered, nothing is missed of what happens from then on, and nothing is given from before.

    Giving up waiting loses nothing, and leaving the context leaves nothing open.
    """
    await lives(client, image, 1)
    settled = snapshot()
    async with events(client, filters=ONES) as stream:
        (container,) = await lives(client, image, 1)
        found: list[Event] = []
        while ("destroy") not in [action for _, action in of_life(found)]:
            for patience in (0, 0.001, 30):
                try:
                    found.append(await asyncio.wait_for(anext(stream), patience))
                    break
                except TimeoutError:
                    pass
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
    assert of_life(found) == [(container, action) for action in LIFE]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await assert_settles(settled)


async def test_cut_again_and_again(engine: Engine, image: str, tmp_path: Path) -> None:
    """THREATS E6: a connection that is cut at any byte is replaced: every event is given, none twice."""
    async with (
        UnixProxy(tmp_path / "p", engine.socket) as proxy,
        EngineClient.open(Endpoint(engine.url, "test")) as direct,
        EngineClient.open(Endpoint(proxy.url, "test")) as client,
    ):
        kinds = itertools.cycle(("cut", "reset"))
        for after in (0, 1, 200, 350, 777, 1200, 1900, 2500):
            proxy.add(Fault(next(kinds), after=after, request="/events"))  # type: ignore[arg-type]
        since = time.time()
        async with events(client, since=since, filters=ONES) as stream:
            living = asyncio.ensure_future(lives(direct, image, 8))
            found: list[Event] = []
            while [action for _, action in of_life(found)].count("destroy") < 8:
                found.append(await anext(stream))
            await living
        assert all(fault.reached.is_set() for fault in proxy.faults)
        expected = await told(direct, since)

    assert len(set(found)) == len(found)
    assert set(found) == set(expected)


async def test_restarted_in_the_middle(own_engine: Engine) -> None:
    """THREATS E6: an engine that is killed and comes back is followed on; what it still tells comes once."""
    image = import_image(own_engine, "events", program_tar("sh"))
    async with (
        EngineClient.open(Endpoint(own_engine.url, "test")) as client,
        events(client, filters=ONES) as stream,
    ):
        first = await lives(client, image, 2)
        found = [await anext(stream)]  # the others are on their way, or in the engine
        own_engine.kill()
        waiting = asyncio.ensure_future(anext(stream))
        await in_thread(own_engine.start)
        second = await lives(client, image, 2)
        found.append(await waiting)
        while (second[1], "destroy") not in of_life(found):
            found.append(await anext(stream))

    assert len(set(found)) == len(found)
    expected = [
        (each, action) for each in (*first, *second) for action in ("create", "start", "die", "destroy")
    ]
    if own_engine.kind == "podman":
        assert of_life(found) == expected
    else:  # Docker's memory ends with it
        assert of_life(found)[-8:] == expected[-8:]


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take for silence what takes a second."""
    monkeypatch.setattr(module, "_QUIET_SECONDS", 1.0)
    monkeypatch.setattr(module, "_PING_SECONDS", 1.0)


@pytest.mark.usefixtures("hurry")
async def test_a_connection_that_fell_silent(engine: Engine, image: str, tmp_path: Path) -> None:
    """A proxy that has let go of the stream without a word loses no event: a silent one is replaced."""
    async with (
        UnixProxy(tmp_path / "p", engine.socket) as proxy,
        EngineClient.open(Endpoint(engine.url, "test")) as direct,
        EngineClient.open(Endpoint(proxy.url, "test")) as client,
        events(client, filters=ONES) as stream,
    ):
        silent = proxy.add(Fault("stall", after=1500, request="/events"))
        first, second = await lives(direct, image, 2)
        found: list[Event] = []
        while (second, "destroy") not in of_life(found):
            found.append(await anext(stream))
        assert silent.reached.is_set()

    assert of_life(found) == [(each, action) for each in (first, second) for action in LIFE]


@pytest.mark.usefixtures("hurry")
async def test_an_engine_that_hangs_or_is_gone(own_engine: Engine) -> None:
    """THREATS E5: one that stopped, or is gone, is told when it was away for too long; not before."""
    async with EngineClient.open(Endpoint(own_engine.url, "test")) as client:
        async with events(client, patience=3) as stream:
            waiting = asyncio.ensure_future(anext(stream))
            own_engine.pause()
            began = time.monotonic()
            with pytest.raises(EngineUnavailable, match=r"of trying: .* has not answered within 1 s"):
                await waiting
            assert 3 < time.monotonic() - began < 30
            own_engine.resume()
            await client.probe()

        async with events(client, patience=1) as stream:
            own_engine.kill()
            with pytest.raises(EngineUnavailable, match="of trying: "):
                await anext(stream)
