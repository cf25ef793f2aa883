from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.engine import containers, images
from aioruntime.engine.container_state import inspect
from aioruntime.errors import EngineError, InvalidReference, InvalidSpec
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.reference import OciRef
from tests.engine.running import created, output_of, started

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient


async def test_pause(each_client: EngineClient, each_image: str) -> None:
    """A paused container is told as such and goes on; one that does not run can't be paused (409)."""
    async with created(each_client, each_image, "sleep", "1000") as container:
        with pytest.raises(EngineError) as caught:
            await containers.pause(each_client, container)
        assert caught.value.status == 409
        await containers.start(each_client, container)
        await containers.pause(each_client, container)
        assert (await inspect(each_client, container)).status == "paused"
        assert not (await inspect(each_client, container)).ended
        await containers.unpause(each_client, container)
        assert (await inspect(each_client, container)).status == "running"
        with pytest.raises(EngineError):
            await containers.unpause(each_client, container)


async def test_resize(client: EngineClient, image: str) -> None:
    """A container's terminal takes the size that it is told."""
    command = ("sh", "-c", "read a; stty size")
    async with (
        created(client, image, *command, Tty=True, OpenStdin=True) as container,
        containers.attach(client, container, tty=True, stdin=True) as attachment,
    ):
        await containers.start(client, container)
        await containers.resize(client, container, rows=19, columns=73)
        await attachment.send(b"\n")
        assert b"19 73\r\n" in (await output_of(attachment))["stdout"]
        await containers.wait(client, container)
        with pytest.raises(EngineError):
            await containers.resize(client, "no-such-container", rows=1, columns=1)


def memory_limit(pid: int) -> int:
    """What the kernel lets a process have, by either generation of control groups."""
    groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    found = {controllers: path for _, controllers, path in (line.split(":", 2) for line in groups)}
    if "memory" in found:
        file = f"/sys/fs/cgroup/memory{found['memory']}/memory.limit_in_bytes"
    else:
        file = f"/sys/fs/cgroup{found['']}/memory.max"
    return int(Path(file).read_text())


async def test_update(each_client: EngineClient, each_image: str) -> None:
    """Limits of a running container change where they count: in its control group."""
    async with started(each_client, each_image) as container:
        await containers.update(
            each_client, container, memory=64 << 20, memory_swap=64 << 20, cpus=0.5, cpuset="0", pids_limit=50
        )
        document: Any = await each_client.json("GET", f"/containers/{container}/json")
        assert memory_limit(document["State"]["Pid"]) == 64 << 20
        with pytest.raises(EngineError):
            await containers.update(each_client, container, memory=1)


async def test_restart_policy(each_client: EngineClient, each_image: str) -> None:
    """The restart policy changes; Podman 4, which can't do that, is not asked."""
    async with started(each_client, each_image) as container:
        able = each_client.capabilities.kind == "docker" or each_client.capabilities.release >= (5, 1)
        with pytest.raises(InvalidSpec, match="many"):
            await containers.update(each_client, container, restart="on-failure:many")
        if not able:
            with pytest.raises(EngineError, match="restart policy"):
                await containers.update(each_client, container, restart="on-failure:3")
            return
        await containers.update(each_client, container, restart="on-failure:3")
        document: Any = await each_client.json("GET", f"/containers/{container}/json")
        assert document["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}


async def test_commit(each_client: EngineClient, each_image: str) -> None:
    """An image of a container has what it wrote, the changes and the name asked for; a name is optional."""
    name = "localhost/committed:it"
    async with created(each_client, each_image, "sh", "-c", "echo new > /written") as container:
        await containers.start(each_client, container)
        await containers.wait(each_client, container)
        with pytest.raises(InvalidReference):
            await containers.commit(each_client, container, name="NO NAME")
        with pytest.raises(InvalidReference, match="has at most a tag"):
            await containers.commit(each_client, container, name=f"a@{ImageDigest.of(b'')}")
        with pytest.raises(InvalidSpec, match="changes 'ENV A=b' is not a list"):
            await containers.commit(each_client, container, changes="ENV A=b")
        unnamed = await containers.commit(each_client, container)
        made = await containers.commit(
            each_client, container, name=OciRef.parse(name), changes=['ENV A="b c"', "LABEL made=yes"]
        )
    try:
        found = await images.inspect_image(each_client, name)
        assert (found.id, found.labels["made"]) == (made, "yes")
        async with (
            created(each_client, name, "sh", "-c", "cat /written; echo $A") as container,
            containers.attach(each_client, container) as output,
        ):
            await containers.start(each_client, container)
            assert (await output_of(output))["stdout"] == b"new\nb c\n"
    finally:
        await images.remove_image(each_client, name, force=True)
        await images.remove_image(each_client, str(unnamed), force=True)
