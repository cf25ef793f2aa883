"""`aioruntime store` as a process: tables on a terminal, JSON in a pipe, exit statuses."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.cli.show import bytes_of, time_of
from aioruntime.errors import InvalidSpec
from aioruntime.tasks import in_thread
from tests.cli.child import ROOT, command, ended, started
from tests.cli.test_commands import read_all, without_a_reader
from tests.store.helpers import blob_path, layer, put_image, save, set_age
from tests.store.helpers import content as made

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.store import ImageStore


async def told(*arguments: object) -> Any:
    """What a command that succeeds prints as JSON."""
    found = await command("store", *arguments)
    assert found.status == 0, found.stderr
    return json.loads(found.stdout)


async def drawn(*arguments: object) -> str:
    """What a command shows on a terminal."""
    ours, theirs = pty.openpty()
    try:
        async with started("store", *arguments, stdout=theirs) as process:
            os.close(theirs)
            reading = asyncio.create_task(in_thread(read_all, ours))
            assert (await ended(process)).status == 0
            return await reading
    finally:
        os.close(ours)


async def test_what_is_there(store: ImageStore) -> None:
    """`ls` and `du` tell images and bytes, as the library does; as a table where somebody reads."""
    for name, seeds in {"example.org/a:1": (1, 2, 3), "example.org/b:1": (2, 3, 4)}.items():
        await put_image(store, name, *seeds)
    await save(store, *made(5000, 9))
    await store.pin("example.org/a:1")
    usage, where = await store.usage(), ("--store", store.path)

    listed, used = await told("ls", *where), await told("du", *where)
    table, bill, forced = (
        await drawn("ls", *where),
        await drawn("du", *where),
        await drawn("ls", "--json", *where),
    )

    assert [image["name"] for image in listed] == ["example.org/a:1", "example.org/b:1"]
    assert [image["pinned"] for image in listed] == [True, False]
    assert [image["size_bytes"] for image in listed] == [image.size_bytes for image in usage.images]
    assert (used["unnamed"], used["total"]) == (5000, usage.total)
    assert used["images"] == listed
    header, first, second = table.splitlines()
    assert header.split() == ["IMAGE", "DIGEST", "LAST", "USED", "SIZE", "STATE"]
    assert first.split()[0] == "example.org/a:1"
    assert first.rstrip().endswith(" kB  pinned"), first
    assert second.rstrip().endswith(" kB")
    assert "(not in any image)" in bill
    assert "5.0 kB" in bill
    assert json.loads(forced) == listed


async def test_prune(store: ImageStore) -> None:
    """`prune` takes sizes and ages as people write them, and tells what went, or would."""
    await put_image(store, "example.org/a:1", 1)
    await put_image(store, "example.org/b:1", 2)
    for image in await store.images():
        set_age(blob_path(store, image.digest), 40 if "/a" in image.name else 1)
    where = ("--store", store.path)

    dry = await told("prune", "--older-than", "30d", "--dry-run", *where)
    assert dry["images"] == ["example.org/a:1"]
    assert len(await store.images()) == 2
    assert await told("prune", "--older-than", "30d", *where) == dry
    shown = await drawn("prune", "--max-size", "1kB", *where)

    assert shown.splitlines()[0] == "image example.org/b:1"
    assert "3 blobs, 1.4 kB freed, 0 bytes kept" in shown
    assert await store.blobs() == []


async def test_verify(store: ImageStore) -> None:
    """`verify` names damaged blobs and fails; with `--repair` it puts them aside."""
    await put_image(store, "example.org/a:1", 1)
    assert await told("verify", "--store", store.path) == {"damaged": []}
    path = blob_path(store, layer(1))
    os.chmod(path, 0o600)
    os.truncate(path, 10)

    for options, status in {(): 1, ("--repair",): 0}.items():
        found = await command("store", "verify", *options, "--store", store.path)
        assert (found.status, json.loads(found.stdout)) == (status, {"damaged": [layer(1)]})
    assert await told("verify", "--store", store.path) == {"damaged": []}
    assert len((await store.images())[0].missing) == 1


async def test_pruned_with_a_damaged_manifest(store: ImageStore) -> None:
    """On a terminal `prune` tells once why no blob may go, and what that was put aside stays."""
    image = await put_image(store, "example.org/a:1", 1)
    blob_path(store, image.digest).unlink()
    blob_path(store, image.digest).mkdir()
    await store.verify(repair=True)
    shown = await drawn("prune", "--store", store.path)
    piped = await command("store", "prune", "--store", store.path)

    assert shown.count("no blob") == 1
    (line,) = piped.stderr.splitlines()
    assert line.startswith(f"{store.path}/aioruntime/damaged/{image.digest.hex}.")
    assert line.endswith("is not a file of the store's; remove it when you have seen what it is")


async def test_mistyped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no size is told alone, before a store is looked for; an empty path as it was typed."""
    monkeypatch.setenv("AIORUNTIME_STORE", str(tmp_path / "usual"))
    size, path = (
        await command("store", "prune", "--max-size", "x"),
        await command("store", "ls", "--store", ""),
    )

    assert (size.status, size.stderr.count("\n")) == (1, 1), size.stderr
    assert size.stderr.startswith("aioruntime: --max-size x: expected")
    assert (path.status, path.stderr.count("\n")) == (1, 1), path.stderr
    assert "None" not in path.stderr


