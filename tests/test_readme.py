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
    program, _ = blocks("python")

    layers, available, outcome = await output_of(program, engine, tmp_path, f"{registry.host}/samtools:gzip")

    assert re.search(r": 56 layers, \d+ bytes$", layers)
    assert available.startswith("True ")
    assert outcome == "0 samtools 1.16.1"


async def test_the_composing_program_runs(engine: Engine, registry: LocalRegistry, tmp_path: Path) -> None:
    """The program that composes, given two images, runs a tool of each, and finds no conflict."""
    _, program = blocks("python")
    images = [f"{registry.host}/{tool}:gzip" for tool in ("samtools", "bcftools")]

    lines = await output_of(program, engine, tmp_path, *images)

    assert lines == ["samtools 1.16.1", "bcftools 1.16"]


def test_the_programs_are_short() -> None:
    """There are two programs, and each has at most 25 lines."""
    programs = blocks("python")

    assert len(programs) == 2
    assert all(len(program.splitlines()) <= 25 for program in programs)


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

    assert commands == {"demo", "doctor", "pull", "push", "run", "tags"}
    assert scripts == {"tests/bootstrap.sh"}
    assert all(re.search(rf"\b{command} ", shown.stdout) for command in commands)
    assert all((ROOT / script).is_file() for script in scripts)
