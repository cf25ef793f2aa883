"""Containers in hand, on each generation of engine: streams, input, signals, ends."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import aioruntime as ar
from tests.runtime.conftest import containers, script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine


pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


async def read(chunks: AsyncIterator[ar.Output]) -> dict[str, bytes]:
    found = {"stdout": b"", "stderr": b""}
    async for chunk in chunks:
        found[chunk.stream] += chunk.data
    return found


# Output.


async def test_output_and_exit_code(runtime: EngineRuntime, shell: str) -> None:
    """Both streams arrive whole, told apart; `wait` tells the exit code, and again when asked again."""
    async with runtime.start(script(shell, "echo out; echo err >&2; exit 3")) as container:
        assert await read(container.output()) == {"stdout": b"out\n", "stderr": b"err\n"}
        assert (await container.wait()).exit_code == 3
        assert (await container.wait()).exit_code == 3


async def test_a_container_that_exits_at_once(runtime: EngineRuntime, shell: str) -> None:
    """Output of a container that has ended before anybody reads is all there, up to what is kept."""
    async with runtime.start(script(shell, "echo one; head -c 300000 /dev/zero")) as container:
        await container.wait()
        assert await read(container.output()) == {"stdout": b"one\n" + bytes(300_000), "stderr": b""}


async def test_wait_without_a_reader(runtime: EngineRuntime, shell: str) -> None:
    """A container that writes much which nobody reads still ends; a reader who comes too late is told so."""
    async with runtime.start(script(shell, "head -c 3000000 /dev/zero; exit 4")) as container:
        assert (await container.wait()).exit_code == 4
        with pytest.raises(ar.StreamTruncated, match="nobody read its output"):
            await read(container.output())


async def test_wait_after_reading_a_part(runtime: EngineRuntime, shell: str) -> None:
    """Who stops reading and waits does not wait for ever."""
    async with runtime.start(script(shell, "echo one; head -c 3000000 /dev/zero")) as container:
        async for line in container.lines():
            assert line == ar.Line("stdout", "one")
            break
        assert (await container.wait()).exit_code == 0


async def test_reading_on(runtime: EngineRuntime, shell: str) -> None:
    """Who stops reading lines gets what follows later: as lines, or as pieces byte by byte."""
    text = r"printf 'a\nready\nb\nc\nd\nhalf'; sleep 0.5; echo ' done'; printf 'e\n'"
    async with runtime.start(script(shell, text)) as container:
        async for line in container.lines():
            if line.text == "ready":
                break
        assert [(await anext(container.lines())).text for _ in range(2)] == ["b", "c"]
        assert await read(container.output()) == {"stdout": b"d\nhalf done\ne\n", "stderr": b""}


async def test_wait_with_a_reader_in_hand(runtime: EngineRuntime, shell: str) -> None:
    """Who keeps the reader, waits, and reads on, waits no longer than who let go of it, and gets all."""
    async with runtime.start(script(shell, "echo one; head -c 800000 /dev/zero; exit 3")) as container:
        chunks = container.output()
        found = (await anext(chunks)).data
        assert (await container.wait()).exit_code == 3
        async for chunk in chunks:
            found += chunk.data
    assert found == b"one\n" + bytes(800_000)


async def test_a_reader_beside_a_wait(runtime: EngineRuntime, shell: str) -> None:
    """A reader in a task of its own that begins after `wait` gets every byte, however slow."""
    text = "i=0; while [ $i -lt 40 ]; do head -c 65536 /dev/zero; i=$((i+1)); done"
    found: list[int] = []

    async def slowly() -> None:
        async for chunk in container.output():
            found.append(len(chunk.data))
            await asyncio.sleep(0)

    async with runtime.start(script(shell, text)) as container, anyio.create_task_group() as group:
        group.start_soon(slowly)
        await container.wait()
    assert sum(found) == 40 * 65536


async def test_one_reader_at_a_time(runtime: EngineRuntime, shell: str) -> None:
    """A second reader goes on where the first was, and the first is told when it asks for more."""
    async with runtime.start(script(shell, "echo one; cat", stdin=True)) as container:
        first = container.output()
        assert (await anext(first)).data == b"one\n"
        second = container.output()
        with pytest.raises(ar.RunError, match="another reader"):
            await anext(first)
        await container.stdin.write(b"two\n")
        assert (await anext(second)).data == b"two\n"


async def test_a_reader_that_takes_its_time(runtime: EngineRuntime, shell: str) -> None:
    """While the reader does something else the program is held up, not buffered: it does not end."""
    go_on = anyio.Event()
    found: list[int] = []

    async def slowly() -> None:
        async for chunk in chunks:
            found.append(len(chunk.data))
            await go_on.wait()

    async with runtime.start(script(shell, "head -c 8000000 /dev/zero")) as container:
        chunks = container.output()
        async with anyio.create_task_group() as group:
            group.start_soon(slowly)
            with anyio.move_on_after(1.0) as limit:
                await container.wait()
            assert limit.cancelled_caught
            assert len(found) == 1
            go_on.set()
            await container.wait()
    assert sum(found) == 8_000_000


# Input.


async def test_input_is_written_and_ended(runtime: EngineRuntime, shell: str) -> None:
    """What is written arrives while the output is read; once it is ended, the rest of the output comes."""
    data = bytes(range(256)) * 8192
    async with runtime.start(script(shell, "cat; echo end >&2", stdin=True)) as container:

        async def write() -> None:
            for start in range(0, len(data), 65536):
                await container.stdin.write(data[start : start + 65536])
            await container.stdin.close()

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            found = await read(container.output())
    assert hashlib.sha256(found["stdout"]).digest() == hashlib.sha256(data).digest()
    assert found["stderr"] == b"end\n"


async def test_input_as_bytes(runtime: EngineRuntime, shell: str) -> None:
    """Bytes given as input are sent and ended, by `run` as well."""
    data = b"line\n" * 100_000
    outcome = await runtime.run(script(shell, "cat", stdin=data, capture_output=True))
    assert outcome.stdout == data


@pytest.mark.parametrize("much", [0, 1_000_000])
async def test_input_that_is_not_read(runtime: EngineRuntime, shell: str, much: int) -> None:
    """A program that reads none of the bytes given as input is fine, and all that it wrote is there."""
    text = f"head -c {much} /dev/zero; exit 5"
    for _ in range(5):
        outcome = await runtime.run(script(shell, text, stdin=b"line\n" * 100_000, capture_output=True))
        assert outcome.exit_code == 5
        assert outcome.stdout == bytes(much)


async def test_input_that_nobody_reads_any_more(runtime: EngineRuntime, shell: str) -> None:
    """Writing to a program that has ended fails, also if its output is not read."""
    async with runtime.start(script(shell, "echo out; exit 5", stdin=True)) as container:
        with pytest.raises(ar.EngineError, match="takes no more input"):
            await container.stdin.write(bytes(3_000_000))
        assert (await read(container.output()))["stdout"] == b"out\n"
        assert (await container.wait()).exit_code == 5


async def test_cancelled_writing(runtime: EngineRuntime, shell: str) -> None:
    """What a cancelled write has not sent yet comes before what is written next; nothing is torn."""
    first, second = bytes(3_000_000), b"second"
    async with runtime.start(script(shell, "sleep 1; cat", stdin=True)) as container:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(container.stdin.write(first), 0.5)
        reading = asyncio.ensure_future(read(container.output()))
        await container.stdin.write(second)
        await container.stdin.close()
        assert (await reading)["stdout"] == first + second


async def test_the_end_of_a_terminal_s_input(runtime: EngineRuntime, shell: str) -> None:
    """A terminal's input ends by a character, which the errors of what can't work name."""
    with pytest.raises(ar.InvalidSpec, match="stdin: a terminal's input has no end"):
        script(shell, "cat", stdin=b"line\n", tty=True)
    async with runtime.start(script(shell, "cat; read x", stdin=True, tty=True)) as container:
        with pytest.raises(ar.RunError, match="x04"):
            await container.stdin.close()
        with pytest.raises(ar.InvalidSpec, match="stdin: a terminal's input has no end"):
            async with container.exec(["cat"], stdin=b"line\n", tty=True):
                pass
        await container.stdin.write(b"\x04\n")
        assert (await container.wait()).exit_code == 0


async def test_input_not_asked_for(runtime: EngineRuntime, shell: str) -> None:
    """Input that was not asked for is an error that says how to; a program sees its end at once."""
    async with runtime.start(script(shell, "cat; echo end")) as container:
        with pytest.raises(ar.RunError, match="stdin=True"):
            _ = container.stdin
        assert (await read(container.output()))["stdout"] == b"end\n"


async def test_a_terminal(runtime: EngineRuntime, shell: str) -> None:
    """With a terminal all output is one stream; its size can be told."""
    async with runtime.start(
        script(shell, "read x; echo got $x; echo err >&2", stdin=True, tty=True)
    ) as container:
        await container.resize(40, 100)
        await container.stdin.write(b"it\n")
        found = await read(container.output())
    assert b"got it\r\n" in found["stdout"]
    assert b"err\r\n" in found["stdout"]
    assert found["stderr"] == b""


# Ends.


async def test_leaving_removes(runtime: EngineRuntime, shell: str) -> None:
    """A container that runs is gone when its context is left, at once, though it does not heed signals."""
    began = asyncio.get_running_loop().time()
    async with runtime.start(script(shell, "trap '' TERM; sleep 600")) as container:
        assert (await container.inspect()).running
    assert await containers(runtime) == []
    assert asyncio.get_running_loop().time() - began < 20


async def test_leaving_asks_first(runtime: EngineRuntime, shell: str) -> None:
    """With a ``stop_timeout`` it is asked to end by its own signal before, and has that time for it."""
    text = "trap 'echo asked; exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    spec = script(shell, text, stop_signal="SIGUSR1", stop_timeout=20)
    seen: list[str] = []

    async def follow() -> None:
        seen.extend([line.text async for line in container.lines()])

    async with anyio.create_task_group() as group, runtime.start(spec) as container:
        await container.wait_for_log("ready")
        group.start_soon(follow)
        await asyncio.sleep(0)
    assert seen == ["ready", "asked"]


async def test_an_exception_in_the_context(runtime: EngineRuntime, shell: str) -> None:
    """An exception comes out as it is, the container is gone."""
    with pytest.raises(KeyError):
        async with runtime.start(script(shell, "sleep 600")):
            raise KeyError("mine")
    assert await containers(runtime) == []


async def test_time_is_up(runtime: EngineRuntime, shell: str) -> None:
    """When its time is up, `run` raises `RunTimeout`, a TimeoutError with the output until then."""
    spec = script(shell, "echo one; echo two >&2; sleep 600", capture_output=True, timeout=1.5)
    with pytest.raises(TimeoutError, match=r"did not end within 1.5 s") as caught:
        await runtime.run(spec)
    assert isinstance(caught.value, ar.RunTimeout)
    assert (caught.value.stdout, caught.value.stderr) == (b"one\n", b"two\n")


async def test_time_is_up_in_hand(runtime: EngineRuntime, shell: str) -> None:
    """In hand, a container whose time is up ends: its output ends, `wait` and leaving tell why."""

    async def in_hand() -> None:
        async with runtime.start(script(shell, "echo one; sleep 600", timeout=1)) as container:
            assert (await read(container.output()))["stdout"] == b"one\n"
            with pytest.raises(ar.RunTimeout):
                await container.wait()

    with pytest.raises(ar.RunTimeout):
        await in_hand()


async def test_stop_and_kill(runtime: EngineRuntime, shell: str) -> None:
    """A container gets the signal named, and is stopped within its grace; what has ended is status 409."""
    text = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    async with runtime.start(script(shell, text)) as container:
        await anext(container.lines())  # before, the kernel drops a signal to a first process
        await container.kill("SIGUSR1")
        assert (await container.wait()).exit_code == 7
        with pytest.raises(ar.EngineError) as caught:
            await container.kill()
        assert caught.value.status == 409
    async with runtime.start(script(shell, "trap '' TERM; echo ready; sleep 600")) as container:
        await anext(container.lines())  # before, it may be runc's own, which ends with code 2
        await container.stop(1)
        assert (await container.wait()).exit_code == 137


async def test_changes(runtime: EngineRuntime, shell: str) -> None:
    """Limits take what a specification takes; no change is none, and all that is wrong is told at once."""
    async with runtime.start(script(shell, "sleep 600")) as container:
        await container.update()
        await container.update(memory="64m", memory_swap="64m", cpus=0.5, pids_limit=50)
        found = await runtime._client.json("GET", f"/containers/{container.id}/json")
        assert found["HostConfig"]["Memory"] in (0, 64 << 20)  # Podman 4 tells what it was made with
        wrong: dict[str, Any] = {"memory": -5, "cpus": "1", "cpuset": "3-1", "pids_limit": 0, "restart": ""}
        with pytest.raises(ar.InvalidSpec) as caught:
            await container.update(**wrong)
        for field, value in wrong.items():
            assert f"{field} {value!r} is not" in str(caught.value)


async def test_what_is_refused_at_once(runtime: EngineRuntime, shell: str) -> None:
    """Grace, input and names that are none are refused before the engine is asked."""
    values: list[Any] = [-1, "1", 0.5, True]
    names: list[Any] = ["", "/", "..", "a/b", None]
    data: list[Any] = ["x", None]
    async with runtime.start(script(shell, "cat", stdin=True)) as container:
        for grace in values:
            with pytest.raises(ar.InvalidSpec, match=f"grace {grace!r} is not a whole number of seconds"):
                await container.stop(grace)
        for each in data:
            with pytest.raises(ar.InvalidSpec, match=f"a {type(each).__name__} can't be its input; encode"):
                await container.stdin.write(each)
        for name in names:
            with pytest.raises(ar.InvalidSpec, match=r"container .* is not a container's name"):
                await runtime.container(name)
        assert (await runtime.container(f"/{container.name}")).id == container.id


async def test_pause(runtime: EngineRuntime, shell: str) -> None:
    """A paused container does not run on, and goes on where it was."""
    async with runtime.start(script(shell, "cat", stdin=True)) as container:
        await container.pause()
        assert (await container.inspect()).status == "paused"
        await container.unpause()
        await container.stdin.write(b"x")
        assert (await anext(container.output())).data == b"x"


async def test_a_paused_one_is_stopped(runtime: EngineRuntime, shell: str) -> None:
    """What is paused is woken to end by its own signal, when it is stopped and when it is left."""
    text = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    async with runtime.start(script(shell, text, stop_timeout=20)) as container:
        await anext(container.lines())
        await container.pause()
        await container.stop()
        assert (await container.wait()).exit_code == 7
    async with runtime.start(script(shell, text, stop_timeout=20)) as container:
        await container.pause()


async def test_out_of_memory(runtime: EngineRuntime, shell: str) -> None:
    """A program that the kernel killed for want of memory is told from one that was killed, by Docker.

    Podman's conmon does not notice it on a machine with both kinds of control groups.
    """
    spec = script(shell, "x=$(head -c 100000000 /dev/zero | cat -v); echo", memory="16m", memory_swap="16m")
    outcome = await runtime.run(spec)
    assert outcome.exit_code == 137
    assert outcome.oom_killed or runtime.kind == "podman"


async def test_detached(runtime: EngineRuntime, shell: str) -> None:
    """Detached, it goes on when the context is left, and can be taken in hand again by its name."""
    spec = script(shell, "echo one; sleep 600", name="kept-by-test")
    async with runtime.start(spec, detach=True) as container:
        assert container.name == "kept-by-test"
        with pytest.raises(ar.RunError, match="logs"):
            container.output()
    again = await runtime.container("kept-by-test")
    assert again.id == container.id
    await again.wait_for_log("one")
    await again.stop(0)
    assert (await again.wait()).exit_code == 137
    await again.remove()
    with pytest.raises(ar.EngineError) as caught:
        await runtime.container("kept-by-test")
    assert caught.value.status == 404


async def test_a_name_that_is_taken(runtime: EngineRuntime, shell: str) -> None:
    """A name that another container has is an error that says so, and that other one stays."""
    async with runtime.start(script(shell, "sleep 600", name="taken-by-test")) as container:
        with pytest.raises(ar.RunError, match="taken-by-test"):
            await runtime.run(script(shell, "true", name="taken-by-test"))
        assert (await container.inspect()).running


async def test_left_by_another_task(runtime: EngineRuntime, shell: str) -> None:
    """A context may be left by another task than the one that entered it, as fixtures of tests are."""
    context = runtime.start(script(shell, "cat", stdin=b"x" * 1000, timeout=60))
    container = await asyncio.create_task(context.__aenter__())
    assert len((await anext(container.output())).data) == 1000
    await asyncio.create_task(context.__aexit__(None, None, None))
