"""The commands with a store that may only be read."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.cli.child import command
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@contextmanager
def to_read_only(path: str) -> Iterator[None]:
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


async def test_what_is_in_a_store_to_read_is_pulled(
    where: tuple[str, ...], engine: Engine, registry: LocalRegistry
) -> None:
    """L13, L17: an engine gets and runs an image from a store that is mounted read-only; `doctor` tells that.

    An image that is not there is an error with the path and the remedy.
    """
    image, other = f"{registry.host}/tiny:1", f"{registry.host}/tiny:0"
    store = where[-1]
    first = await command("pull", image, *where)
    async with ar.connect(engine.url, store=store) as runtime:
        await remove_images(runtime)

    with to_read_only(store):
        second = await command("pull", image, *where)
        ran = await command("run", *where, image)
        absent = await command("pull", other, *where)
        doctor = await command("doctor", *where)

    assert (second.status, second.stdout) == (0, first.stdout), second.stderr
    assert (ran.status, ran.stdout) == (0, "hello\n")
    assert absent.status == 1
    assert store in absent.stderr
    assert "mount it writable" in absent.stderr
    assert doctor.stdout.splitlines()[-1].startswith(f"  {store} may only be read")
