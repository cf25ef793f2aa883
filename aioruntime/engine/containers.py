"""Containers in an engine: create, start, wait, stop, remove, look at (L2)."""

from __future__ import annotations

__all__ = (
    "attach",
    "commit",
    "create",
    "inspect",
    "kill",
    "list_by_image",
    "list_by_label",
    "pause",
    "remove",
    "resize",
    "start",
    "stop",
    "top",
    "unpause",
    "update",
    "wait",
)

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from aioruntime.engine.attach import attach
from aioruntime.engine.client import libpod_path, path_part
from aioruntime.engine.container_changes import commit, update
from aioruntime.engine.container_state import demand_running, inspect, top
from aioruntime.engine.liveness import while_alive
from aioruntime.engine.removal import until_gone
from aioruntime.errors import EngineError, ImageNotFound, InvalidSpec, StreamTruncated, one_line
from aioruntime.oci.checks import is_whole
from aioruntime.tasks import turn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.platform import Platform

_log = logging.getLogger(__name__)

# The engine may first have to unpack or copy files for the container.
_CREATE_SECONDS = 300.0
_REMOVE_SECONDS = 30.0
# One that hangs, as behind a volume that does not come, holds up others no longer than this.
_TURN_SECONDS = 5.0


async def create(
    client: EngineClient,
    body: Mapping[str, Any],
    *,
    name: str | None = None,
    libpod: bool = False,
    platform: Platform | None = None,
) -> str:
    """Create a container and return its ID; it is not started.

    Args:
        client: the engine.
        body: the container's settings, in the form of the API chosen.
        name: its name; None to let the engine choose one.
        libpod: whether to use Podman's own API in place of Docker's.
        platform: platform of the image to use; None for the engine's own. Only Docker's API takes it.

    Raises:
        ImageNotFound: the engine does not have the image.
        EngineError: it refused the settings.
    """
    try:
        if libpod:
            settings = dict(body) | ({"name": name} if name else {})
            path = libpod_path("/containers/create")
            answer = await client.json("POST", path, body=settings, versioned=False, timeout=_CREATE_SECONDS)
        else:
            params = ({"name": name} if name else {}) | ({"platform": str(platform)} if platform else {})
            answer = await client.json(
                "POST", "/containers/create", params=params, body=body, timeout=_CREATE_SECONDS
            )
    except EngineError as exc:
        if exc.status == 404:
            raise ImageNotFound(str(exc), status=404) from exc
        raise
    if not isinstance(answer, dict) or not isinstance(answer.get("Id"), str):
        raise EngineError("the engine created a container but did not name it")
    for warning in answer.get("Warnings") or ():
        _log.warning("container %s: %s", answer["Id"][:12], one_line(str(warning)))
    return str(answer["Id"])


async def start(client: EngineClient, container: str) -> None:
    """Start a container.

    A few at a time are started: an engine that is asked for dozens at once takes longer for all of them.

    Raises:
        EngineError: it could not be started; the message has the engine's reason.
    """
    async with turn(client.starting, _TURN_SECONDS):
        await client.json("POST", f"/containers/{path_part(container)}/start", timeout=_CREATE_SECONDS)


async def wait(client: EngineClient, container: str) -> int:
    """Wait, however long, until a started container has ended; return its exit code.

    One that has already ended is told at once, so none is missed.

    Raises:
        EngineError: there is no such container, or the engine can't tell how it ended.
        EngineUnavailable: the engine does not answer any more.
        StreamTruncated: the engine went away while it was waited for.
    """
    path = f"/containers/{path_part(container)}/wait"
    if client.capabilities.kind == "podman":
        # Podman's version of Docker's call polls at a long interval; its own can be told a shorter one.
        params: dict[str, str | list[str]] = {"condition": ["exited", "stopped"], "interval": "10ms"}
        call = client.json("POST", libpod_path(path), params=params, timeout=None, versioned=False)
        code = await while_alive(client, call)
    else:
        call = client.json("POST", path, params={"condition": "not-running"}, timeout=None)
        code = _exit_code(await while_alive(client, call), path)
    if code is None:
        raise StreamTruncated(f"POST {path}: the engine ended its answer before the container ended")
    # Podman answers -1 for a container that was removed in the meantime.
    if not isinstance(code, int) or code < 0:
        raise EngineError(f"POST {path}: the engine can't tell how the container ended")
    return code


