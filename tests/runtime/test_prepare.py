"""Before a container is created: its image, and what can't be done, on a real Docker and a real Podman."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from tests.runtime.conftest import containers, script
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime


async def test_an_image_that_is_not_there(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """Unless told to, `run` pulls nothing; ``missing`` pulls what is not there, and asks nobody otherwise."""
    image = f"{registry.host}/tiny:1"
    with pytest.raises(ar.ImageNotFound, match="pull it first"):
        await runtime.run(script(image, "true"))
    assert (await runtime.run(script(image, "exit 3", pull="missing"))).exit_code == 3
    asked = len(await registry.settle())
    assert (await runtime.run(script(image, "exit 4", pull="missing"))).exit_code == 4
    assert len(await registry.settle()) == asked


async def test_always(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """``always`` asks the registry each time, and runs what the name means now."""
    image = f"{registry.host}/tiny:1"
    for code in (3, 4):
        asked = len(await registry.settle())
        assert (await runtime.run(script(image, f"exit {code}", pull="always"))).exit_code == code
        assert len(await registry.settle()) > asked


async def test_pinned(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """An `ImageRef`, as `assemble_image` gives it, is pulled by its digest when it is gone."""
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    pinned = ar.ImageRef(str(image), await runtime.pull(image))
    await remove_images(runtime)
    assert (await runtime.run(script(pinned, "exit 3", pull="missing"))).exit_code == 3


async def test_by_its_id(runtime: EngineRuntime, shell: str) -> None:
    """An image that has no name is run by what `commit` returned; one that is not there is told as such."""
    async with runtime.start(script(shell, "echo new > /written")) as container:
        await container.wait()
        made = await container.commit()
    try:
        for image in (made, str(made)):
            outcome = await runtime.run(script(image, "cat /written", capture_output=True))
            assert outcome.stdout == b"new\n"
    finally:
        await runtime.remove_image(made)
    with pytest.raises(ar.ImageNotFound, match=f"no image {made}"):
        await runtime.run(script(made, "true"))


async def test_another_platform(runtime: EngineRuntime, registry: LocalRegistry) -> None:
    """An image that is here for another platform than asked for is not run; the message names both."""
    image = f"{registry.host}/tiny:index"
    await runtime.pull(image)
    with pytest.raises(ar.ImageNotFound, match="for linux/amd64, not for linux/s390x"):
        await runtime.run(script(image, "true", platform="linux/s390x"))
    assert (await runtime.run(script(image, "exit 3", platform="linux/amd64"))).exit_code == 3


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [({"stdin": True}, "use `start`"), ({"restart": "always"}, "use `start`")],
)
async def test_what_only_start_does(runtime: EngineRuntime, fields: dict[str, object], remedy: str) -> None:
    """What a container that is run to its end can't have is refused with the remedy, before anything else."""
    with pytest.raises(ar.InvalidSpec, match=remedy):
        await runtime.run(script("example.org/none:1", "true", **fields))
    assert await containers(runtime) == []


async def test_what_is_no_specification(runtime: EngineRuntime) -> None:
    """A value of another kind is refused by name, however it is run."""
    wrong: Any = None
    with pytest.raises(ar.InvalidSpec, match="a NoneType can't be run; give a RunSpec"):
        await runtime.run(wrong)
    with pytest.raises(ar.InvalidSpec, match="a NoneType can't be run; give a RunSpec"):
        await runtime.start(wrong).__aenter__()
    [result] = [result async for result in runtime.run_many([wrong])]
    assert isinstance(result.error, ar.InvalidSpec)


@pytest.mark.parametrize("fields", [{"stdin": b"x"}, {"timeout": 5}])
async def test_what_needs_a_holder(runtime: EngineRuntime, fields: dict[str, object]) -> None:
    """A container that is let go of can have neither input nor a time limit, and that is told at once."""
    context = runtime.start(script("example.org/none:1", "true", **fields), detach=True)
    with pytest.raises(ar.InvalidSpec, match=f"can't detach .*: {next(iter(fields))} need"):
        await context.__aenter__()
