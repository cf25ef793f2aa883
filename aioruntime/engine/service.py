"""A Podman service of our own: the engine where none is running (L2).

It is a child of this process and ends with it, however that ends: a shell between the two waits on a
pipe whose other end only we hold, and cleans up when that closes.
"""

from __future__ import annotations

__all__ = ("podman_program", "private_podman", "service_arguments")

import asyncio
import os
import resource
import shutil
import signal
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.podman_conf import private_settings, read_settings, to_toml
from aioruntime.errors import EngineUnavailable, one_line
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.2
# sun_path has 108 bytes with its final zero (unix(7)); on macOS 104.
_SOCKET_LIMIT = 103
_CAP_SYS_RESOURCE = 24

# $1 is our directory, the rest is the service. The shell waits for the service and notes its end; the inner
# group waits for our end, and then ends the service: by TERM for ten seconds (again and again, since at its
# start the service still ignores it), by KILL after that. Then nothing is left: not even the binds of
# /run/netns and of its storage onto themselves that Podman makes at its first start and leaves to every
# later one. While a container of anyone's uses them, umount refuses.
_SUPERVISOR = r"""
mounts() { cut -d " " -f 5 /proc/self/mountinfo 2>/dev/null; }
dir=$1; shift
before=$(mounts)
trap '' HUP INT QUIT TERM
exec 3<&0 </dev/null
( trap - HUP INT QUIT TERM; exec "$@" ) 3<&- >"$dir/log" 2>&1 &
service=$!
{
  read -r _ <&3
  tries=0
  until [ -e "$dir/status" ]; do
    signal=TERM
    [ $tries -lt 100 ] || signal=KILL
    kill -$signal "$service" 2>/dev/null
    tries=$((tries + 1))
    sleep 0.1
  done
} &
wait "$service"
echo $? >"$dir/status"
wait
mounts | while read -r place; do
  case $place in
    /run/netns) ;;
    */overlay) [ -d "$place/l" ] || continue ;;
    *) continue ;;
  esac
  printf "%s\n" "$before" | grep -qxF -- "$place" || umount "$place" 2>/dev/null
done
rm -rf "$dir"
"""


def podman_program() -> str | None:
    """Return the path of the installed ``podman`` program; None if there is none."""
    return shutil.which("podman")


def service_arguments(
    program: str, socket: Path, *, root: Path | None, runroot: Path | None, runtime: str | None
) -> list[str]:
    """Return the command that runs the service on *socket* until it is ended."""
    options = {"--root": root, "--runroot": runroot, "--runtime": runtime}
    chosen = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    return [program, *chosen, "system", "service", "--time=0", f"unix://{socket}"]


@asynccontextmanager
async def private_podman(
    *, root: Path | None = None, runroot: Path | None = None, program: str | None = None
) -> AsyncGenerator[Endpoint]:
    """Run a Podman service of our own for the time of the context.

    It uses the user's images and settings, has its socket and its temporary files in a directory that only
    this user can enter, and is gone, with that directory, when the context or this process ends.

    Args:
        root: where Podman keeps images, in place of its usual place.
        runroot: where it keeps the state of containers, likewise.
        program: the ``podman`` program; None to look for it.

    Raises:
        EngineUnavailable: Podman is not installed or did not start; the message has its own words.
    """
    program = program or podman_program()
    if program is None:
        raise EngineUnavailable("the program podman is not installed")
    async with AsyncExitStack() as stack:
        # Not to be cancelled half-way: a directory or a process that nobody knows of yet would be left.
        prepared, process = await to_completion(_start(stack, program, root, runroot))
        await _until_it_answers(prepared, process)
        yield Endpoint(f"unix://{prepared.socket}", "private podman service")


@dataclass(frozen=True, slots=True)
class _Prepared:
    directory: Path
    socket: Path
    arguments: list[str]
    environment: dict[str, str]


async def _start(
    stack: AsyncExitStack, program: str, root: Path | None, runroot: Path | None
) -> tuple[_Prepared, asyncio.subprocess.Process]:
    prepared = await in_thread(_prepare, program, root, runroot)
    stack.push_async_callback(lambda: to_completion(in_thread(shutil.rmtree, prepared.directory, True)))
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", _SUPERVISOR, "aioruntime", str(prepared.directory), *prepared.arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        # Ctrl-C in a terminal goes to its whole foreground group; the service is ended by us.
        start_new_session=True,
        env=prepared.environment,
    )  # fmt: skip
    stack.push_async_callback(lambda: to_completion(_end(process)))
    return prepared, process


