"""GPUs: how they are asked for, and that a device named by CDI reaches the container."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

import aioruntime as ar
from aioruntime.engine import containers
from aioruntime.engine.capabilities import EngineCapabilities
from aioruntime.runtime.arguments import gpu_arguments
from aioruntime.runtime.gpu import GpuRequest, gpu_fault, gpu_request, untold
from aioruntime.runtime.nvidia import HostGpus, look_for_gpus
from tests.support.leaks import assert_settles, snapshot
from tests.support.proxy import UnixProxy
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioruntime.demo.registry import LocalRegistry
    from aioruntime.runtime.engine_runtime import EngineRuntime
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
        (ar.GpuSpec(devices=["a.com/b=0"]), "podman", (), (), GpuRequest(("a.com/b=0",))),
        (ar.GpuSpec(devices=["a.com/b=0"]), "docker", (ALL,), (), GpuRequest(("a.com/b=0",))),
    ],
)
def test_how_a_gpu_is_asked_for(
    spec: ar.GpuSpec | None,
    kind: Kind,
    cdi: tuple[str, ...],
    runtimes: tuple[str, ...],
    expected: GpuRequest | None,
) -> None:
    """Names that the caller gives come first, then those that the engine lists.

    A GPU that is not required is asked for only where one is known.
    """
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


NOTHING = HostGpus("nvidia-smi is not on PATH")
TWO = HostGpus("nvidia-smi tells of 2 GPUs", (15360, 81559), "12.4", described=True, hook=True)
NAMED = ar.GpuSpec(required=True, devices=["vendor.com/gpu=0"])


@pytest.mark.parametrize(
    ("spec", "host", "changes", "expected"),
    [
        # Is there one at all?
        (NEEDED, None, {}, None),  # what another machine has, its engine will tell
        (NEEDED, TWO, {}, None),
        (NEEDED, NOTHING, {"runtimes": ("nvidia",)}, None),
        (NEEDED, NOTHING, {"cdi_devices": (ALL,), "cdi": True}, None),
        (NEEDED, replace(NOTHING, hook=True), {}, None),
        (NEEDED, replace(NOTHING, described=True), {"kind": "podman", "cdi": True}, None),
        (
            NEEDED,
            NOTHING,
            {"runtimes": ("runc",)},
            "no CDI device nvidia.*no runtime nvidia .*runc.*/etc/cdi.*is not on.*nvidia-ctk runtime",
        ),
        (NEEDED, NOTHING, {"kind": "podman", "cdi": True}, "nvidia-ctk cdi generate"),
        # Can the engine give it?
        (NAMED, TWO, {}, r"Docker 1 can't .* CDI devices; Docker can from 25.0 on, with .*features"),
        (NAMED, None, {"cdi": True}, None),
        (NAMED, NOTHING, {"cdi": True}, None),
        (
            NAMED,
            NOTHING,
            {"cdi": True, "api_version": "1.50"},
            "no CDI device vendor.com/gpu=0; it lists none",
        ),
        (NAMED, NOTHING, {"cdi": True, "api_version": "1.50", "cdi_devices": ("vendor.com/gpu=0",)}, None),
        # Is it good enough?
        (ar.GpuSpec(True, min_vram_gb=80), TWO, {}, None),
        (ar.GpuSpec(True, min_vram_gb=81), TWO, {}, "81 GiB .* needed; nvidia-smi tells of 80"),
        (ar.GpuSpec(True, min_vram_gb=81), replace(TWO, memory=()), {}, None),
        (ar.GpuSpec(True, cuda_version="12.4.0"), TWO, {}, None),
        (ar.GpuSpec(True, cuda_version="9.2"), TWO, {}, None),
        (ar.GpuSpec(True, cuda_version="12.10"), TWO, {}, "CUDA 12.10 is needed; nvidia-smi tells of 12.4"),
        (ar.GpuSpec(True, cuda_version="13"), replace(TWO, cuda=None), {}, None),
        (
            replace(NAMED, min_vram_gb=900),
            TWO,
            {"cdi": True},
            None,
        ),  # NVIDIA's program tells of NVIDIA's only
    ],
)
def test_what_is_known_to_fail(
    spec: ar.GpuSpec, host: HostGpus | None, changes: dict[str, object], expected: str | None
) -> None:
    """A GPU that is known to be absent, or not what is needed, is told with what was looked for."""
    capabilities = replace(engine_with("docker", (), ()), **changes)  # type: ignore[arg-type]
    request = gpu_request(ar.GpuProfile(spec), capabilities)
    assert request is not None
    fault = gpu_fault(spec, request, capabilities, host)

    assert fault == expected or (fault and expected and re.search(expected, fault)), fault


def test_what_is_not_known() -> None:
    """What nothing tells of a GPU is said to be unknown, not taken for missing."""
    spec = ar.GpuSpec(min_vram_gb=8, cuda_version="12.1")

    assert untold(spec, TWO) == untold(ar.GpuSpec(), None) == []
    assert untold(spec, replace(TWO, cuda=None)) == ["CUDA 12.1"]
    assert untold(spec, None) == ["8 GiB of video memory", "CUDA 12.1"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"devices": "vendor.com/gpu=0"}, "devices 'vendor.com/gpu=0' is not a list; give such as"),
        ({"devices": ["/dev/null"], "min_vram_gb": -1}, "'/dev/null' is no CDI name.*min_vram_gb -1 is not"),
        ({"devices": ["vendor.com/gpu=0", "vendor/gpu="]}, "GPU: 'vendor/gpu=' is no CDI name"),
        ({"devices": ["v/g=0\n"]}, "no CDI name"),
        ({"cuda_version": "12.x"}, "cuda_version '12.x' is not text such as '12.1'"),
        ({"cuda_version": 12.1}, "cuda_version 12.1 is not text"),
        ({"min_vram_gb": "8", "devices": [0]}, "0 is no CDI name.*min_vram_gb '8' is not a whole number"),
        ({"required": "yes"}, "required 'yes' is not True or False"),
    ],
)
def test_a_specification_that_makes_no_sense(values: dict[str, Any], expected: str) -> None:
    """A name that CDI does not allow, or a number that is none, is refused when it is written down."""
    with pytest.raises(ar.InvalidSpec, match=expected):
        ar.GpuSpec(**values)


SMI = """<?xml version="1.0" ?><!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log><driver_version>550.54</driver_version><cuda_version>12.4</cuda_version>
<gpu id="00000000:01:00.0"><fb_memory_usage>
  <total>24564 MiB</total><reserved>300 MiB</reserved></fb_memory_usage>
  <bar1_memory_usage><total>256 MiB</total></bar1_memory_usage></gpu></nvidia_smi_log>"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``nvidia-smi`` that is first on PATH; it tells of one GPU and notes each call in ``calls``."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "said").write_text(SMI)
    write_program(programs / "nvidia-smi", f'echo "$@" >>{programs}/calls; exec cat {programs}/said')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs / "nvidia-smi"


