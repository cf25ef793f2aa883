"""What tests of running containers share: a small image, and that nothing is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from tests.support.engines import FLAVORS
from tests.support.leaks import assert_settles, snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime

newer_in_full = pytest.mark.parametrize(
    "every_engine",
    [pytest.param(name, marks=[pytest.mark.full] if flavor.tree else []) for name, flavor in FLAVORS.items()],
    indirect=True,
)
"""For a test that takes long: on the newer engines only when everything is asked for."""


@pytest.fixture
async def shell(runtime: EngineRuntime, registry: LocalRegistry) -> str:
    """A small image with a shell in the engine."""
    reference = f"{registry.host}/tiny:1"
    await runtime.pull(reference)
    return reference


@pytest.fixture
async def nothing_left(runtime: EngineRuntime, shell: str) -> AsyncIterator[None]:
    """Afterwards the engine has no container, nor the store a record, nor we more tasks and files."""
    await runtime.run(script(shell, ":"))  # from now on the runtime holds its owner's lock
    before = snapshot()
    yield
    assert await containers(runtime) == []
    assert runtime._open.owner.claims == set()
    await assert_settles(before)


async def containers(runtime: EngineRuntime) -> list[str]:
    """Return the IDs of all containers, also of those that do not run."""
    return [item["Id"] for item in await runtime._client.json("GET", "/containers/json", params={"all": "1"})]


def script(image: str | ar.OciRef | ar.ImageRef | ar.ImageDigest, text: str, **fields: Any) -> ar.RunSpec:
    """Return what to run: a shell's script."""
    return ar.RunSpec(image, ["sh", "-c", text], **fields)
