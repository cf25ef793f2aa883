from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine import containers
from aioruntime.errors import EngineError, ImageNotFound
from tests.engine.running import created, output_of, run
from tests.support.leaks import assert_settles, snapshot

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient


async def test_output_of_a_container_that_ends_at_once(client: EngineClient, image: str) -> None:
    """Nothing is lost of what a container writes that ends at once, nor its exit code: 20 times of 20."""
    expected = (3, {"stdout": b"out\n", "stderr": b"err\n"})
    for _ in range(20):
        assert await run(client, image, "sh", "-c", "echo out; echo err >&2; exit 3") == expected


async def test_much_output(client: EngineClient, image: str) -> None:
    """Output of many megabytes arrives in full."""
    code, found = await run(client, image, "head", "-c", "6000000", "/dev/zero")
    assert (code, len(found["stdout"])) == (0, 6_000_000)


async def test_standard_input(client: EngineClient, image: str) -> None:
    """Bytes sent arrive, and the end of the input as well, while the output still comes."""
    fields = {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
    sent = bytes(range(256)) * 2000
    async with created(client, image, "cat", **fields) as container:
        async with containers.attach(client, container, stdin=True) as attachment:
            await containers.start(client, container)
            reading = asyncio.ensure_future(output_of(attachment))
            await attachment.send(sent)
            await attachment.close_input()
            assert await reading == {"stdout": sent, "stderr": b""}
        assert await containers.wait(client, container) == 0


async def test_terminal(client: EngineClient, image: str) -> None:
    """With a terminal, output comes raw, both streams as one."""
    async with (
        created(client, image, "sh", "-c", "echo out; echo err >&2", Tty=True) as container,
        containers.attach(client, container, tty=True) as output,
    ):
        await containers.start(client, container)
        assert await output_of(output) == {"stdout": b"out\r\nerr\r\n", "stderr": b""}


async def test_wait_before_and_after_the_end(client: EngineClient, image: str) -> None:
    """Waiting gives the exit code whether the container has ended already or only ends then."""
    async with created(client, image, "sleep", "100") as container:
        await containers.start(client, container)
        waiting = asyncio.ensure_future(containers.wait(client, container))
        assert (await containers.inspect(client, container)).running
        await containers.kill(client, container)
        assert await waiting == 137
        assert await containers.wait(client, container) == 137
        state = await containers.inspect(client, container)
        assert (state.status, state.running, state.exit_code) == ("exited", False, 137)
        await containers.stop(client, container)


async def test_a_command_that_does_not_exist(client: EngineClient, image: str) -> None:
    """A command that does not exist is told, at the latest at the start, with the engine's words."""
    async with created(client, image, "/nope") as container:
        with pytest.raises(EngineError, match="/nope"):
            async with containers.attach(client, container):
                await containers.start(client, container)


async def test_remove_and_list(client: EngineClient, image: str) -> None:
    """Containers are found by label; removing one that runs works, and one that is gone is fine."""
    async with created(client, image, "sleep", "100", Labels={"aioruntime.test": "list"}) as container:
        await containers.start(client, container)
        assert await containers.list_by_label(client, "aioruntime.test=list") == [container]
        assert await containers.list_by_label(client, "aioruntime.test=other") == []
        removals = [containers.remove(client, container) for _ in range(3)]
        await asyncio.gather(*removals)
        assert await containers.list_by_label(client, "aioruntime.test") == []
    with pytest.raises(EngineError) as caught:
        await containers.inspect(client, container)
    assert caught.value.status == 404


async def test_no_image(client: EngineClient) -> None:
    """A container of an image that is not there is ImageNotFound."""
    with pytest.raises(ImageNotFound):
        await containers.create(client, {"Image": "localhost/nope:1", "Cmd": ["true"]})


async def test_cancelled_attach_leaves_nothing_open(client: EngineClient, image: str) -> None:
    """THREATS E9: an attachment whose task is cancelled closes its connection."""
    async with created(client, image, "sleep", "100") as container:
        before = snapshot()
        started = asyncio.Event()

        async def follow() -> None:
            async with containers.attach(client, container) as output:
                await containers.start(client, container)
                started.set()
                await output_of(output)

        task = asyncio.ensure_future(follow())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        # The engine's own processes are below this one, so only files and tasks are compared.
        before_files = type(before)(before.files, snapshot().children, before.tasks)
        await assert_settles(before_files)


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
async def test_libpod_body(client: EngineClient, image: str) -> None:
    """Podman's own create call takes mounts whose paths Docker's notation can't tell, and our name."""
    body = {
        "image": image,
        "command": ["sh", "-c", "echo $A; pwd"],
        "env": {"A": "b c"},
        "work_dir": "/x,y:z",
        "mounts": [{"type": "tmpfs", "source": "tmpfs", "destination": "/x,y:z", "options": ["size=1m"]}],
        "netns": {"nsmode": "none"},
    }
    container = await containers.create(client, body, name="aioruntime-test-libpod", libpod=True)
    try:
        async with containers.attach(client, "aioruntime-test-libpod") as output:
            await containers.start(client, container)
            assert await output_of(output) == {"stdout": b"b c\n/x,y:z\n", "stderr": b""}
    finally:
        await containers.remove(client, container)
