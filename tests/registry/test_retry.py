"""What is tried again, how often, and how long is waited for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import NotFound, RateLimited, RegistryError, RequestRefused, Unauthorized
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.pace import Pace
from aioruntime.registry.retry import pause_before, worth_another_try
from tests.registry.helpers import DATA, blob_path, image_at, layer_of
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import make_image, serve_image

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENTS = make_image("org/tool", "1", [DATA])
MANIFEST = "/v2/org/tool/manifests/1"
RETRIED = [408, 429, 500, 502, 503, 504, 599]
FINAL = [400, 401, 403, 404, 405, 410, 416, 418, 451]


class Clock:
    """A clock that goes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that costs no time, with the pauses that users get."""
    monkeypatch.setattr("aioruntime.registry.retry._FIRST_PAUSE", 0.25)
    return Clock()


async def read(client: RegistryClient, server: ScriptedServer) -> bytes:
    async with client.blob(image_at(server), layer_of()) as stream:
        return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("status", RETRIED)
async def test_statuses_that_may_change(server: ScriptedServer, status: int) -> None:
    """Manifest, config and blob come although each was answered so once."""
    for path, data in CONTENTS.items():
        server.on("GET", path, Reply(status), Reply(body=data))
    async with RegistryClient() as client:
        found = await client.resolve(image_at(server))
        async with client.blob(image_at(server), found.layers[0]) as stream:
            assert b"".join([chunk async for chunk in stream]) == DATA

    assert len(server.requests) == 6


@pytest.mark.parametrize("status", FINAL)
async def test_statuses_that_do_not_change(server: ScriptedServer, status: int) -> None:
    """Other answers are told at once, with the registry's own code and words."""
    body = b'{"errors":[{"code":"DENIED","message":"not you"}]}'
    server.on("GET", MANIFEST, Reply(status, body=body))
    server.on("GET", blob_path(), Reply(status, body=body))
    async with RegistryClient() as client:
        for attempt in (client.resolve(image_at(server)), read(client, server)):
            with pytest.raises(RegistryError, match="DENIED: not you") as caught:
                await attempt
            assert (caught.value.status, caught.value.code) == (status, "DENIED")

    assert len(server.requests) == 2


async def test_a_head_is_tried_again(server: ScriptedServer) -> None:
    """Whether a blob is there is asked again after a failure that may be over."""
    server.on("HEAD", blob_path(), Reply(503), Reply(faults=(Fault("cut", 0, "response"),)), Reply())
    async with RegistryClient() as client:
        assert await client.has_blob(image_at(server), layer_of())


async def test_a_token_is_asked_for_again(server: ScriptedServer) -> None:
    """A token server that failed once is asked again."""
    challenge = f'Bearer realm="{server.url}/token",service="s"'
    server.on(
        "GET", blob_path(), Reply(401, {"WWW-Authenticate": challenge}), requires={"Authorization": None}
    )
    server.on("GET", blob_path(), Reply(body=DATA), requires={"Authorization": "Bearer abc"})
    cut = Reply(body=b'{"token":"abc"}', faults=(Fault("reset", 5),))
    token = server.on("GET", "/token", Reply(503), cut, Reply(body=b'{"token":"abc"}'))
    async with RegistryClient() as client:
        assert await read(client, server) == DATA

    assert len(token.hits) == 3


@pytest.mark.parametrize("kind", ["cut", "reset", "stall"])
@pytest.mark.parametrize("place", ["head", "first", "middle", "last"])
async def test_broken_document(server: ScriptedServer, kind: str, place: str) -> None:
    """THREATS R17: a document that breaks off or stalls anywhere is fetched again."""
    after = {
        "head": 30,
        "first": 1,
        "middle": len(CONTENTS[MANIFEST]) // 2,
        "last": len(CONTENTS[MANIFEST]) - 1,
    }
    fault = Fault(kind, after[place], "response" if place == "head" else "body")  # type: ignore[arg-type]
    server.on("GET", MANIFEST, Reply(body=CONTENTS[MANIFEST], faults=(fault,)), times=1)
    serve_image(server, CONTENTS)
    before = snapshot()
    async with RegistryClient(stall_timeout=0.2 if kind == "stall" else 30) as client:
        assert (await client.resolve(image_at(server))).layers[0].size == len(DATA)
    assert fault.reached.is_set()
    fault.release.set()
    await assert_settles(before)


async def test_a_registry_that_comes_up(free_port: int) -> None:
    """A registry that refuses connections at first is waited for."""
    server = ScriptedServer(port=free_port)
    serve_image(server, CONTENTS)

    class Starts(Clock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.slept) == 3:
                await server.__aenter__()

    async with RegistryClient(clock=Starts()) as client:
        await client.resolve(image_at(server))
    await server.__aexit__(None, None, None)


async def test_retries_are_bounded(server: ScriptedServer, clock: Clock) -> None:
    """THREATS R18: what fails for ever is given up after so many tries, with pauses that grow."""
    server.on("GET", MANIFEST, Reply(500))
    async with RegistryClient(retries=4, clock=clock) as client:
        with pytest.raises(RegistryError, match="500"):
            await client.resolve(image_at(server))

    assert len(server.requests) == 5
    assert all(base / 2 <= slept <= base for slept, base in zip(clock.slept, [0.25, 0.5, 1, 2], strict=True))