async def test_in_and_out(store: ImageStore, tmp_path: Path) -> None:
    """An exported image is imported elsewhere, with its name; what is not there is told in a line."""
    await put_image(store, "example.org/a:1", 1)
    out, other = tmp_path / "out", tmp_path / "other"
    assert (await command("store", "export", "example.org/a:1", out, "--store", store.path)).status == 0

    assert await told("import", out, "--store", other) == {"imported": ["example.org/a:1"]}

    assert len(await told("ls", "--store", other)) == 1
    missing = await command("store", "export", "example.org/none:1", out, "--store", store.path)
    assert missing.status == 1
    assert missing.stderr.startswith("aioruntime: example.org/none:1 is not in the store")
    assert missing.stderr.count("\n") == 1


async def test_pinned_and_removed(store: ImageStore) -> None:
    """`pin`, `unpin` and `rm` do it to one image, and tell; what is pinned, or not there, is not removed."""
    image = await put_image(store, "example.org/a:1", 1)
    await put_image(store, "example.org/b:1", 2)
    where = ("--store", store.path)

    assert await told("pin", "example.org/a:1", *where) == {"pinned": "example.org/a:1"}
    assert [each.pinned for each in await store.images()] == [True, False]
    pinned = await command("store", "rm", "example.org/a:1", *where)
    absent = await command("store", "unpin", "example.org/c:1", *where)
    assert await told("unpin", image.digest, *where) == {"unpinned": image.digest}
    used = (await store.images())[0].own_bytes
    freed = {"removed": "example.org/a:1", "freed_bytes": used}
    assert await told("rm", "example.org/a:1", *where) == freed
    shown = await drawn("rm", "example.org/b:1", *where)

    assert (pinned.status, absent.status) == (1, 1)
    assert "pinned; unpin it first" in pinned.stderr
    assert "example.org/c:1 is not in the store" in absent.stderr
    assert shown.strip() == "removed example.org/b:1, 1.4 kB freed"
    assert await store.images() == []


