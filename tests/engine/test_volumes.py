"""Volumes of an engine: what they hold stays, what is temporary goes, and what is in use is told."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.engine import containers
from aioruntime.engine.client import EngineClient, path_part
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.networks import Networks
from aioruntime.engine.removal import filter_params
from aioruntime.engine.volumes import Volumes
from aioruntime.errors import EngineError, InvalidSpec
from tests.engine.running import created, output_of
from tests.support.leaks import assert_settles, snapshot
from tests.support.proxy import Fault, UnixProxy
from tests.support.rootfs import import_image, program_tar
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.engines import Engine

LABELS = {"aioruntime.test": "volumes"}
OURS = {"label": "aioruntime.test=volumes"}


def using(name: str) -> dict[str, object]:
    mounts = [{"Type": "volume", "Source": name, "Target": "/v"}]
    return {"HostConfig": {"NetworkMode": "none", "Mounts": mounts}}


async def test_life_of_a_volume(every_engine: Engine) -> None:
    """A volume is created, listed, looked at and removed; it keeps what one container wrote for the next.

    While a container uses it, the removal is a 409 that names the container; what is not there is a 404
    that tells what to do.
    """
    image = import_image(every_engine, "volumes", program_tar("sh", "cat"))
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as client:
        volumes = Volumes(client)
        assert await volumes.list(OURS) == []
        made = await volumes.create("kept-by-test", labels=LABELS)
        assert (made.name, made.driver, dict(made.labels)) == ("kept-by-test", "local", LABELS)
        assert await volumes.inspect("kept-by-test") == made
        assert await volumes.list(OURS) == [made]
        assert await volumes.create("kept-by-test") == made

        async with created(client, image, "sh", "-c", "echo kept >/v/f", **using(made.name)) as writer:
            await containers.start(client, writer)
            assert await containers.wait(client, writer) == 0
            with pytest.raises(EngineError, match=r"kept-by-test.*used by \w+: remove") as caught:
                await volumes.remove(made.name)
            assert caught.value.status == 409
        async with (
            created(client, image, "cat", "/v/f", **using(made.name)) as reader,
            containers.attach(client, reader) as output,
        ):
            await containers.start(client, reader)
            assert (await output_of(output))["stdout"] == b"kept\n"

        await volumes.remove(made.name)
        for call in (volumes.remove(made.name), volumes.inspect(made.name)):
            with pytest.raises(EngineError, match=r"no volume kept-by-test; .*volumes\.list") as caught:
                await call
            assert caught.value.status == 404
        if every_engine.kind == "podman":  # Docker looks for the program that it would be for 15 s
            with pytest.raises(EngineError, match="nope"):
                await volumes.create("x", driver="nope")
        unnamed = await volumes.create(labels=LABELS)
        assert len(unnamed.name) == 64
        await volumes.remove(unnamed.name)


async def test_prune(every_engine: Engine) -> None:
    """Pruning removes just what no container uses and the filter chooses, named or not, and tells it."""
    image = import_image(every_engine, "volumes", program_tar("sh", "cat"))
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as client:
        volumes = Volumes(client)
        names = {(await volumes.create(name, labels=LABELS)).name for name in ("pruned-a", None)}
        other = await volumes.create("pruned-other")
        used = await volumes.create("pruned-used", labels=LABELS)
        async with created(client, image, "cat", **using(used.name)):
            pruned = await volumes.prune(OURS)
            assert set(pruned.names) == names
            assert pruned.freed_bytes >= 0
            assert await volumes.list(OURS) == [used]
        await volumes.remove(used.name)
        await volumes.remove(other.name)


async def test_temporary(client: EngineClient, image: str) -> None:
    """A temporary volume is gone after its context, also when that fails, and waits for its last user.

    If it can't be removed, that is told, as a note where another error is on its way.
    """
    volumes = Volumes(client)
    async with volumes.temporary(labels=LABELS) as volume:
        assert await volumes.list(OURS) == [volume]
        user = await containers.create(client, {"Image": image, "Cmd": ["cat"], **using(volume.name)})
        removal = asyncio.get_running_loop().call_later(
            0.5, lambda: asyncio.ensure_future(containers.remove(client, user))
        )
    assert removal.when() < asyncio.get_running_loop().time()
    assert await volumes.list(OURS) == []
    with pytest.raises(ZeroDivisionError):
        async with volumes.temporary(labels=LABELS):
            raise ZeroDivisionError
    assert await volumes.list(OURS) == []
    async with volumes.temporary() as volume:
        await volumes.remove(volume.name)


async def test_in_use_for_good(client: EngineClient, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary volume whose user stays is told as such: an error, or a note on the one on its way."""
    monkeypatch.setattr("aioruntime.engine.removal._REMOVE_SECONDS", 1.0)
    volumes = Volumes(client)
    users: list[str] = []

    async def use(*, fail: bool) -> None:
        async with volumes.temporary(labels=LABELS) as volume:
            users.append(
                await containers.create(client, {"Image": image, "Cmd": ["cat"], **using(volume.name)})
            )
            if fail:
                raise ZeroDivisionError

    with pytest.raises(EngineError, match="used by") as caught:
        await use(fail=False)
    with pytest.raises(ZeroDivisionError) as other:
        await use(fail=True)
    for user in users:
        await containers.remove(client, user)
    assert len((await volumes.prune(OURS)).names) == 2
    assert caught.value.status == 409
    assert "could not be removed" in other.value.__notes__[0]
    assert "used by" in other.value.__notes__[0]


async def test_the_answer_was_lost(engine: Engine, tmp_path: Path) -> None:
    """THREATS E7: a temporary volume whose creation was not answered is removed all the same."""
    async with (
        UnixProxy(tmp_path / "p", engine.socket) as proxy,
        EngineClient.open(Endpoint(proxy.url, "test")) as client,
    ):
        proxy.add(Fault("cut", request="/volumes/create"))
        with pytest.raises(EngineError):
            async with Volumes(client).temporary(labels=LABELS):
                pytest.fail("entered")
        assert any("DELETE" in line for each in proxy.connections for line in each.requests)
        assert await Volumes(client).list(OURS) == []


@pytest.mark.parametrize("again_after", [None, 1])
async def test_cancelled_at_each_await(client: EngineClient, again_after: int | None) -> None:
    """THREATS E7: cancelled at whatever await, even twice, no temporary volume is left, and nothing open."""
    volumes = Volumes(client)

    async def use() -> None:
        async with volumes.temporary(labels=LABELS):
            pass

    before = snapshot()
    async for step in each_step(use):
        await run_cancelled_at(use, step, again_after=again_after, may_finish=True)
        assert await volumes.list(OURS) == []
    await assert_settles(before)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-a", 5])
async def test_what_is_no_name(name: Any) -> None:
    """Neither a volume nor a network is made or sought by what is no name: another call would be meant."""
    nobody: Any = None
    kinds: dict[str, Any] = {"volume": Volumes(nobody), "network": Networks(nobody)}
    for kind, made in kinds.items():
        with pytest.raises(InvalidSpec, match=f"{kind} {name!r} is not a {kind}'s name; give letters"):
            await made.create(name)
        if name not in ("a/b", "-a"):
            with pytest.raises(InvalidSpec, match=f"{name!r} is not a name or ID"):
                path_part(name)


def test_json_of_filters() -> None:
    """Filters take one value or several."""
    assert filter_params(None) == filter_params({}) == {}
    assert json.loads(filter_params({"a": "b", "c": ["d", "e"]})["filters"]) == {"a": ["b"], "c": ["d", "e"]}
