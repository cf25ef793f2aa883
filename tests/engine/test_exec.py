from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.engine import containers
from aioruntime.engine.exec import attach_exec, create_exec, inspect_exec, resize_exec, wait_exec
from aioruntime.errors import EngineError, StreamTruncated
from tests.engine.running import created, output_of, started
from tests.support.leaks import assert_settles, snapshot

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient


async def run(
    client: EngineClient, container: str, *command: str, **settings: Any
) -> tuple[int | None, dict[str, bytes]]:
    process = await create_exec(client, container, command, **settings)
    async with attach_exec(client, process, tty=settings.get("tty", False)) as output:
        found = await output_of(output)
    return (await wait_exec(client, process)).exit_code, found


async def test_output_and_exit_code(each_client: EngineClient, each_image: str) -> None:
    """Output comes by stream and in full, with the exit code, ten times of ten; so do the settings."""
    async with started(each_client, each_image) as container:
        for _ in range(10):
            code, found = await run(each_client, container, "sh", "-c", "echo out; echo err >&2; exit 126")
            assert (code, found) == (126, {"stdout": b"out\n", "stderr": b"err\n"})
        script = "echo $A; pwd; head -c 3000000 /dev/zero"
        code, found = await run(
            each_client, container, "sh", "-c", script, env={"A": "b c=d"}, working_dir="/dev", user="0:0"
        )
        assert (code, found["stdout"][:10], len(found["stdout"])) == (0, b"b c=d\n/dev", 3_000_011)


@pytest.mark.parametrize(
    ("command", "settings"),
    [(["/nope"], {}), (["nope"], {}), (["/bin"], {}), (["pwd"], {"working_dir": "/none/such"})],
)
async def test_a_process_that_cannot_start(
    each_client: EngineClient, each_image: str, command: list[str], settings: dict[str, Any]
) -> None:
    """A command or directory that does not exist is an error with the engine's words, and no output."""
    async with started(each_client, each_image) as container:
        process = await create_exec(each_client, container, command, **settings)
        with pytest.raises(EngineError, match="could not be started: ") as caught:
            async with attach_exec(each_client, process) as output:
                await output_of(output)
        assert (settings.get("working_dir") or command[0]) in str(caught.value)
        code = (await wait_exec(each_client, process)).exit_code
        assert code in (125, 126, 127)


async def test_a_user_that_does_not_exist(each_client: EngineClient, each_image: str) -> None:
    """A user that does not exist is an error as well."""
    async with started(each_client, each_image) as container:
        with pytest.raises(EngineError, match=r"user nobody-such|passwd"):
            await run(each_client, container, "env", user="nobody-such")


@pytest.mark.parametrize("line", ["Error: OCI runtime", "OCI runtime exec failed\\r"])
async def test_output_that_looks_like_a_refusal(client: EngineClient, image: str, line: str) -> None:
    """What a process writes is its output, though an engine's refusal would look the same."""
    async with started(client, image) as container:
        script = f"printf '{line}\\n'; printf '{line}\\n' >&2; exit 3"
        code, found = await run(client, container, "sh", "-c", script)
        expected = line.replace("\\r", "\r").encode() + b"\n"
        assert (code, found) == (3, {"stdout": expected, "stderr": expected})


async def test_standard_input(each_client: EngineClient, each_image: str) -> None:
    """Bytes sent arrive, and the end of the input as well, while the output still comes."""
    sent = bytes(range(256)) * 4000
    async with started(each_client, each_image) as container:
        process = await create_exec(each_client, container, ["cat"], stdin=True)
        async with attach_exec(each_client, process) as attachment:
            reading = asyncio.ensure_future(output_of(attachment))
            await attachment.send(sent)
            await attachment.close_input()
            assert (await reading)["stdout"] == sent
        assert (await wait_exec(each_client, process)).exit_code == 0


@pytest.mark.parametrize("much", [150_000, 3_000_000])
async def test_input_that_is_not_read(each_client: EngineClient, each_image: str, much: int) -> None:
    """Output that Podman dropped, since the input was not read, is told as cut; Docker drops none."""
    whole = 0
    async with started(each_client, each_image) as container:
        for _ in range(20):
            command = ["sh", "-c", "head -c 1000000 /dev/zero; exit 5"]
            process = await create_exec(each_client, container, command, stdin=True)
            async with attach_exec(each_client, process) as attachment:
                sending = asyncio.ensure_future(attachment.send(bytes(much)))
                with suppress(StreamTruncated):
                    assert await output_of(attachment) == {"stdout": bytes(1_000_000), "stderr": b""}
                    whole += 1
                sending.cancel()
                await asyncio.wait({sending})
    assert whole == 20 or each_client.capabilities.kind == "podman"


async def test_state_and_terminal(client: EngineClient, image: str) -> None:
    """While it runs a process has no exit code; its terminal takes the size that it is told."""
    async with started(client, image) as container:
        command = ["sh", "-c", "read a; stty size; exit 4"]
        process = await create_exec(client, container, command, tty=True, stdin=True)
        async with attach_exec(client, process, tty=True) as attachment:
            state = await inspect_exec(client, process)
            assert (state.running, state.exit_code) == (True, None)
            await resize_exec(client, process, rows=17, columns=91)
            await attachment.send(b"\n")
            assert b"17 91\r\n" in (await output_of(attachment))["stdout"]
        assert (await wait_exec(client, process)).exit_code == 4


async def test_no_running_container(each_client: EngineClient, each_image: str) -> None:
    """No such container is status 404, one that does not run 409, on every engine."""
    with pytest.raises(EngineError) as caught:
        await create_exec(each_client, "no-such-container", ["true"])
    assert caught.value.status == 404
    async with created(each_client, each_image, "sleep", "100") as container:
        with pytest.raises(EngineError) as caught:
            await create_exec(each_client, container, ["true"])
        assert caught.value.status == 409
        with pytest.raises(EngineError) as caught:
            await containers.kill(each_client, container)
        assert caught.value.status == 409
    with pytest.raises(EngineError) as caught:
        await inspect_exec(each_client, "abcdef")
    assert caught.value.status == 404


async def test_cancelled_exec_leaves_nothing_open(client: EngineClient, image: str) -> None:
    """THREATS E9: an exec whose task is cancelled closes its connection, and the engine lets go of it."""
    async with started(client, image) as container:
        before = snapshot()
        running = asyncio.Event()
        # It ends when it is told that nobody reads any more.
        process = await create_exec(client, container, ["sh", "-c", "echo a; cat"], stdin=True)

        async def follow() -> None:
            async with attach_exec(client, process) as output:
                async for _ in output:
                    running.set()

        task = asyncio.ensure_future(follow())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        # The engine's own processes are below this one, so only files and tasks are compared.
        await assert_settles(type(before)(before.files, snapshot().children, before.tasks))
        assert (await wait_exec(client, process)).exit_code is not None
