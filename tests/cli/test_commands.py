"""`aioruntime pull`, `run` and `doctor` as processes: output, errors and exit statuses."""

from __future__ import annotations

import asyncio
import os
import pty
import secrets
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.tasks import in_thread
from tests.cli.child import Ended, command, ended, started
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine


async def test_pull_prints_the_digest(where: tuple[str, ...], registry: LocalRegistry) -> None:
    """Standard output is the digest to pin and nothing else; progress is plain lines on standard error."""
    image = f"{registry.host}/tiny:index"
    first = await command("pull", image, *where)
    pinned = f"{registry.host}/tiny@{first.stdout.strip()}"
    second = await command("pull", pinned, *where)

    assert (first.status, second.status) == (0, 0)
    assert ar.ImageDigest(first.stdout.removesuffix("\n"))
    assert second.stdout == first.stdout
    assert "\x1b" not in first.stderr
    *steps, closing = first.stderr.splitlines()
    fetching, loading = sorted(steps)  # each layer is sent while others still arrive
    assert fetching.startswith(f"fetching {image} (")
    assert loading.startswith(f"loading {image} into ")
    assert closing.startswith(f"{image}: 3 of 3 layers fetched (")
    assert second.stderr.startswith(f"{pinned}: 0 of 3 layers fetched (0 bytes), 0 bytes sent to ")


async def test_push_and_tags(where: tuple[str, ...], registry: LocalRegistry) -> None:
    """`push` prints the digest, which is the one that was pulled; `tags` lists the tags, one a line."""
    image, copy = f"{registry.host}/tiny:0", f"{registry.host}/cli/{secrets.token_hex(4)}:copy"
    pulled = await command("pull", image, *where)

    pushed = await command("push", image, copy, *where)
    listed = await command("tags", copy.removesuffix(":copy"))
    nothing = await command("push", f"{registry.host}/none:1", *where)

    assert (pushed.status, pushed.stdout) == (0, pulled.stdout)
    assert pushed.stderr.splitlines()[-1] == f"{copy}: 0 of 3 blobs sent (0 bytes), 3 mounted"
    assert (listed.status, listed.stdout) == (0, "copy\n")
    assert nothing.status == 1
    assert "is not in the store" in nothing.stderr


async def test_run_is_the_program(where: tuple[str, ...], registry: LocalRegistry, tmp_path: Path) -> None:
    """`run` pulls what is missing, passes options and streams on, and exits with the program's status."""
    (tmp_path / "in").write_text("mounted\n")
    script = "cat /in; pwd; id -u; echo $A-$FROM_IMAGE; echo wrong >&2; exit 7"
    options = ("-e", "A=b=c", "-v", f"{tmp_path}/in:/in:ro", "-w", "/data", "-u", "1000:1000")

    found = await command("run", *where, *options, f"{registry.host}/tiny:1", "--", "sh", "-c", script)

    assert (found.status, found.stdout) == (7, "mounted\n/data\n1000\nb=c-yes\n")
    assert found.stderr.splitlines()[-1] == "wrong"
    again = await command("run", *where, f"{registry.host}/tiny:1")
    assert (again.status, again.stdout, again.stderr) == (0, "hello\n", "")


async def test_run_without_dashes(where: tuple[str, ...], registry: LocalRegistry) -> None:
    """Options after the image belong to the program, as with `docker run`."""
    found = await command("run", *where, f"{registry.host}/tiny:1", "sh", "-c", "echo $0", "--url")

    assert (found.status, found.stdout) == (0, "--url\n")


async def test_doctor_describes_the_engine(where: tuple[str, ...], engine: Engine) -> None:
    """`doctor` tells engine, version, address and how it was found, and the store, without making one."""
    found = await command("doctor", *where)

    assert (found.status, found.stderr) == (0, "")
    lines = found.stdout.splitlines()
    assert lines[0] == f"{engine.kind} {engine.version()['Version']}"
    assert f"  endpoint: {engine.url}" in lines
    assert any(line.startswith("  found_by: ") for line in lines)
    assert lines[-1].startswith(f"store: {where[-1]} (0 images, ")


async def test_doctor_names_what_is_outdated(where: tuple[str, ...], engine: Engine) -> None:
    """THREATS I10: `doctor` names parts of the engine that hostile images could misuse, and the remedy."""
    found = await command("doctor", *where)

    runc = next(part for part in found.stdout.split("parts: ")[1].split("\n")[0].split(",") if "runc" in part)
    assert f"  {runc} is older than 1.2.8 or 1.3.3, which mends CVE-2025-31133: update it" in found.stdout


