"""Containers in an engine: create, start, wait, stop, remove, look at (L2)."""

from __future__ import annotations

__all__ = (
    "ContainerState",
    "attach",
    "create",
    "inspect",
    "kill",
    "list_by_image",
    "list_by_label",
    "remove",
    "start",
    "stop",
    "wait",
)

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from aioruntime.engine.attach import attach
from aioruntime.engine.client import libpod_path, path_part
from aioruntime.errors import EngineError, EngineUnavailable, ImageNotFound, StreamTruncated, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.engine.client import EngineClient
    from aioruntime.oci.platform import Platform

_log = logging.getLogger(__name__)

# The engine may first have to unpack or copy files for the container.
_CREATE_SECONDS = 300.0
_REMOVE_SECONDS = 30.0
_UNREACHABLE_SECONDS = 2.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class ContainerState:
    """The state of a container.

    Attributes:
        id: the engine's ID of it.
        status: ``created``, ``running``, ``paused``, ``restarting``, ``exited`` or ``dead``.
        running: whether its process runs.
        exit_code: how its process ended; meaningless before.
        oom_killed: whether the kernel killed it for want of memory.
        error: why it could not be started; empty if it could.
    """

    id: str
    status: str
    running: bool
    exit_code: int
    oom_killed: bool
    error: str

    @property
    def ended(self) -> bool:
        """Whether its process has ended; one that is paused or being stopped has not."""
        # ``stopped`` is Podman's, for one that has ended and is not cleaned up yet.
        return self.status in ("exited", "stopped", "removing", "dead")


class _State(msgspec.Struct, rename="pascal"):
    status: str
    running: bool = False
    exit_code: int = 0
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    error: str | None = None


class _Container(msgspec.Struct, rename="pascal"):
    id: str
    state: _State


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

    Raises:
        EngineError: it could not be started; the message has the engine's reason.
    """
    await client.json("POST", f"/containers/{path_part(container)}/start", timeout=_CREATE_SECONDS)


async def wait(client: EngineClient, container: str) -> int:
    """Wait, however long, until a started container has ended; return its exit code.

    One that has already ended is told at once, so none is missed.

    Raises:
        EngineError: there is no such container, or the engine can't tell how it ended.
        StreamTruncated: the engine went away while it was waited for.
    """
    path = f"/containers/{path_part(container)}/wait"
    if client.capabilities.kind == "podman":
        # Podman's version of Docker's call polls at a long interval; its own can be told a shorter one.
        params: dict[str, str | list[str]] = {"condition": ["exited", "stopped"], "interval": "10ms"}
        code = await client.json("POST", libpod_path(path), params=params, timeout=None, versioned=False)
    else:
        answer = await client.json("POST", path, params={"condition": "not-running"}, timeout=None)
        code = _exit_code(answer, path)
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
    began = anyio.current_time()
    pause = _FIRST_PAUSE
    while True:
        left = max(1.0, began + _REMOVE_SECONDS - anyio.current_time())
        try:
            await client.json("DELETE", path, params=params, timeout=left)
        except EngineError as exc:
            if exc.status == 404:
                return
            if anyio.current_time() + pause > began + _worth_trying(exc, force):
                raise
        else:
            return
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _worth_trying(error: EngineError, force: bool) -> float:
    """Return for how many seconds a removal that failed so may yet succeed."""
    if isinstance(error, EngineUnavailable | StreamTruncated):
        return _UNREACHABLE_SECONDS
    # 409: a removal is under way, or the container runs; 500: its files are still in use.
    return _REMOVE_SECONDS if error.status == 500 or (error.status == 409 and force) else 0.0


async def kill(client: EngineClient, container: str, signal: str = "SIGKILL") -> None:
    """Send *signal* to the container's process.

    Raises:
        EngineError: there is no such container, or it does not run (status 409).
    """
    await client.json("POST", f"/containers/{path_part(container)}/kill", params={"signal": signal})


async def stop(client: EngineClient, container: str, grace: int = 10) -> None:
    """Ask a container to end and kill it if it has not after *grace* seconds; one that has ended is fine.

    Raises:
        EngineError: there is no such container.
    """
    path = f"/containers/{path_part(container)}/stop"
    await client.json("POST", path, params={"t": str(grace)}, timeout=grace + 60)


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


async def inspect(client: EngineClient, container: str) -> ContainerState:
    """Return the state of a container.

    Raises:
        EngineError: there is no such container (status 404), or the engine could not tell.
    """
    document = await client.json("GET", f"/containers/{path_part(container)}/json")
    try:
        found = msgspec.convert(document, _Container)
    except msgspec.ValidationError as exc:
        reason = one_line(str(exc))
        raise EngineError(f"the engine describes a container in an unknown way: {reason}") from exc
    state = found.state
    return ContainerState(
        id=found.id,
        status=state.status,
        running=state.running,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        error=one_line(state.error or ""),
    )