def write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


async def test_what_nvidia_smi_tells(smi: Path, tmp_path: Path) -> None:
    """Video memory of each GPU and the CUDA version are read from it; files of either form are recognised."""
    assert await look_for_gpus([str(tmp_path)]) == HostGpus("nvidia-smi tells of 1 GPUs", (24564,), "12.4")

    (tmp_path / "other.json").write_text('{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpux", "devices": []}')
    assert not (await look_for_gpus([str(tmp_path)])).described
    for name, text in (
        ("a.json", '{"kind":"nvidia.com/gpu","devices":[]}'),
        ("a.yaml", "kind: nvidia.com/gpu"),
    ):
        (tmp_path / name).write_text(text)
        assert (await look_for_gpus([str(tmp_path)])).described, name
        (tmp_path / name).unlink()
    assert smi.with_name("calls").read_text() == "-q -x\n" * 4


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo 'no driver, reboot'; exit 9", "nvidia-smi failed with status 9: no driver, reboot"),
        ("sleep 1000 & wait", "nvidia-smi did not answer within 1 s"),
    ],
)
async def test_an_nvidia_smi_that_fails(smi: Path, line: str, expected: str) -> None:
    """One that fails is told in its words; one that hangs is ended in time, with what it started."""
    before = snapshot()
    write_program(smi, line)

    assert await look_for_gpus((), timeout=1) == HostGpus(expected)
    await assert_settles(before)


@contextmanager
def described(engine: Engine, kind: str, name: str) -> Iterator[None]:
    """Describe a device to one engine: a null device under another name, and a variable."""
    edits = {
        "env": ["AIORUNTIME_GPU=reached"],
        "deviceNodes": [{"path": "/dev/fakegpu", "type": "c", "major": 1, "minor": 3}],
    }
    document = {
        "cdiVersion": "0.5.0",
        "kind": kind,
        "devices": [{"name": name, "containerEdits": edits}],
    }
    path = engine.cdi / "device.json"
    path.write_text(json.dumps(document))
    try:
        yield
    finally:
        path.unlink()