async def test_budget(server: ScriptedServer, clock: Clock) -> None:
    """THREATS R18: however often it may be tried, the last try begins when the budget ends."""
    server.on("GET", MANIFEST, Reply(500))
    async with RegistryClient(retries=1000, retry_budget=30, clock=clock) as client:
        with pytest.raises(RegistryError, match="500"):
            await client.resolve(image_at(server))

    assert sum(clock.slept) == pytest.approx(30)
    assert 5 < len(server.requests) < 15


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 9),
        ("Thu, 01 Jan 2015 00:00:30 GMT", 20, 22),
        ("1000000000", 60, 62),
        ("Fri, 01 Jan 2100 00:00:30 GMT", 60, 62),
        ("-5", 0.1, 0.3),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 0.1, 0.3),
        ("soon", 0.1, 0.3),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after(
    server: ScriptedServer, clock: Clock, status: int, value: str, least: float, most: float
) -> None:
    """THREATS R18: what a registry asks to wait is waited for, as seconds or as a date, up to a minute."""
    headers = {"Retry-After": value, "Date": "Thu, 01 Jan 2015 00:00:10 GMT"}
    server.on("GET", MANIFEST, Reply(status, headers), times=1)
    serve_image(server, CONTENTS)
    async with RegistryClient(clock=clock) as client:
        await client.resolve(image_at(server))

    assert least <= clock.time <= most


async def test_limited_for_ever(server: ScriptedServer, clock: Clock) -> None:
    """THREATS R18: a registry that always asks to wait is given up within the budget, and so told."""
    server.on("GET", MANIFEST, Reply(429, {"Retry-After": "1000000000"}))
    async with RegistryClient(clock=clock) as client:
        with pytest.raises(RateLimited) as caught:
            await client.resolve(image_at(server))

    assert caught.value.retry_after == 3600
    assert clock.time <= 120.1
    assert len(server.requests) == 3


@pytest.mark.parametrize("value", ["1", None])
async def test_many_wait_together(server: ScriptedServer, value: str | None) -> None:
    """THREATS R18: 200 resolves at once reach a registry that limits them; none asks before it may."""
    opens_at = 0.0
    allowed = 12
    early: list[float] = []

    def limited(data: bytes) -> Callable[[object], Reply]:
        def answer(_: object) -> Reply:
            nonlocal allowed, opens_at
            now = time.monotonic()
            if now < opens_at - 0.05:
                early.append(opens_at - now)
            if allowed > 0 or not value:
                allowed -= 1
                if value or allowed % 7:
                    return Reply(body=data)
            elif now >= opens_at > 0:
                allowed = 1000
                return Reply(body=data)
            opens_at = max(opens_at, now + 1) if value else 0.0
            return Reply(429, {"Retry-After": value} if value else {})

        return answer

    for path, data in CONTENTS.items():
        server.on("GET", path, limited(data))
    async with RegistryClient() as client:
        found = await asyncio.gather(*(client.resolve(image_at(server)) for _ in range(200)))

    assert {image.layers[0].size for image in found} == {len(DATA)}
    # Those that were under way when the first was refused can't know.
    assert len(early) <= 16
    assert server.connections <= 32


async def test_fewer_at_once_after_429() -> None:
    """THREATS R18: a host that answers 429 gets half as many requests at once, then slowly more again."""
    pace = Pace(16, 60, Clock())
    inside = most = 0
    statuses = [429] + [200] * 400

    async def request() -> None:
        nonlocal inside, most
        async with pace.turn("h") as turn:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            turn.answered(statuses.pop(0) if statuses else 200, None)
            inside -= 1

    async def burst(count: int) -> int:
        nonlocal most
        most = 0
        await asyncio.gather(*(request() for _ in range(count)))
        return most

    assert await burst(1) == 1
    assert 8 <= await burst(20) <= 10
    await burst(300)
    assert await burst(40) == 16


async def test_one_burst_halves_once() -> None:
    """THREATS R18: requests that were refused together count as one sign; the limit is never below one."""
    pace = Pace(16, 60, Clock())

    async def refused() -> None:
        async with pace.turn("h") as turn:
            await asyncio.sleep(0)
            turn.answered(429, None)

    await asyncio.gather(*(refused() for _ in range(16)))
    assert pace._hosts["h"].limit == 8
    for _ in range(10):
        await refused()
    assert pace._hosts["h"].limit == 1


def test_hosts_are_forgotten() -> None:
    """Any number of hosts takes bounded memory."""
    pace = Pace(16, 60, Clock())
    for number in range(5000):
        pace._new(f"host{number}")

    assert len(pace._hosts) <= 1024


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (RegistryError("x"), False),
        (RegistryError("x", temporary=True), True),
        *((RegistryError("x", status=status), True) for status in RETRIED),
        *((RegistryError("x", status=status), False) for status in [*FINAL, 200, 206, 301]),
        (RateLimited("x"), True),
        (NotFound("x", status=404), False),
        (Unauthorized("x", status=401), False),
        (RequestRefused("x", temporary=True), False),
        (ValueError("x"), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_worth_another_try(error: BaseException, worth: bool) -> None:
    """Only what may be over the next time is tried again."""
    assert worth_another_try(error) is worth


def test_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses double up to ten seconds, and chance takes at most half of them."""
    monkeypatch.setattr("aioruntime.registry.retry._FIRST_PAUSE", 0.25)

    assert [pause_before(tries, 0) for tries in (1, 2, 3, 6, 7, 10**9)] == [0.25, 0.5, 1, 8, 10, 10]
    assert pause_before(2, 1) == 0.25
