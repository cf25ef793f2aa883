"""Run Debian's docker-registry on a free loopback port, push images into it, and read its access log."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio

from aioruntime.demo.errors import DemoError
from aioruntime.demo.programs import find_program
from aioruntime.demo.push import push_image
from aioruntime.errors import one_line
from aioruntime.tasks import in_thread, to_completion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from anyio.abc import Process

__all__ = ("LocalRegistry", "Request", "parse_access_log")

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0
_MARKER = "aioruntime-demo/"  # in the user agent of our own requests, which `requests` leaves out

# The registry lives exactly as long as somebody holds the other end of this shell's standard input: its end,
# also by the owner's death, ends the registry. File descriptor 3 is the owner's sign that the registry lives.
_KEEPER = """
work=$1; shift
"$@" 3>&1 >"$work/access.log" 2>"$work/registry.log" </dev/null & registry=$!
echo "$registry" >"$work/pid"
exec >/dev/null
read -r _
kill "$registry" 2>/dev/null
wait "$registry"
rm -rf -- "$work"
"""

_LISTENING = re.compile(r"listening on ([0-9.]+:[0-9]+)")
_COMBINED = re.compile(r'^\S+ \S+ \S+ \[[^\]]*\] "(\S+) (\S+)[^"]*" (\d{3}) (\d+|-) "[^"]*" "([^"]*)"$', re.M)


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the registry answered.

    Attributes:
        method: "GET", "HEAD", ...
        path: The path with its query, as requested.
        status: The answer's status; 206 tells that a range was asked for.
        sent: How many bytes of body were sent.
        user_agent: What the client calls itself.
    """

    method: str
    path: str
    status: int
    sent: int
    user_agent: str


def parse_access_log(text: str) -> tuple[Request, ...]:
    """Read an access log in the combined format, oldest request first; other lines are passed over."""
    return tuple(
        Request(method, path, int(status), 0 if sent == "-" else int(sent), agent)
        for method, path, status, sent, agent in _COMBINED.findall(text)
    )


