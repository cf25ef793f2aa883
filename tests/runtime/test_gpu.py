"""GPUs: how they are asked for, and that a device named by CDI reaches the container."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

import aioruntime as ar
from aioruntime.engine.capabilities import EngineCapabilities
from aioruntime.runtime.arguments import gpu_arguments
from aioruntime.runtime.gpu import GpuRequest, gpu_request
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine

Kind = Literal["docker", "podman"]
NEEDED, WELCOME = ar.GpuSpec(required=True), ar.GpuSpec(required=False)
ALL = "nvidia.com/gpu=all"
BY_CAPABILITY = GpuRequest()


def engine_with(kind: Kind, cdi: tuple[str, ...], runtimes: tuple[str, ...]) -> EngineCapabilities:
    return EngineCapabilities(
        kind=kind,
        version="1",
        api_version="1.41",
        min_api_version="1.24",
        engine_id="x",
        platform=ar.Platform(),
        image_store="graph",
        storage_driver="overlay2",
        sparse="prefix",
        reads_layout=False,
        reads_zstd=True,
        max_layers=None,
        cdi_devices=cdi,
        runtimes=runtimes,
    )


@pytest.mark.parametrize(
    ("spec", "kind", "cdi", "runtimes", "expected"),
    [
        (None, "docker", (ALL,), ("nvidia",), None),
        (None, "podman", (ALL,), ("nvidia",), None),
        (NEEDED, "docker", (), (), BY_CAPABILITY),
        (NEEDED, "docker", (), ("nvidia",), BY_CAPABILITY),
        (NEEDED, "docker", ("nvidia.com/gpu=0", ALL), (), GpuRequest((ALL,))),
        (
            NEEDED,
            "docker",
            ("nvidia.com/gpu=0", "nvidia.com/gpu=1"),
            (),
            GpuRequest(("nvidia.com/gpu=0", "nvidia.com/gpu=1")),
        ),
        (NEEDED, "docker", ("vendor.com/gpu=all", "nvidia.com/gpux=all"), (), BY_CAPABILITY),
        (NEEDED, "podman", (), (), GpuRequest((ALL,))),
        (WELCOME, "docker", (), ("runc",), None),
        (WELCOME, "docker", (), ("runc", "nvidia"), BY_CAPABILITY),
        (WELCOME, "docker", (ALL,), (), GpuRequest((ALL,))),
        (WELCOME, "docker", ("vendor.com/net=0",), (), None),
        (WELCOME, "podman", (), (), None),
        (WELCOME, "podman", (), ("nvidia",), GpuRequest((ALL,))),
    ],
)
def test_how_a_gpu_is_asked_for(
    spec: ar.GpuSpec | None,
    kind: Kind,
    cdi: tuple[str, ...],
    runtimes: tuple[str, ...],
    expected: GpuRequest | None,
) -> None:
    """CDI names that the engine lists come first; a GPU that is not required only where one is known."""
    assert gpu_request(ar.GpuProfile(spec), engine_with(kind, cdi, runtimes)) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (None, []),
        (BY_CAPABILITY, ["--gpus", "all"]),
        (GpuRequest(("a/b=0", "a/b=1")), ["--device", "a/b=0", "--device", "a/b=1"]),
    ],
)
def test_the_arguments_say_the_same(request_: GpuRequest | None, expected: list[str]) -> None:
    """What is asked of the engine can be copied to its command line."""
    assert gpu_arguments(request_) == expected


@contextmanager
def cdi_device(variable: str) -> Iterator[None]:
    """Describe a device ``nvidia.com/gpu=all`` to every engine of this machine: it sets a variable."""
    directory = Path("/etc/cdi")
    made = not directory.exists()
    document = {
        "cdiVersion": "0.3.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": "all", "containerEdits": {"env": [variable]}}],
    }
    try:
        directory.mkdir(exist_ok=True)
        (directory / "aioruntime-test.json").write_text(json.dumps(document))
        yield
    finally:
        (directory / "aioruntime-test.json").unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # somebody else put something there meanwhile
                directory.rmdir()


@pytest.fixture
def alone() -> Iterator[None]:
    """Be the only test on this machine that describes devices; skip if it has some of its own."""
    descriptor = os.open("/tmp/aioruntime-test-cdi.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if any(any(Path(place).glob("*")) for place in ("/etc/cdi", "/var/run/cdi")):
            pytest.skip("this machine has CDI devices of its own")
        yield
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("alone")
async def test_a_device_reaches_the_container(
    podman_engine: Engine, registry: LocalRegistry, tmp_path: Path
) -> None:
    """On a real Podman, a required GPU that CDI describes is in the container, and only when asked for."""
    command = ["sh", "-c", "echo $AIORUNTIME_GPU"]
    async with ar.connect(podman_engine.url, store=tmp_path / "store") as runtime:
        image = ar.OciRef.parse(f"{registry.host}/tiny:1")
        await runtime.pull(image)
        gpu = ar.GpuProfile(NEEDED)
        with cdi_device("AIORUNTIME_GPU=reached"):
            given = await runtime.run(ar.RunSpec(image, command, gpu=gpu, capture_output=True))
            plain = await runtime.run(ar.RunSpec(image, command, capture_output=True))
        await remove_images(runtime)

    assert (given.exit_code, given.stdout) == (0, b"reached\n")
    assert plain.stdout == b"\n"
