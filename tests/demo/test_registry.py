from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import anyio
import psutil
import pytest

from aioruntime.demo.errors import DemoError
from aioruntime.demo.images import Family, ImageConfig, write_image, write_index
from aioruntime.demo.registry import LocalRegistry, Request, parse_access_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = [{"hello": b"hello\n"}]


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let each test see by itself whether temporary files are left."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert list(directory.iterdir()) == []


@pytest.fixture(autouse=True)
def _no_child_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


async def get(url: str, **headers: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.read()


def test_access_log_lines() -> None:
    """Combined log lines become requests; lines of another shape are passed over."""
    line = '127.0.0.1 - - [01/Jan/2023:00:00:00 +0000] "GET /v2/a?n=1 HTTP/1.1" 206 10 "" "agent/1 (x)"'

    requests = parse_access_log(f"noise\n{line}\n{line.replace('206 10', '404 -')}\n{line[:40]}")

    assert requests == (
        Request("GET", "/v2/a?n=1", 206, 10, "agent/1 (x)"),
        Request("GET", "/v2/a?n=1", 404, 0, "agent/1 (x)"),
    )


async def test_pushes_what_was_built(tmp_path: Path, docker_registry: str, skopeo: str) -> None:
    """Images of both families, and an index with its attestation, arrive with their digests."""
    layout = tmp_path / "layout"
    families: tuple[Family, ...] = ("oci", "docker")
    images = {family: write_image(layout, family, FILES, family=family) for family in families}
    arm = write_image(layout, None, FILES, ImageConfig(architecture="arm64"), compression="none")
    index = write_index(layout, "multi", [images["oci"], arm], attestation=True)
    wanted = {family: images[family].manifest for family in families} | {"multi": index.index}

    async with LocalRegistry() as registry:
        for name, descriptor in wanted.items():
            assert await registry.push(layout, name, f"lab/{name}:1") == f"{registry.host}/lab/{name}:1"
            url = f"http://{registry.host}/v2/lab/{name}/manifests/1"
            status, body = await get(url, Accept=descriptor.media_type)
            assert status == 200
            digest = descriptor.digest.removeprefix("sha256:")
            assert body == (layout / "blobs/sha256" / digest).read_bytes()


async def test_requests_are_logged(tmp_path: Path, docker_registry: str, skopeo: str) -> None:
    """Each request is logged with status and bytes, a range as 206; our own are not; the log outlives all."""
    layout = tmp_path / "layout"
    image = write_image(layout, "hello", FILES)
    async with LocalRegistry() as registry:
        assert registry.requests() == ()
        await registry.push(layout, "hello", "hello:1")
        before = len(await registry.settle())
        path = f"/v2/hello/blobs/{image.layers[0].digest}"
        _, body = await get(f"http://{registry.host}{path}", Range="bytes=2-11")
        await get(f"http://{registry.host}/v2/none/tags/list")
        logged = await registry.settle()

    assert len(body) == 10
    seen = [(request.method, request.path, request.status) for request in logged[before:]]
    assert seen == [("GET", path, 206), ("GET", "/v2/none/tags/list", 404)]
    assert logged[before].sent == 10
    assert registry.requests() == logged


async def test_storage_survives_and_config_is_merged(
    tmp_path: Path, docker_registry: str, skopeo: str
) -> None:
    """A storage of the caller's own is kept, and a second registry may serve it otherwise configured."""
    layout = tmp_path / "layout"
    image = write_image(layout, "hello", FILES)
    async with LocalRegistry(tmp_path / "storage") as registry:
        await registry.push(layout, "hello", "hello:1")

    config = {"auth": {"silly": {"realm": "r", "service": "s"}}, "http": {"headers": {"X-Test": ["yes"]}}}
    async with LocalRegistry(tmp_path / "storage", config=config) as registry:
        url = f"http://{registry.host}/v2/hello/manifests/1"
        assert (await get(url))[0] == 401
        answer = await get(url, Authorization="x", Accept=image.manifest.media_type)
        assert answer == (200, image.raw_manifest)


async def test_two_registries_have_two_ports(docker_registry: str) -> None:
    """Registries do not meet, however many there are."""
    async with LocalRegistry() as one, LocalRegistry() as two:
        assert one.host != two.host


async def test_bad_config_is_told(docker_registry: str) -> None:
    """A registry that ends at once is an error with its own words, without waiting for a timeout."""
    with anyio.fail_after(60), pytest.raises(DemoError, match=r"did not start: .*nowhere"):
        async with LocalRegistry(config={"storage": {"nowhere": {}}}):
            pass


async def test_unknown_image_is_told(tmp_path: Path, docker_registry: str, skopeo: str) -> None:
    """Pushing a name that the layout does not have is an error that says so."""
    write_image(tmp_path / "layout", "hello", FILES)
    async with LocalRegistry() as registry:
        with pytest.raises(DemoError, match="'other'"):
            await registry.push(tmp_path / "layout", "other", "hello:1")


async def test_missing_program_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where docker-registry is not installed, the error says what to install."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    with pytest.raises(DemoError, match="apt-get install --no-install-recommends docker-registry"):
        async with LocalRegistry():
            pass


def test_host_needs_a_running_registry() -> None:
    """Asking a registry that was not started for its host is an error."""
    with pytest.raises(DemoError, match="not started"):
        _ = LocalRegistry().host


async def test_the_users_settings_of_podman_play_no_part(
    docker_registry: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """REGISTRY_AUTH_FILE, which Podman's users set, is not taken for a setting of the registry."""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    async with LocalRegistry() as registry:
        assert registry.host


async def test_cancel_leaves_nothing(docker_registry: str) -> None:
    """A cancelled task's registry is gone when the task is, also if it is cancelled again while it stops."""
    running = asyncio.Event()

    async def work() -> None:
        async with LocalRegistry():
            running.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await running.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21])
async def test_cancel_during_start_leaves_nothing(docker_registry: str, steps: int) -> None:
    """Cancelling at any point of the start leaves neither a child nor a file."""

    async def work() -> None:
        async with LocalRegistry():
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def until(condition: Callable[[], bool]) -> bool:
    """Wait for what another process does, at most half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_killed_parent_leaves_nothing(docker_registry: str, own_temporary_directory: Path) -> None:
    """When the process that started it is killed with SIGKILL, the registry ends and its files go."""
    program = (
        "import asyncio, psutil, sys\n"
        "from aioruntime.demo.registry import LocalRegistry\n"
        "async def main():\n"
        "    async with LocalRegistry() as registry:\n"
        "        print(*(p.pid for p in psutil.Process().children(recursive=True)), flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TMPDIR": str(own_temporary_directory), "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        children = [int(word) for word in parent.stdout.readline().split()]
        assert len(children) == 2
        assert len(list(own_temporary_directory.iterdir())) == 1
        parent.send_signal(signal.SIGKILL)

    assert until(lambda: not any(psutil.pid_exists(child) for child in children))
    assert until(lambda: not list(own_temporary_directory.iterdir()))


def test_defaults_are_what_the_class_says(tmp_path: Path) -> None:
    """Deleting is allowed, nobody is asked who they are, and only loopback is listened on."""
    LocalRegistry(tmp_path / "storage")._write_config(tmp_path)

    config = json.loads((tmp_path / "config.json").read_bytes())
    assert config["storage"]["delete"] == {"enabled": True}
    assert config["http"] == {"addr": "127.0.0.1:0"}
    assert "auth" not in config