def _exit_code(answer: Any, path: str) -> Any:
    if not isinstance(answer, dict):
        return answer
    if error := answer.get("Error"):
        reason = error.get("Message") if isinstance(error, dict) else error
        raise EngineError(f"POST {path}: {one_line(str(reason))}")
    return answer.get("StatusCode", "")


async def remove(client: EngineClient, container: str, force: bool = True) -> None:
    """Remove a container with its anonymous volumes; one that is already gone is fine.

    Run it shielded from cancellation, so that no container outlives its task.

    Args:
        client: the engine.
        container: its ID or name.
        force: kill it first if it runs.

    Raises:
        EngineError: it could still not be removed after about 30 seconds, or the engine could not be
            reached for 2 (`EngineUnavailable`, `StreamTruncated`).
    """
    params = {"force": "1" if force else "0", "v": "1"}
    path = f"/containers/{path_part(container)}"
    if libpod := client.capabilities.kind == "podman":
        # Docker kills. Podman 5 would first ask the process to end, and give it 10 seconds.
        path, params = libpod_path(path), params | {"timeout": "0"}

    async def ask(seconds: float) -> None:
        await client.json("DELETE", path, params=params, timeout=seconds, versioned=not libpod)

    # 409: a removal is under way, or the container runs; 500: its files are still in use.
    await until_gone(ask, _REMOVE_SECONDS, passing={409, 500} if force else {500})


async def kill(client: EngineClient, container: str, signal: str = "SIGKILL") -> None:
    """Send *signal* to the container's process.

    Raises:
        EngineError: there is no such container, or it does not run (status 409).
    """
    async with demand_running(client, container):
        await client.json("POST", f"/containers/{path_part(container)}/kill", params={"signal": signal})


async def stop(client: EngineClient, container: str, grace: int = 10) -> None:
    """Ask a container to end and kill it if it has not after *grace* seconds; one that has ended is fine.

    Raises:
        InvalidSpec: *grace* is no whole number, or below 0.
        EngineError: there is no such container.
    """
    if not is_whole(grace, 0):
        raise InvalidSpec(f"grace {one_line(repr(grace))} is not a whole number of seconds, 0 or more")
    path = f"/containers/{path_part(container)}/stop"
    ask = partial(client.json, "POST", path, params={"t": str(grace)}, timeout=grace + 60)
    try:
        await ask()
    except EngineError as exc:
        # Podman neither wakes a container that is paused, as Docker does, nor stops it.
        if exc.status != 500 or (await inspect(client, container)).status != "paused":
            raise
        await unpause(client, container)
        await ask()


async def list_by_label(client: EngineClient, label: str) -> list[str]:
    """Return the IDs of all containers, running or not, that carry *label* (``name`` or ``name=value``).

    Raises:
        EngineError: the engine could not tell.
    """
    return await _list(client, "label", label)


async def list_by_image(client: EngineClient, image_id: str) -> list[str]:
    """Return the IDs of all containers, running or not, that were made from an image.

    Raises:
        EngineError: the engine could not tell.
    """
    # Podman compares with the bare hex, and otherwise with the name that the container was made by.
    return await _list(client, "ancestor", image_id.removeprefix("sha256:"))


async def _list(client: EngineClient, by: str, value: str) -> list[str]:
    params = {"all": "1", "filters": json.dumps({by: [value]})}
    answer = await client.json("GET", "/containers/json", params=params)
    try:
        return [str(item["Id"]) for item in answer]
    except (TypeError, KeyError) as exc:
        raise EngineError("the engine lists its containers in an unknown way") from exc


async def pause(client: EngineClient, container: str) -> None:
    """Freeze all processes of a running container.

    Raises:
        EngineError: there is no such container (status 404), or it does not run (status 409).
    """
    async with demand_running(client, container):
        await client.json("POST", f"/containers/{path_part(container)}/pause")


async def unpause(client: EngineClient, container: str) -> None:
    """Let the processes of a container go on that `pause` froze.

    Raises:
        EngineError: there is no such container (status 404), or it is not paused.
    """
    await client.json("POST", f"/containers/{path_part(container)}/unpause")


async def resize(client: EngineClient, container: str, *, rows: int, columns: int) -> None:
    """Tell the terminal of a running container its size.

    Raises:
        EngineError: there is no such container (status 404), or it does not run (status 409).
    """
    params = {"h": str(rows), "w": str(columns)}
    async with demand_running(client, container):
        await client.json("POST", f"/containers/{path_part(container)}/resize", params=params)
