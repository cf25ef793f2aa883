"""Programs executed in a running container, on each generation of engine."""

from __future__ import annotations

import contextlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import aioruntime as ar
from tests.runtime.conftest import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


@pytest.fixture
async def container(runtime: EngineRuntime, shell: str, nothing_left: None) -> AsyncIterator[ar.Container]:
    """A container that goes on until it is removed; entered and left by different tasks, as fixtures are."""
    async with runtime.start(script(shell, "sleep 600", env={"FROM": "spec"})) as container:
        yield container


async def test_output_and_exit_code(container: ar.Container) -> None:
    """A program's streams and exit code come back, told apart from those of the container."""
    outcome = await container.run(["sh", "-c", "echo out; echo err >&2; exit 9"])
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (9, b"out\n", b"err\n")


async def test_settings(container: ar.Container) -> None:
    """It runs with the user, directory and variables given, beside the container's own."""
    outcome = await container.run(
        ["sh", "-c", "id -u; pwd; echo $FROM $MORE"],
        user="1000",
        working_dir=PurePosixPath("/data"),
        env={"MORE": "exec"},
    )
    assert outcome.stdout == b"1000\n/data\nspec exec\n"


async def test_input(container: ar.Container) -> None:
    """Input is written while output is read, and ended; or given as bytes."""
    async with container.exec(["cat"], stdin=True) as process:
        for number in range(50):
            await process.stdin.write(f"{number}\n".encode())
        await process.stdin.close()
        assert [line.text async for line in process.lines()] == [str(n) for n in range(50)]
        assert (await process.wait()).exit_code == 0
    data = b"0123456789" * 200_000
    assert (await container.run(["cat"], stdin=data)).stdout == data


async def test_wait_without_a_reader(container: ar.Container) -> None:
    """A program that writes much which nobody reads still ends."""
    async with container.exec(["sh", "-c", "head -c 3000000 /dev/zero; exit 2"]) as process:
        assert (await process.wait()).exit_code == 2


async def test_no_such_program(container: ar.Container) -> None:
    """A program that does not exist is an error that has the engine's reason; so is an empty command."""
    with pytest.raises(ar.EngineError, match="no-such-program"):
        await container.run(["no-such-program"])
    with pytest.raises(ar.InvalidSpec, match="command is empty"):
        await container.run([])
    with pytest.raises(ar.InvalidSpec, match="one string"):
        await container.run("ls -l")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"command": None}, "command None is not a list"),
    ({"command": ["\udcff"]}, "argument .* is not text"),
    ({"stdin": "x"}, "stdin is a str, not True, False or the bytes to send"),
    ({"stdin": bytearray(b"x")}, r"stdin is a bytearray, not"),
    ({"stdin": None}, "stdin is a NoneType, not"),
    ({"env": ["A=b"]}, "env is not a mapping but list"),
    ({"env": {"A": "\udcff"}}, "env value of A is not text"),
    ({"env": {"": "y"}}, "env name '' is not valid"),
    ({"user": 0}, "user 0 is not text without NUL; give such as '1000'"),
    ({"working_dir": "data"}, "working_dir 'data' is not an absolute path"),
    ({"tty": 1}, "tty 1 is not True or False"),
    ({"tty": True, "stdin": b"x"}, "a terminal's input has no end"),
    ({"user": 0, "env": 5}, "env is not .*; user 0 is not"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[str(values) for values, _ in WRONG])
async def test_what_can_not_be_executed(values: dict[str, Any], message: str) -> None:
    """Values are checked as those of `RunSpec`, all at once, before the engine is asked for anything."""
    nobody: Any = None
    container = ar.Container(nobody, "1", "one", "tool:1", tty=False)
    with pytest.raises(ar.InvalidSpec, match=f"can't execute in tool:1: .*{message}"):
        await container.exec(**{"command": ["cat"], **values}).__aenter__()


@pytest.mark.parametrize("stdin", [True, "", None, "x", bytearray(b"x")])
async def test_input_of_a_program_that_is_run(stdin: Any) -> None:
    """`run` sends bytes, or nothing: who wants to write is told to use `exec`."""
    nobody: Any = None
    container = ar.Container(nobody, "1", "one", "tool:1", tty=False)
    with pytest.raises(ar.InvalidSpec, match=r"stdin is not bytes but .*; .* use `exec`"):
        await container.run(["cat"], stdin=stdin)


async def test_many_at_once(container: ar.Container) -> None:
    """Programs run at once in one container, each with its own streams."""
    found: dict[int, bytes] = {}

    async def one(number: int) -> None:
        found[number] = (await container.run(["sh", "-c", f"echo {number}"])).stdout

    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(one, number)
    assert found == {number: f"{number}\n".encode() for number in range(16)}


async def test_a_terminal(container: ar.Container) -> None:
    """With a terminal there is one stream, and its size can be told."""
    async with container.exec(["sh", "-c", "read x; echo got $x"], stdin=True, tty=True) as process:
        await process.resize(40, 100)
        await process.stdin.write(b"it\n")
        assert "got it" in [line.text async for line in process.lines()]


async def test_the_container_ends(container: ar.Container) -> None:
    """When the container ends under a program, its output ends or is told to be cut; nothing hangs."""
    async with container.exec(["sh", "-c", "echo one; sleep 600"]) as process:
        lines = process.lines()
        assert (await anext(lines)).text == "one"
        await container.kill()
        with anyio.fail_after(60):
            with contextlib.suppress(ar.StreamTruncated):
                assert [line async for line in lines] == []
    with pytest.raises(ar.EngineError) as caught:
        await container.run(["id"])
    assert caught.value.status in (404, 409)


async def test_asked_too_late(container: ar.Container) -> None:
    """How a program ended that the engine has forgotten, here with its container, can't be told any more."""
    async with container.exec(["sh", "-c", ":"]) as process:
        assert [piece async for piece in process.output()] == []
        await container.remove()
        with pytest.raises(ar.OutcomeUnknown, match="forgotten"):
            await process.wait()