async def test_doctor_lists_what_dead_engines_left(
    where: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E3: `doctor` lists old archives that engines left on this machine with their size, and no others."""
    place = tmp_path / "tmp"
    (place / "docker-import-1").mkdir(parents=True)
    names = (
        "docker-import-1/layer",
        "api_load.tar7",
        "storage12",
        "storage.conf",
        "oci-layout",
        "docker-tar9",
    )
    for name in names:
        (place / name).write_bytes(bytes(100_000))
        os.utime(place / name, (0, 0))
    os.utime(place / "docker-import-1", (0, 0))
    os.utime(place / "docker-tar9")  # as one in use
    monkeypatch.setenv("TMPDIR", str(place))

    found = await command("doctor", *where)

    told = [line for line in found.stdout.splitlines() if str(place) in line]
    assert [line.split()[6] for line in told] == [
        str(place / name) for name in ("docker-import-1", "api_load.tar7", "storage12")
    ]
    assert all(100_000 <= int(line.rpartition("(")[2].split()[0]) < 200_000 for line in told)


@pytest.mark.parametrize(("name", "status"), [("pull", 1), ("run", 125)])
async def test_errors_are_one_line(
    docker_engine: Engine, registry: LocalRegistry, tmp_path: Path, name: str, status: int
) -> None:
    """A bad reference, an absent engine or image: one line that names it, no traceback, its own status."""
    store = ("--store", tmp_path / "store")
    there, nowhere = ("--url", docker_engine.url), ("--url", f"unix://{tmp_path}/none.sock")
    absent, bad = f"{registry.host}/none:1", "Not/A:Reference:"
    cases = [
        ((*there, *store, bad), "eference"),
        ((*nowhere, *store, absent), "none.sock"),
        (("--url", "ftp://x", *store, absent), "ftp"),
        ((*there, *store, absent), absent),
        ((*there, "--store", "/dev/null/x", f"{registry.host}/tiny:1"), "/dev/null"),
        ((*there, "--store", "", f"{registry.host}/tiny:1"), "the store's path is empty"),
    ]

    found = await asyncio.gather(*(command(name, *arguments) for arguments, _ in cases))

    for ended_, (_, told) in zip(found, cases, strict=True):
        assert (ended_.status, ended_.stdout) == (status, "")
        last = ended_.stderr.splitlines()[-1]
        assert last.startswith("aioruntime: ")
        assert told in last
        assert ended_.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-e", "NOVALUE"), "--env NOVALUE: expected NAME=VALUE"),
        (("-v", "/only"), "--mount /only: expected HOST:CONTAINER"),
        (("-v", "/a:/b:rx"), "--mount /a:/b:rx: expected"),
        (("-v", "a:/b"), "'a' is not an absolute path"),
        (("-w", "x"), "working_dir 'x'"),
    ],
)
async def test_bad_options_are_told(tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    """An option that can't be carried out is told before an engine is looked for."""
    found = await command("run", "--url", f"unix://{tmp_path}/none", *options, "example.org/tool:1")

    assert found.status == 125
    assert found.stderr.startswith("aioruntime: ")
    assert told in found.stderr
    assert found.stderr.count("\n") == 1


async def test_a_missing_program_is_told(where: tuple[str, ...], registry: LocalRegistry) -> None:
    """A program that the image lacks is one line that names it, and 125."""
    image = f"{registry.host}/tiny:1"
    assert (await command("pull", *where, image)).status == 0

    found = await command("run", *where, image, "no-such-program")

    assert (found.status, found.stderr.count("\n")) == (125, 1)
    assert found.stderr.startswith("aioruntime: ")
    assert "no-such-program" in found.stderr


async def without_a_reader(*arguments: object) -> Ended:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        async with started(*arguments, stdout=writing) as process:
            return await ended(process)
    finally:
        os.close(writing)


async def test_nobody_reads(where: tuple[str, ...], engine: Engine, registry: LocalRegistry) -> None:
    """A command whose output nobody reads any more (`| head`) ends with 141, quietly and cleanly."""
    image = f"{registry.host}/tiny:1"

    pulled = await without_a_reader("pull", image, *where)
    ran = await without_a_reader("run", *where, image, "--", "sh", "-c", "while echo y; do :; done")
    examined = await without_a_reader("doctor", *where)

    assert [each.status for each in (pulled, ran, examined)] == [141, 141, 141]
    assert pulled.stderr.splitlines()[-1].startswith(f"{image}: 3 of 3 layers fetched (")
    assert (ran.stderr, examined.stderr) == ("", "")
    assert ask(engine.socket, "GET", "/containers/json?all=1")[1].strip() == b"[]"


async def test_no_command_shows_the_help() -> None:
    """Called alone, it lists its commands."""
    found = await command()

    assert all(name in found.stdout + found.stderr for name in ("pull", "run", "doctor", "demo"))
    assert "Traceback" not in found.stderr


async def test_a_terminal_gets_bars(docker_engine: Engine, registry: LocalRegistry, tmp_path: Path) -> None:
    """On a terminal, pull draws bars in place, clears them, gives the cursor back, and ends with its line."""
    image = f"{registry.host}/samtools:gzip"
    ours, theirs = pty.openpty()
    try:
        url, store = docker_engine.url, tmp_path / "store"
        async with started("pull", image, "--url", url, "--store", store, stderr=theirs) as process:
            os.close(theirs)
            drawing = asyncio.create_task(in_thread(read_all, ours))
            found = await ended(process)
            drawn = await drawing
    finally:
        os.close(ours)
    async with ar.connect(docker_engine.url, store=store) as runtime:
        await runtime.remove_image(image)

    assert found.status == 0
    assert ar.ImageDigest(found.stdout.strip())
    assert "━" in drawn
    assert f"fetching {image}" in drawn
    assert "  sha256:" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    assert drawn.splitlines()[-1].rpartition("\x1b[2K")[2].startswith(f"{image}: 56 of 56 layers fetched (")


def read_all(terminal: int) -> str:
    """Everything that is written to a terminal until its last writer closes it."""
    pieces: list[bytes] = []
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # EIO: nobody has the other end any more
            piece = b""
        if not piece:
            return b"".join(pieces).decode(errors="replace")
        pieces.append(piece)