class LocalRegistry:
    """A registry on loopback, for as long as the `async with` block lasts.

    It has no authentication unless *config* gives it one, lets manifests and blobs be deleted, and is gone
    with its temporary files after the block, or when this process is killed.

    Args:
        storage: Where it keeps images; a temporary directory, removed at the end, if not given.
        config: Further top-level sections of its configuration, such as {"auth": {...}}; a section replaces
            the one of the same name, but "http" is merged.

    Raises:
        DemoError: On entering: docker-registry is not installed, or did not start.
    """

    def __init__(self, storage: Path | None = None, *, config: Mapping[str, object] | None = None) -> None:
        self._storage = storage
        self._config = dict(config or {})
        self._process: Process | None = None
        self._work: Path | None = None
        self._host: str | None = None
        self._final_log = ""

    @property
    def host(self) -> str:
        """Where it listens: "127.0.0.1:PORT"."""
        if self._host is None:
            raise DemoError("the registry was not started: use it in an async with block")
        return self._host

    async def __aenter__(self) -> Self:
        try:
            # Not to be cancelled half-way: a directory or a process that nobody knows of yet would be left.
            await to_completion(self._start())
        except BaseException:
            await to_completion(self._stop())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_completion(self._stop())

    def requests(self) -> tuple[Request, ...]:
        """Give every request that the registry has answered, oldest first; also after the block.

        A request is logged when its last byte was handed to the kernel, so a client may know of its answer a
        moment earlier than the log; `settle` closes that gap.
        """
        requests = parse_access_log(self._read_access_log())
        return tuple(request for request in requests if not request.user_agent.startswith(_MARKER))

    async def settle(self) -> tuple[Request, ...]:
        """Wait until requests that were answered before this call are in the log, and give them all."""
        marker = f"{_MARKER}{os.urandom(8).hex()}"
        await _ask(self.host, user_agent=marker)
        with anyio.fail_after(_START_SECONDS):
            # Another process's file: nothing to wait on. What it answered before may be logged afterwards.
            while not await in_thread(self._has_settled, marker):  # noqa: ASYNC110
                await anyio.sleep(0.005)
        return self.requests()

    async def push(self, layout: Path, name: str, repository: str) -> str:
        """Push an image or an index with all its images, byte for byte.

        Args:
            layout: The OCI image layout that holds it.
            name: Its name there.
            repository: Where it goes: "samtools:1", "lab/samtools:1".

        Returns:
            Its full reference: "127.0.0.1:PORT/samtools:1".

        Raises:
            DemoError: The layout has no such image, skopeo is not installed, or it could not push.
        """
        reference = f"{self.host}/{repository}"
        await push_image(layout, name, reference)
        return reference

    async def _start(self) -> None:
        program = find_program("docker-registry", debian_package="docker-registry")
        self._work = work = await in_thread(_make_work_directory)
        await in_thread(self._write_config, work)
        command = [program, "serve", str(work / "config.json")]
        self._process = await anyio.open_process(
            ["/bin/sh", "-c", _KEEPER, "aioruntime-registry", str(work), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
        try:
            with anyio.fail_after(_START_SECONDS):
                self._host = await self._wait_until_listening(self._process, work)
                answer = await _ask(self._host, user_agent=f"{_MARKER}start")
        except TimeoutError as late:
            raise DemoError(f"docker-registry did not answer within {_START_SECONDS:.0f} s") from late
        if not answer.startswith(b"HTTP/1."):
            raise DemoError(f"what listens on {self._host} is no registry")

    def _write_config(self, work: Path) -> None:
        storage = (self._storage or work / "storage").absolute()
        storage.mkdir(parents=True, exist_ok=True)
        http = self._config.get("http")
        document = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {
                "filesystem": {"rootdirectory": str(storage)},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            **self._config,
            # Port 0: the kernel picks one that is free, and the registry says which.
            "http": {"addr": "127.0.0.1:0", **(http if isinstance(http, dict) else {})},
        }
        (work / "config.json").write_text(json.dumps(document))  # JSON is YAML

    @staticmethod
    async def _wait_until_listening(process: Process, work: Path) -> str:
        assert process.stdout is not None
        while True:
            log = await in_thread(_read, work / "registry.log")
            if found := _LISTENING.search(log):
                return found[1]
            with anyio.move_on_after(0.02):
                try:
                    await process.stdout.receive()
                except anyio.EndOfStream:
                    last = await in_thread(_read, work / "registry.log")
                    raise DemoError(f"docker-registry did not start: {one_line(last[-1000:])}") from None

    def _read_access_log(self) -> str:
        if self._process is None or self._work is None:
            return self._final_log
        return _read(self._work / "access.log")

    def _has_settled(self, marker: str) -> bool:
        """Tell whether the marker is logged, and no thread of the registry has anything more to do."""
        if marker not in self._read_access_log() or self._work is None:
            return False
        pid = _read(self._work / "pid").strip()
        return bool(pid) and all(_asleep(pid) for _ in range(2))  # one may wake another meanwhile

    async def _stop(self) -> None:
        process, work = self._process, self._work
        if work is None:
            return
        self._final_log = await in_thread(self._read_access_log)
        self._process = self._work = None
        if process is not None:
            await _end(process)
        await in_thread(shutil.rmtree, work, True)


async def _end(process: Process) -> None:
    """Let the keeper end the registry; after a while, kill them both."""
    assert process.stdin is not None
    with anyio.move_on_after(_STOP_SECONDS):
        await process.stdin.aclose()
        await process.wait()
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own: the keeper and the registry
        await process.wait()
    await process.aclose()


def _environment() -> dict[str, str]:
    # The registry takes REGISTRY_AUTH_FILE, which is Podman's, and all of that form for settings of its own.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    return ours | {"OTEL_TRACES_EXPORTER": "none"}


def _make_work_directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="aioruntime-registry-"))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _asleep(pid: str) -> bool:
    """Tell whether all threads of the process wait for something."""
    try:
        stats = [_read(task / "stat") for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return all(stat.rpartition(") ")[2][:1] == "S" for stat in stats)


async def _ask(host: str, *, user_agent: str) -> bytes:
    """Ask for /v2/; a registry with TLS answers too, if only that it wants TLS."""
    address, _, port = host.rpartition(":")
    request = f"GET /v2/ HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {user_agent}\r\nConnection: close\r\n\r\n"
    answer = b""
    async with await anyio.connect_tcp(address, int(port)) as stream:
        await stream.send(request.encode())
        async for chunk in stream:
            answer += chunk
    return answer