@pytest.mark.parametrize("name", ["ls", "verify", "pin x", "rm x"])
async def test_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where no store is, that is an error if it was asked for; the usual one is told to be empty.

    A directory of other things is no store. Nothing is made.
    """
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    monkeypatch.setenv("AIORUNTIME_STORE", str(tmp_path / "usual"))
    arguments = name.split()
    absent, foreign, unused = await asyncio.gather(
        command("store", *arguments, "--store", tmp_path / "none"),
        command("store", *arguments, "--store", tmp_path / "mine"),
        command("store", *arguments),
    )

    for found, line in (
        (absent, f"aioruntime: there is no image store at {tmp_path}/none; check --store"),
        (foreign, f"aioruntime: {tmp_path}/mine is no"),
    ):
        status = 2 if name == "verify" else 1
        assert (found.status, found.stdout, found.stderr.count("\n")) == (status, "", 1), found
        assert found.stderr.startswith(line)
    assert unused.status == (1 if " " in name else 0)
    assert unused.stderr.startswith(f"nothing is stored yet: {tmp_path}/usual is made by the first pull")
    assert not {"none", "usual"}.intersection(os.listdir(tmp_path))
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


async def test_a_directory_for_a_store(tmp_path: Path) -> None:
    """An empty directory, as it is laid out for a group, is a store without images."""
    laid_out = tmp_path / "store"
    laid_out.mkdir()
    assert (await told("du", "--store", laid_out))["total"] == 0
    assert os.listdir(laid_out) == []


@pytest.mark.parametrize("name", ["ls", "du"])
async def test_long_names(store: ImageStore, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Beside a name longer than the terminal is wide, numbers are whole, and the name can be read."""
    await put_image(store, f"example.org/{'long/' * 30}end:1", 1)
    monkeypatch.setenv("COLUMNS", "30")
    lines = (await drawn(name, "--store", store.path)).splitlines()

    assert lines[0].split()[0] == "IMAGE"
    assert lines[1].startswith("example.org/long/long/lo")
    assert "1.6 kB" in lines[1]
    assert ("sha256:" in lines[1]) == (name == "ls")


@pytest.mark.parametrize("arguments", [("--help",), ("store", "ls"), ("store", "verify")], ids=" ".join)
async def test_output_that_can_not_be_written(store: ImageStore, arguments: tuple[object, ...]) -> None:
    """Output to nobody is quietly 141, to a full disk a line and 1, and none is wanted where it is closed.

    The 1 of `verify` is of what is damaged: it is 2 there.
    """
    steps = 2 if "verify" in arguments else 0
    if "store" in arguments:
        await put_image(store, "example.org/a:1", 1)
        arguments = (*arguments, "--store", store.path)
    unread = await without_a_reader(*arguments)
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230
        async with started(*arguments, stdout=full.fileno()) as process:
            unwritten = await ended(process)
    line = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "aioruntime", *map(str, arguments)]
    closed = await in_thread(partial(subprocess.run, line, cwd=ROOT, stderr=subprocess.PIPE, check=False))

    assert (unread.status, unread.stderr.count("\n")) == (141, steps), unread.stderr
    failed = 2 if steps else 1
    assert (unwritten.status, unwritten.stderr.count("\n")) == (failed, steps + 1), unwritten.stderr
    last = "aioruntime: the output can't be written: No space left on device"
    assert unwritten.stderr.splitlines()[-1] == last
    assert (closed.returncode, len(closed.stderr.splitlines())) == (0, steps), closed.stderr


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("512", 512), ("1k", 1000), ("2.5GB", 2_500_000_000), ("10GiB", 10 * 2**30), ("1 TB", 10**12)],
)
def test_sizes(text: str, number: int) -> None:
    """Sizes are in powers of 1000, with an i of 1024."""
    assert bytes_of(text) == number


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("12h", 43200), ("1.5d", 129_600), ("8w", 4_838_400)]
)
def test_ages(text: str, seconds: int) -> None:
    """Ages are a number and a unit."""
    assert time_of(text) == time_of(f"{seconds}s")
    assert time_of(text).total_seconds() == seconds  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "x", "-1", "1 pound", "1e9", "99999999999w"])
def test_neither(text: str) -> None:
    """What is no size or age is refused with the option's name."""
    with pytest.raises(InvalidSpec, match="--older-than"):
        time_of(text)
    if not text.endswith("w"):
        with pytest.raises(InvalidSpec, match="--max-size"):
            bytes_of(text)
