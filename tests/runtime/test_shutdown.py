"""Programs that end while containers run: by a signal, or by leaving the loop; none leaves a container."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.child import ROOT
from tests.runtime.conftest import containers

if TYPE_CHECKING:
    from aioruntime.runtime.engine_runtime import EngineRuntime

RUNNING = 4
PROGRAM = """
import asyncio, signal, sys
import aioruntime as ar

def spec(image):
    return ar.RunSpec(image, ["sh", "-c", "echo started; sleep 600"])

async def start(runtime, image):
    async with runtime.start(spec(image)) as container:
        async for line in container.lines():
            print(line.text, flush=True)

async def alone(url, store, image):
    async with ar.connect(url, store=store) as runtime:
        await start(runtime, image)

async def main(how, url, store, image):
    if how == "handler":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    if how == "returns":
        global left
        left = [asyncio.create_task(alone(url, store, image)) for _ in range(4)]
        await asyncio.to_thread(sys.stdin.readline)
        return
    async with ar.connect(url, store=store) as runtime, asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(start(runtime, image))
            group.create_task(runtime.run(spec(image)))

asyncio.run(main(*sys.argv[1:]))
"""


async def ended(
    runtime: EngineRuntime, image: str, how: str, number: signal.Signals | None
) -> tuple[int, str]:
    """Run the program until its containers have begun, end it, and return its status and complaints."""
    url, store = runtime._client.endpoint.url, str(runtime.store.path)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", PROGRAM, how, url, store, image),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        for _ in range(RUNNING):
            assert await asyncio.wait_for(process.stdout.readline(), 60) == b"started\n"
        if number is None:
            process.stdin.write(b"\n")
        else:
            process.send_signal(number)
        _, complaints = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode is not None
    return process.returncode, complaints.decode()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("how", "number", "status", "last"),
    [
        ("", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
        ("handler", signal.SIGTERM, 1, "asyncio.exceptions.CancelledError"),
        ("returns", None, 0, ""),
    ],
)
async def test_a_program_that_cleans_up(
    runtime: EngineRuntime, shell: str, how: str, number: signal.Signals | None, status: int, last: str
) -> None:
    """Interrupted, cancelled by a handler for SIGTERM, or at the loop's end: every container is gone.

    Nothing is said but the exception that ends the program.
    """
    code, complaints = await ended(runtime, shell, how, number)

    assert await containers(runtime) == []
    assert code == status, complaints
    assert (complaints.splitlines() or [""])[-1] == last, complaints
    assert "never" not in complaints
    assert (await runtime.reap()).removed == ()


@pytest.mark.usefixtures("nothing_left")
async def test_a_program_that_is_ended(runtime: EngineRuntime, shell: str) -> None:
    """Without a handler SIGTERM ends a program at once; `reap` removes what it had."""
    code, _ = await ended(runtime, shell, "", signal.SIGTERM)

    assert code == -signal.SIGTERM
    left = await containers(runtime)
    assert len(left) == RUNNING
    report = await runtime.reap()
    assert sorted(report.removed) == sorted(left)
    assert report.left == ()
