"""Networks of an engine: made as asked, joined by containers, removed when nobody is left."""

from __future__ import annotations

import ipaddress
import secrets
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine import containers
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.network_values import Subnet
from aioruntime.engine.networks import Networks
from aioruntime.errors import EngineError, InvalidSpec
from tests.engine.running import created
from tests.support.leaks import assert_settles, snapshot
from tests.support.rootfs import import_image, program_tar
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from tests.support.engines import Engine

LABELS = {"aioruntime.test": "networks"}
OURS = {"label": "aioruntime.test=networks"}
# Of networks for benchmarks, and of a unique local prefix: no machine's own, and for each session another.
_NUMBER = secrets.randbelow(1 << 13)
_V4 = ipaddress.ip_network((int(ipaddress.ip_address("198.18.0.0")) + (_NUMBER << 4), 28))
V4, V6 = Subnet(str(_V4), str(_V4[1])), Subnet(f"fd5c:9a3b:{_NUMBER:x}::/64")


async def test_life_of_a_network(every_engine: Engine) -> None:
    """A network is created as asked, listed, joined, left and removed; its name is its own.

    While a container is in it, the removal is a 409 that names the container; what is not there is a 404
    that tells what to do.
    """
    image = import_image(every_engine, "networks", program_tar("sh", "sleep"))
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as client:
        networks = Networks(client)
        made = await networks.create(
            "made-by-test", labels=LABELS, subnets=[V4, V6], internal=True, ipv6=True
        )
        assert (made.name, made.driver, made.internal, made.ipv6) == ("made-by-test", "bridge", True, True)
        assert dict(made.labels) == LABELS
        assert made.subnets[0] == V4
        assert [each.subnet for each in made.subnets] == [V4.subnet, V6.subnet]
        assert [each.id for each in await networks.list(OURS)] == [made.id]
        assert (await networks.inspect(made.id)).name == made.name
        with pytest.raises(EngineError, match="there is a network made-by-test already") as caught:
            await networks.create("made-by-test")
        assert caught.value.status == 409

        fields = {"HostConfig": {"NetworkMode": made.name}, "StopTimeout": 0}
        async with created(client, image, "sleep", "100", **fields) as container:
            await containers.start(client, container)
            with pytest.raises(EngineError, match=r"made-by-test.*used by \w+: remove") as caught:
                await networks.remove(made.name)
            assert caught.value.status == 409

        await networks.remove(made.name)
        for call in (networks.remove(made.name), networks.inspect(made.name)):
            with pytest.raises(EngineError, match=r"no network made-by-test; .*networks\.list") as caught:
                await call
            assert caught.value.status == 404
        if every_engine.kind == "podman":  # Docker looks for the program that it would be for 15 s
            with pytest.raises(EngineError, match="nope"):
                await networks.create("x", driver="nope")


async def test_connect_and_disconnect(every_engine: Engine) -> None:
    """A container joins a further network with the address and names that it is given, and leaves it."""
    image = import_image(every_engine, "networks", program_tar("sh", "sleep"))
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as client:
        networks = Networks(client)
        async with (
            networks.temporary(labels=LABELS, internal=True) as first,
            networks.temporary(labels=LABELS, internal=True, subnets=[V4]) as second,
            created(
                client, image, "sleep", "100", HostConfig={"NetworkMode": first.name}, StopTimeout=0
            ) as container,
        ):

            async def joined() -> dict[str, dict[str, object]]:
                document = await client.json("GET", f"/containers/{container}/json")
                found: dict[str, dict[str, object]] = document["NetworkSettings"]["Networks"]
                return found

            await networks.connect(second.name, container)
            assert set(await joined()) == {first.name, second.name}
            await networks.disconnect(second.name, container)
            assert set(await joined()) == {first.name}
            await networks.connect(second.name, container, aliases=["known-as"], ip=str(_V4[9]))
            await containers.start(client, container)
            told = (await joined())[second.name]
            assert told["IPAddress"] == str(_V4[9])
            assert "known-as" in told["Aliases"]  # type: ignore[operator]
            with pytest.raises(EngineError, match="nope"):
                await networks.connect(second.name, "nope")
            with pytest.raises(InvalidSpec, match=r"198\.51"):
                await networks.connect(second.name, container, ip="198.51.100")
        assert await networks.list(OURS) == []


async def test_prune(every_engine: Engine) -> None:
    """Pruning removes just what nobody is connected to and the filter chooses, and tells it."""
    async with EngineClient.open(Endpoint(every_engine.url, "test")) as client:
        networks = Networks(client)
        unused = await networks.create(labels=LABELS, internal=True)
        other = await networks.create("pruned-other", internal=True)
        assert (await networks.prune(OURS)).names == (unused.name,)
        assert other.name in [each.name for each in await networks.list()]
        await networks.remove(other.name)


@pytest.mark.parametrize(
    ("subnet", "gateway", "expected"),
    [
        ("10.0.0.0/33", None, "10.0.0.0/33"),
        ("10.0.0.0/24", "10.0.1.1", "gateway 10.0.1.1 is not in"),
        ("10.0.0.0/24", "fd00::1", "gateway fd00::1 is not in"),
        ("nope", None, "'nope'"),
        ("10.0.0.0/24", "nope", "'nope'"),
    ],
)
def test_what_is_no_subnet(subnet: str, gateway: str | None, expected: str) -> None:
    """Addresses that make no sense are refused when they are written down."""
    with pytest.raises(InvalidSpec) as caught:
        Subnet(subnet, gateway)
    assert expected in str(caught.value)


async def test_cancelled_at_each_await(client: EngineClient) -> None:
    """THREATS E7: cancelled at whatever await, no temporary network is left, and nothing open."""
    networks = Networks(client)

    async def use() -> None:
        async with networks.temporary(labels=LABELS, internal=True):
            pass

    before = snapshot()
    async for step in each_step(use, sample=12):
        await run_cancelled_at(use, step, may_finish=True)
        assert await networks.list(OURS) == []
    await assert_settles(before)