LOOK = ["sh", "-c", "echo $AIORUNTIME_GPU; test -c /dev/fakegpu && echo device"]


async def test_a_named_device_reaches_the_container(
    every_engine: Engine, registry: LocalRegistry, tmp_path: Path
) -> None:
    """A device named by CDI is in the container with its variable, and only if it was asked for.

    Docker 20.10 has no CDI: that is told before anything is created. A name that the engine does not know
    it tells itself, at the latest at the start, and nothing is left.
    """
    gpu = ar.GpuProfile(ar.GpuSpec(required=True, devices=["vendor.com/gpu=0"]))
    other = ar.GpuProfile(ar.GpuSpec(required=True, devices=["vendor.com/gpu=9"]))
    async with ar.connect(every_engine.url, store=tmp_path / "store") as runtime:
        image = ar.OciRef.parse(f"{registry.host}/tiny:1")
        await runtime.pull(image)
        spec = ar.RunSpec(image, LOOK, gpu=gpu, capture_output=True)
        with described(every_engine, "vendor.com/gpu", "0"):
            if "20.10" in every_engine.version()["Version"]:
                with pytest.raises(ar.GpuUnavailable, match=r"Docker 20.*CDI.*25\.0.*features"):
                    await runtime.run(spec)
            else:
                assert (await runtime.run(spec)).stdout == b"reached\ndevice\n"
                with pytest.raises(ar.RunError, match=r"vendor\.com/gpu=9"):
                    await runtime.run(replace(spec, gpu=other))
            assert (await runtime.run(replace(spec, gpu=ar.GpuProfile()))).stdout == b"\n"
        assert await containers.list_by_label(runtime._client, "aioruntime.owner") == []
        await remove_images(runtime)


async def test_a_required_gpu_that_is_not_there(
    runtime: EngineRuntime, registry: LocalRegistry, smi: Path, tmp_path: Path
) -> None:
    """Without any GPU, or with a lesser one, a run is refused before a container is created.

    nvidia-smi is asked once, however often that is.
    """
    image = ar.OciRef.parse(f"{registry.host}/tiny:1")
    await runtime.pull(image)
    write_program(smi, f"echo >>{smi.parent}/calls; echo has failed; exit 9")
    async with UnixProxy(tmp_path / "p", Path(runtime._client.endpoint.socket or "")) as proxy:
        async with ar.connect(proxy.url, store=runtime.store) as watched:
            for _ in range(2):
                with pytest.raises(ar.GpuUnavailable, match=r"nvidia\.com/gpu.*runtime nvidia.*has failed"):
                    await watched.run(ar.RunSpec(image, gpu=ar.GpuProfile(NEEDED)))
            outcome = await watched.run(ar.RunSpec(image, gpu=ar.GpuProfile(WELCOME), capture_output=True))
        asked = [line for each in proxy.connections for line in each.requests]
    assert smi.with_name("calls").read_text() == "\n"
    assert sum("containers/create" in line for line in asked) == 1  # of the one that does not require it
    assert outcome.stdout == b"hello\n"


async def test_a_lesser_gpu(
    podman_engine: Engine, registry: LocalRegistry, store: ar.ImageStore, smi: Path
) -> None:
    """What nvidia-smi tells decides over memory and CUDA version of a GPU that is described; it reaches."""
    async with ar.connect(podman_engine.url, store=store) as runtime:
        image = ar.OciRef.parse(f"{registry.host}/tiny:1")
        await runtime.pull(image)

        async def look(spec: ar.GpuSpec) -> bytes:
            profile = ar.GpuProfile(spec)
            return (await runtime.run(ar.RunSpec(image, LOOK, gpu=profile, capture_output=True))).stdout

        with described(podman_engine, "nvidia.com/gpu", "all"):
            assert await look(ar.GpuSpec(True, min_vram_gb=24, cuda_version="12.1")) == b"reached\ndevice\n"
            with pytest.raises(ar.GpuUnavailable, match="25 GiB of video memory"):
                await look(ar.GpuSpec(True, min_vram_gb=25))
            with pytest.raises(ar.GpuUnavailable, match=r"CUDA 13\.0"):
                await look(ar.GpuSpec(True, cuda_version="13.0"))
        await remove_images(runtime)
