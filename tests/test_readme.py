"""The README keeps its word: its program is run as it stands, its commands exist."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import aioruntime as ar
from tests.store.helpers import blob_path, put_image, set_age
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine

ROOT = Path(ar.__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECONDS = 90


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


async def output_of(program: str, engine: Engine, tmp_path: Path, *images: str) -> list[str]:
    """The lines that a program of the README prints, saved to a file and given *images*."""
    script = tmp_path / "program.py"
    script.write_text(program)
    env = os.environ | {
        "DOCKER_HOST": engine.url,
        "AIORUNTIME_STORE": str(tmp_path / "store"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        *images,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=env,
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        async with ar.connect(engine.url, store=tmp_path / "store") as runtime:
            await remove_images(runtime)
    assert (process.returncode, stderr) == (0, b"")
    return stdout.decode().splitlines()


async def test_the_program_runs(engine: Engine, registry: LocalRegistry, tmp_path: Path) -> None:
    """The README's program, given an image, runs it on Docker and on Podman."""
    program, *_ = blocks("python")

    layers, available, outcome = await output_of(program, engine, tmp_path, f"{registry.host}/samtools:gzip")

    assert re.search(r": 56 layers, \d+ bytes$", layers)
    assert available.startswith("True ")
    assert outcome == "0 samtools 1.16.1"


async def test_the_program_with_a_container_in_hand_runs(
    engine: Engine, registry: LocalRegistry, tmp_path: Path
) -> None:
    """The program that has a container in hand writes, reads, executes in it, and runs several."""
    _, program, *_ = blocks("python")

    lines = await output_of(program, engine, tmp_path, f"{registry.host}/samtools:gzip")

    assert lines[:2] == ["stdout to cat and back", "exit code 0"]
    assert lines[2] == "samtools 1.16.1 1 process"
    assert sorted(lines[-2:]) == ["run 0 0", "run 1 1"]


async def test_the_composing_program_runs(engine: Engine, registry: LocalRegistry, tmp_path: Path) -> None:
    """The program that composes, given two images, runs a tool of each, and finds no conflict."""
    _, _, program, _ = blocks("python")
    images = [f"{registry.host}/{tool}:gzip" for tool in ("samtools", "bcftools")]

    lines = await output_of(program, engine, tmp_path, *images)

    assert lines == ["samtools 1.16.1", "bcftools 1.16"]


async def test_the_pruning_program_runs(docker_engine: Engine, tmp_path: Path) -> None:
    """The program that looks after the store tells what it has and removes what was not used for long."""
    *_, program = blocks("python")
    store = ar.ImageStore(tmp_path / "store")
    image = await put_image(store, "example.org/tool:1", 1)
    set_age(blob_path(store, image.digest), 40)
    (kept,) = await store.images()

    listed, told = await output_of(program, docker_engine, tmp_path)

    assert listed.startswith(f"example.org/tool:1 {kept.own_bytes} bytes of its own, 0 shared 20")
    assert told == f"{kept.own_bytes} bytes freed: example.org/tool:1"


def test_the_programs_are_short() -> None:
    """There are four programs, and each has at most 30 lines."""
    programs = blocks("python")

    assert len(programs) == 4
    assert all(len(program.splitlines()) <= 30 for program in programs)


def test_the_commands_exist() -> None:
    """Every `aioruntime` command and every script that the README's shell lines name is there."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = {found[1] for line in lines if (found := re.search(r"(?:^|/)aioruntime (\w+)", line))}
    scripts = {found[1] for line in lines if (found := re.search(r"\bbash (\S+)", line))}
    shown = subprocess.run(
        [sys.executable, "-m", "aioruntime", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=30,
    )

    assert commands == {"demo", "doctor", "pull", "push", "reap", "run", "store", "tags"}
    assert scripts == {"tests/bootstrap.sh"}
    assert all(re.search(rf"\b{command} ", shown.stdout) for command in commands)
    assert all((ROOT / script).is_file() for script in scripts)
