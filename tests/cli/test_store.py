"""`aioruntime store` as a process: tables on a terminal, JSON in a pipe, exit statuses."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.cli.show import bytes_of, time_of
from aioruntime.errors import InvalidSpec
from aioruntime.tasks import in_thread
from tests.cli.child import command, ended, started
from tests.cli.test_commands import read_all
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
