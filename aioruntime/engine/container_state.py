"""What an engine tells of a container: its state, health, ports and addresses (L2)."""

from __future__ import annotations

__all__ = ("ContainerState", "check_health", "demand_running", "inspect", "read_state", "top")

from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from aioruntime.engine.client import libpod_path, path_part
from aioruntime.errors import EngineError, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioruntime.engine.client import EngineClient

Health: TypeAlias = Literal["starting", "healthy", "unhealthy"]
# Podman ends the check itself after its own timeout.
_HEALTH_SECONDS = 3600.0
_HEALTH: dict[str, Health] = {name: name for name in ("starting", "healthy", "unhealthy")}


@dataclass(frozen=True, slots=True)
class ContainerState:
    """The state of a container.

    Attributes:
        id: the engine's ID of it.
        status: ``created``, ``running``, ``paused``, ``restarting``, ``exited`` or ``dead``.
        running: whether its process runs; one that is paused does, for Docker.
        exit_code: how its process ended; meaningless before.
        oom_killed: whether the kernel killed it for want of memory.
        error: why it could not be started; empty if it could.
        name: its name.
        image: the name that it was made by of its image, or its ID.
        tty: whether it has a terminal.
        image_id: the engine's ID of its image.
        labels: its labels, with those of its image.
        started_at: when it was started last; None before.
        finished_at: when its process ended last; None before.
        restart_count: how often the engine has started it again by its restart policy.
        health: what its health check found; None if it has none, or the engine does not run it.
        health_interval: seconds from one health check to the next; 0 if it does not say.
        health_output: what the last health check wrote, on one line.
        ports: for each published port, such as ``80/tcp``, the addresses and ports of the engine's machine.
        mounts: where something of the engine's machine, or a volume, is mounted in it.
        addresses: its IP address in each network, by the network's name.
    """

    id: str
    status: str
    running: bool
    exit_code: int
    oom_killed: bool
    error: str
    name: str
    image: str
    tty: bool
    image_id: str
    labels: Mapping[str, str] = field(hash=False)
    started_at: datetime | None
    finished_at: datetime | None
    restart_count: int
    health: Health | None
    health_interval: float
    health_output: str
    ports: Mapping[str, tuple[tuple[str, int], ...]] = field(hash=False)
    mounts: tuple[str, ...]
    addresses: Mapping[str, str] = field(hash=False)

    @property
    def ended(self) -> bool:
        """Whether its process has ended; one that is paused or being stopped has not."""
        # ``stopped`` is Podman's, for one that has ended and is not cleaned up yet.
        return self.status in ("exited", "stopped", "removing", "dead")


class _Check(msgspec.Struct, rename="pascal"):
    output: str | None = None


class _Health(msgspec.Struct, rename="pascal"):
    status: str | None = None
    failing_streak: int | None = None
    log: list[_Check] | None = None


class _State(msgspec.Struct, rename="pascal"):
    status: str
    running: bool = False
    exit_code: int = 0
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    error: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    health: _Health | None = None


class _HealthCheck(msgspec.Struct, rename="pascal"):
    interval: int | None = None


class _Config(msgspec.Struct, rename="pascal"):
    healthcheck: _HealthCheck | None = None
    image: str | None = None
    tty: bool = False
    labels: dict[str, str] | None = None


class _Binding(msgspec.Struct, rename="pascal"):
    host_ip: str | None = None
    host_port: str | None = None


class _Network(msgspec.Struct, rename="pascal"):
    ip_address: str | None = msgspec.field(default=None, name="IPAddress")
    ipv6_address: str | None = msgspec.field(default=None, name="GlobalIPv6Address")


class _Mount(msgspec.Struct, rename="pascal"):
    destination: str = ""


class _NetworkSettings(msgspec.Struct, rename="pascal"):
    ports: dict[str, list[_Binding] | None] | None = None
    networks: dict[str, _Network] | None = None


class _Container(msgspec.Struct, rename="pascal"):
    id: str
    state: _State
    name: str = ""
    image: str = ""
    restart_count: int = 0
    config: _Config | None = None
    mounts: list[_Mount] | None = None
    network_settings: _NetworkSettings | None = None


async def inspect(client: EngineClient, container: str) -> ContainerState:
    """Return the state of a container.

    Raises:
        EngineError: there is no such container (status 404), or the engine could not tell.
    """
    return read_state(await client.json("GET", f"/containers/{path_part(container)}/json"))


