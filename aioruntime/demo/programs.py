"""Run the system's programs that the demonstration needs, and say what to install where one is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import anyio

from aioruntime.demo.errors import DemoError
from aioruntime.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ("find_program", "run_program")


def find_program(name: str, *, debian_package: str) -> str:
    """Find a program on the search path, also where only root's path looks.

    Args:
        name: The program's file name.
        debian_package: The Debian package that ships it, for the error message.

    Returns:
        The program's absolute path.

    Raises:
        DemoError: It is not installed.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    found = shutil.which(name, path=path)
    if found is None:
        raise DemoError(
            f"{name} is not installed; on Debian and Ubuntu: "
            f"apt-get install --no-install-recommends {debian_package}"
        )
    return found


async def run_program(argv: Sequence[str], *, debian_package: str, cwd: Path | None = None) -> str:
    """Run a program to its end, in the C locale and without standard input.

    Args:
        argv: The program's name and its arguments; no shell reads them.
        debian_package: The Debian package that ships the program.
        cwd: The directory that it runs in.

    Returns:
        Its standard output.

    Raises:
        DemoError: It is not installed, or it failed; the message carries its standard error.
    """
    program = find_program(argv[0], debian_package=debian_package)
    done = await anyio.run_process(
        [program, *argv[1:]],
        stdin=subprocess.DEVNULL,
        check=False,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise DemoError(f"{argv[0]} failed (status {done.returncode}): {one_line(complaint)}")
    return done.stdout.decode()
