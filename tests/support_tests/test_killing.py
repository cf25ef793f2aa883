"""Children are killed when asked, whole, and what they printed before is known."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import host, leaks
from tests.support.killing import ChildFailed, Killer, Program, kill_after, kill_at_line, run

if TYPE_CHECKING:
    from pathlib import Path

FOREVER = Program("import time\nprint('ready')\nwhile True: time.sleep(1)")


async def test_runs_to_its_end() -> None:
    """An undisturbed child's output, arguments and environment are as given."""
    program = Program(
        "import os, sys; print(sys.argv[1], os.environ['X'])", arguments=("one",), environ={"X": "two"}
    )

    assert (await run(program)).stdout == "one two\n"


async def test_modules_run() -> None:
    """A module runs under its name."""
    assert "usage" in (await run(Program(module="json.tool", arguments=("--help",)))).stdout


async def test_failure_is_reported() -> None:
    """A child that fails by itself raises with its output."""
    with pytest.raises(ChildFailed, match="ValueError: broken"):
        await run(Program("raise ValueError('broken')"))


async def test_killed_at_a_line() -> None:
    """The child is killed after the line that was waited for, and nothing is left of it."""
    before = leaks.snapshot()

    outcome = await kill_at_line(FOREVER, "ready")

    assert outcome.killed
    assert outcome.status == -signal.SIGKILL
    assert outcome.stdout == "ready\n"
    await leaks.assert_settles(before)


async def test_line_that_never_comes() -> None:
    """A child that ends without the line raises."""
    with pytest.raises(ChildFailed, match="never printed 'ready'"):
        await kill_at_line(Program("print('no')"), "ready")


async def test_grandchildren_die_too(tmp_path: Path) -> None:
    """Processes that the child has started in its group are killed with it."""
    code = "import subprocess\nprint('pid', subprocess.Popen(['sleep', '1000']).pid)\nwhile True: pass"

    outcome = await kill_at_line(Program(code), "pid")

    grandchild = int(outcome.stdout.split()[1])
    assert host.poll(lambda: not host.alive(grandchild), 5)


async def test_ended_before_the_kill() -> None:
    """A child that was done before its moment counts as not killed."""
    outcome = await kill_after(Program("print('quick')"), 30)

    assert not outcome.killed
    assert outcome.status == 0


async def test_seeded_moments_repeat() -> None:
    """The same seed gives the same moments, and each outcome's note tells seed and moment."""
    notes = []
    for _ in range(2):
        killer = Killer(seed=5)
        notes.append([(await killer.kill(FOREVER, 0.02, start="ready")).note for _ in range(2)])

    assert notes[0] == notes[1]
    assert "seed 5, round 2" in notes[0][1]


async def test_measured_from_a_line() -> None:
    """The measured time begins with the line, without the interpreter's start."""
    program = Program("import time; print('ready'); time.sleep(0.05)")

    assert 0.05 <= await Killer(1).measure(program, start="ready") <= await Killer(1).measure(program) + 1
