"""What is left behind is found, and what is not is not; the environment is nobody's."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import leaks

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_new() -> None:
    """Files and children that are gone again are no leak."""
    before = leaks.snapshot()

    os.close(os.open("/dev/null", os.O_RDONLY))
    subprocess.run(["true"], check=True)

    leaks.assert_nothing_new(before)


def test_files_are_found() -> None:
    """An open file is reported with its path."""
    before = leaks.snapshot()
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        with pytest.raises(leaks.Leaked, match=f"file {fd} -> /dev/zero"):
            leaks.assert_nothing_new(before)
    finally:
        os.close(fd)


def test_children_are_found() -> None:
    """A running child process is reported with its name."""
    before = leaks.snapshot()
    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            with pytest.raises(leaks.Leaked, match=f"process {child.pid} "):
                leaks.assert_nothing_new(before)
        finally:
            child.kill()


async def test_tasks_are_found() -> None:
    """A task that still runs is reported, also after time to settle."""
    before = leaks.snapshot()
    task = asyncio.create_task(asyncio.sleep(1000), name="forgotten")
    with pytest.raises(leaks.Leaked, match="forgotten"):
        await leaks.assert_settles(before, seconds=0.02)
    task.cancel()


async def test_settles() -> None:
    """A task that ends soon is no leak where time to settle is given."""
    before = leaks.snapshot()
    task = asyncio.create_task(asyncio.sleep(0.02))

    await leaks.assert_settles(before)

    assert task.done()


def test_environment_is_clean(clean_environ: Path) -> None:
    """HOME and the XDG directories are the test's own, and no engine, proxy or credentials are set."""
    assert os.environ["HOME"] == str(clean_environ)
    assert os.environ["XDG_RUNTIME_DIR"].startswith(str(clean_environ))
    assert not {"DOCKER_HOST", "CONTAINER_HOST", "HTTPS_PROXY", "https_proxy"} & set(os.environ)