def _prepare(program: str, root: Path | None, runroot: Path | None) -> _Prepared:
    directory = _make_directory(os.environ)
    try:
        socket = directory / "podman.sock"
        # Podman puts every archive that it is sent there, and leaves it behind when it is killed.
        spool = directory / "tmp"
        spool.mkdir(mode=0o700)
        # Podman has no use for it: what the user holds for registries is not the engine's.
        inherited = {name: value for name, value in os.environ.items() if name != "DOCKER_AUTH_CONFIG"}
        environment = inherited | {"TMPDIR": str(spool)}
        settings = read_settings(os.environ)
        if os.geteuid() == 0 and not _may_raise_limits(Path("/proc/self/status")):
            file = directory / "containers.conf"
            file.write_text(to_toml(private_settings(settings, *_hard_limits())))
            environment["CONTAINERS_CONF"] = str(file)
        engine = settings.get("engine")
        configured = isinstance(engine, dict) and "runtime" in engine
        arguments = service_arguments(
            program, socket, root=root, runroot=runroot, runtime=None if configured else _runtime()
        )
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return _Prepared(directory, socket, arguments, environment)


def _make_directory(environ: Mapping[str, str]) -> Path:
    """Make a directory that only we can enter, on a disk with room for images, with a short path."""
    # Not under XDG_RUNTIME_DIR: that is in memory, and whole images are spooled here. /var/tmp is where
    # Podman would put them.
    for place in (environ.get("TMPDIR"), "/var/tmp", "/tmp"):
        if place and len(os.fsencode(place)) + len("/aioruntime-12345678/podman.sock") <= _SOCKET_LIMIT:
            with suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="aioruntime-", dir=place)).absolute()
    raise EngineUnavailable("no directory for a Podman service can be made in $TMPDIR, /var/tmp or /tmp")


def _may_raise_limits(status: Path) -> bool:
    """Tell whether we have CAP_SYS_RESOURCE; where it can't be told, that we do."""
    with suppress(OSError, ValueError):
        for line in status.read_text().splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return True


def _hard_limits() -> tuple[int | None, int | None]:
    """Return the most open files and processes that a container can be given; None for no limit."""

    def hard(kind: int) -> int | None:
        value = resource.getrlimit(kind)[1]
        return None if value == resource.RLIM_INFINITY else value

    processes = hard(resource.RLIMIT_NPROC)
    # Podman first lowers its own limit of processes to that of the kernel, and can't go back.
    with suppress(OSError, ValueError):
        kernel = int(Path("/proc/sys/kernel/pid_max").read_text())
        processes = kernel if processes is None else min(processes, kernel)
    return hard(resource.RLIMIT_NOFILE), processes


def _runtime() -> str | None:
    """Choose runc where crun, Podman's default, is not there or would refuse; None for the default."""
    # crun refuses a hybrid tree: cgroup v1 controllers with a v2 tree beside them (systemd's CGROUP docs).
    hybrid = Path("/sys/fs/cgroup/unified").is_dir()
    runc = shutil.which("runc")
    return runc if runc is not None and (hybrid or shutil.which("crun") is None) else None


async def _until_it_answers(prepared: _Prepared, process: asyncio.subprocess.Process) -> None:
    pause = _FIRST_PAUSE
    with anyio.move_on_after(_START_SECONDS):
        while True:
            if await _answers(prepared.socket):
                return
            if process.returncode is not None or await in_thread((prepared.directory / "status").exists):
                raise EngineUnavailable(f"podman system service ended at once: {_last_words(prepared)}")
            await anyio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
    raise EngineUnavailable(
        f"podman system service did not answer within {_START_SECONDS:g} s: {_last_words(prepared)}"
    )


def _last_words(prepared: _Prepared) -> str:
    try:
        text = (prepared.directory / "log").read_text(errors="replace")
    except OSError:
        text = ""
    return one_line(text[-1000:]) or "it said nothing"


async def _answers(socket: Path) -> bool:
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    try:
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b" 200 " in await reader.readline()
    except OSError:
        return False
    finally:
        writer.transport.abort()


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with anyio.move_on_after(_STOP_SECONDS):
        await process.wait()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the shell and the service
    await process.wait()