def read_state(document: Any) -> ContainerState:
    """Read what an engine answers when it is asked for a container.

    Raises:
        EngineError: it is not what engines answer; the message names the field.
    """
    try:
        found = msgspec.convert(document, _Container)
        ports = _ports(found.network_settings)
    except (msgspec.ValidationError, ValueError) as exc:
        reason = one_line(str(exc))
        raise EngineError(f"the engine describes a container in an unknown way: {reason}") from exc
    state = found.state
    checks = (state.health.log if state.health else None) or ()
    networks = (found.network_settings.networks if found.network_settings else None) or {}
    addresses = {name: one.ip_address or one.ipv6_address for name, one in networks.items()}
    return ContainerState(
        id=found.id,
        status=state.status,
        running=state.running,
        exit_code=state.exit_code,
        oom_killed=state.oom_killed,
        error=one_line(state.error or ""),
        name=found.name.removeprefix("/"),
        image=one_line((found.config.image if found.config else None) or found.image),
        tty=bool(found.config and found.config.tty),
        image_id=found.image,
        labels=(found.config.labels if found.config else None) or {},
        started_at=_moment(state.started_at),
        finished_at=_moment(state.finished_at),
        restart_count=found.restart_count,
        health=_health(state),
        health_interval=_interval(found.config),
        health_output=one_line((checks[-1].output if checks else None) or ""),
        ports=ports,
        mounts=tuple(one_line(mount.destination) for mount in found.mounts or ()),
        addresses={name: address for name, address in addresses.items() if address},
    )


def _ports(settings: _NetworkSettings | None) -> dict[str, tuple[tuple[str, int], ...]]:
    """Return the published ports; those that are exposed only have no number yet, or none at all."""
    ports = (settings.ports if settings else None) or {}
    # Docker means any address by 0.0.0.0, Podman by the empty string.
    bound = {
        port: tuple((one.host_ip or "0.0.0.0", int(one.host_port)) for one in bindings if one.host_port)
        for port, bindings in ports.items()
        if bindings
    }
    return {port: places for port, places in bound.items() if places}


def _health(state: _State) -> Health | None:
    if state.health is None:
        return None
    if state.running and state.health.status == "unhealthy" and state.health.failing_streak == 0:
        return "starting"  # Docker calls unhealthy, too, what is about to end, and does not say so yet
    return _HEALTH.get(state.health.status or "")


def _interval(config: _Config | None) -> float:
    check = config.healthcheck if config else None
    return (check.interval or 0) / 1e9 if check else 0.0


def _moment(told: datetime | None) -> datetime | None:
    # What has not happened yet, engines date to the first day of our era.
    return told if told is not None and told.year > 1 else None


async def check_health(client: EngineClient, container: str) -> ContainerState:
    """Return the state of a running container, its health as it is now, or was found lately.

    Docker runs health checks at their interval. Podman leaves that to systemd, and where there is none they
    never run: so it is told to run one now.

    Raises:
        EngineError: there is no such container (status 404), or on Podman it does not run (status 409).
    """
    state = await inspect(client, container)
    if client.capabilities.kind == "docker" or state.health is None:
        return state
    path = libpod_path(f"/containers/{path_part(container)}/healthcheck")
    async with demand_running(client, container):
        await client.json("GET", path, timeout=_HEALTH_SECONDS, versioned=False)
    return await inspect(client, container)


class _Top(msgspec.Struct, rename="pascal"):
    titles: list[str]
    processes: list[list[str]]


async def top(client: EngineClient, container: str) -> list[dict[str, str]]:
    """Return the processes in a running container, each a mapping from column to text.

    Which columns there are is for the engine to choose; ``PID`` and ``PPID`` are always among them. Docker
    tells the numbers that processes have on its machine, Podman those within the container.

    Raises:
        EngineError: there is no such container (status 404), it does not run (status 409), or Docker's
            machine has no program ``ps``.
    """
    path = f"/containers/{path_part(container)}/top"
    # What Podman answers to Docker's call, that is with arguments for ps, it gets from a ps in the container.
    libpod = client.capabilities.kind == "podman"
    path, params = (libpod_path(path), {"stream": "0"}) if libpod else (path, None)
    async with demand_running(client, container):
        document = await client.json("GET", path, params=params, versioned=not libpod)
    if document is None:  # as Podman 4 answers for a container that does not run
        raise EngineError(f"GET {path}: the container does not run", status=409)
    try:
        found = msgspec.convert(document, _Top)
        return [dict(zip(found.titles, row, strict=True)) for row in found.processes]
    except (msgspec.ValidationError, ValueError) as exc:
        raise EngineError(f"GET {path}: the engine's answer is unknown: {one_line(str(exc))}") from exc


@asynccontextmanager
async def demand_running(client: EngineClient, container: str) -> AsyncGenerator[None]:
    """Give a call that failed since the container does not run the status 409 on every engine.

    Podman, unlike Docker, mostly answers 500.
    """
    try:
        yield
    except EngineError as exc:
        if exc.status == 500 and not (await inspect(client, container)).running:
            raise EngineError(exc.message, status=409) from exc
        raise
