"""Changes to a container that is there: its limits, and an image made of it (L2)."""

from __future__ import annotations

__all__ = ("commit", "update")

from typing import TYPE_CHECKING, Any

from aioruntime.engine.client import libpod_path, path_part
from aioruntime.engine.images import image_id
from aioruntime.errors import EngineError, InvalidReference, InvalidSpec, one_line
from aioruntime.oci.checks import is_text, items
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.digest import ImageDigest

# Its files are copied.
_COMMIT_SECONDS = 3600.0
# podman, RELEASE_NOTES.md: the restart policy of a container can be changed since 5.1.
_PODMAN_RESTART = (5, 1)
_PERIOD = 100_000


async def update(
    client: EngineClient,
    container: str,
    *,
    memory: int | None = None,
    memory_swap: int | None = None,
    cpus: float | None = None,
    cpuset: str | None = None,
    pids_limit: int | None = None,
    restart: str | None = None,
) -> None:
    """Change what a container may use, while it runs; what is None stays as it is.

    Args:
        client: the engine.
        container: ID or name of the container.
        memory: bytes of memory.
        memory_swap: bytes of memory and swap together; -1 for no limit.
        cpus: processors' worth of time, such as 1.5.
        cpuset: numbers of the processors that it may use, such as ``0-2,5``.
        pids_limit: processes; -1 for no limit.
        restart: ``no``, ``always``, ``unless-stopped``, ``on-failure`` or ``on-failure:TRIES``.

    Raises:
        InvalidSpec: *restart* is none of these.
        EngineError: there is no such container (status 404), or the engine can't or will not change that.
    """
    if all(each is None for each in (memory, memory_swap, cpus, cpuset, pids_limit, restart)):
        return  # Podman fails at a change of nothing
    path = f"/containers/{path_part(container)}/update"
    policy, _, tries = (restart or "").partition(":")
    if tries and not tries.isdecimal():
        raise InvalidSpec(f"restart: {one_line(restart or '')} does not tell a number of tries")
    if client.capabilities.kind == "podman":
        if restart is not None and client.capabilities.release < _PODMAN_RESTART:
            version = client.capabilities.version
            raise EngineError(f"Podman {version} can't change the restart policy of a container; 5.1 can")
        limits = _podman_limits(memory, memory_swap, cpus, cpuset, pids_limit)
        params = {"restartPolicy": policy} | ({"restartRetries": tries} if tries else {}) if restart else None
        # It answers with the bare ID.
        await client.send("POST", libpod_path(path), params=params, body=limits, versioned=False)
        return
    settings = {
        "Memory": memory,
        "MemorySwap": memory_swap,
        "NanoCpus": None if cpus is None else round(cpus * 1e9),
        "CpusetCpus": cpuset,
        "PidsLimit": pids_limit,
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(tries or 0)} if restart else None,
    }
    await client.json("POST", path, body=_known(settings))


def _podman_limits(
    memory: int | None, swap: int | None, cpus: float | None, cpuset: str | None, pids: int | None
) -> dict[str, Any]:
    """Return limits in the form of the OCI runtime specification, as Podman's own call takes them."""
    quota = {} if cpus is None else {"period": _PERIOD, "quota": round(cpus * _PERIOD)}
    limits = {
        "memory": _known({"limit": memory, "swap": swap}),
        "cpu": _known(quota | {"cpus": cpuset}),
        "pids": _known({"limit": pids}),
    }
    return {name: values for name, values in limits.items() if values}


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


async def commit(
    client: EngineClient, container: str, *, name: OciRef | str | None = None, changes: Iterable[str] = ()
) -> ImageDigest:
    """Make an image of a container's files and settings; it is paused meanwhile. Volumes are left out.

    Args:
        client: the engine.
        container: ID or name of the container.
        name: reference of the image, with ``latest`` as tag if it has none; None for no name.
        changes: instructions of a Dockerfile that change settings, such as ``ENV A=b`` or ``CMD ["sh"]``.

    Returns:
        The engine's ID of the image.

    Raises:
        InvalidReference: *name* is not an image reference, or has a digest.
        InvalidSpec: *changes* is no list of texts.
        EngineError: there is no such container (status 404), or a change is unknown.
    """
    faults: list[str] = []
    lines = list(items("changes", changes, faults))
    faults += [f"change {one_line(repr(line))} is not text" for line in lines if not is_text(line)]
    if faults:
        raise InvalidSpec(f"can't make an image of container {container}: {'; '.join(faults)}")
    params: dict[str, str | list[str]] = {"container": container, "pause": "1", "changes": lines}
    if name is not None:
        wanted = name if isinstance(name, OciRef) else OciRef.parse(name)
        if wanted.digest is not None:
            raise InvalidReference(f"{wanted} has a digest; an engine's name for an image has at most a tag")
        params |= {"repo": f"{wanted.registry}/{wanted.repository}", "tag": wanted.tag or "latest"}
    answer = await client.json("POST", "/commit", params=params, body={}, timeout=_COMMIT_SECONDS)
    if not isinstance(answer, dict) or not isinstance(answer.get("Id"), str):
        raise EngineError(f"POST /commit: the engine did not name the image of container {container}")
    return image_id(answer["Id"])
