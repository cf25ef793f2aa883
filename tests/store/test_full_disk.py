"""A disk that gets full, or stops taking data, at any point of a pull."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from aioruntime.demo.images import write_image
from aioruntime.demo.registry import LocalRegistry
from aioruntime.errors import StoreError, StoreFull
from aioruntime.oci.image import ResolvedImage
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress
from aioruntime.registry.client import RegistryClient
from aioruntime.store.store import ImageStore
from tests.store.helpers import MIB, ROOT, blob_path, content, partial_path, partials, save
from tests.support.disks import make_ext4, mounted, needs_root, remount, tmpfs
from tests.support.pulls import pull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from aioruntime.oci.digest import ImageDigest

pytestmark = needs_root

PAGE = 4096
SIZE = 16 * MIB
# Incompressible: one of several pieces, one of little more than what is written at once, one of two pages.
CONTENTS = (5_000, 3_900_000, 1_050_000)

LOST = 2 * MIB + MIB // 2  # of what was to be written, at most: a piece of each of the two larger layers
FOR_A_WHILE = 4  # files that are there during a pull alone, at most


class AtFirst(NoopProgress):
    """Does something when a fetch has begun, once *after* so many bytes."""

    def __init__(self, act: Callable[[], object], after: int = 0) -> None:
        self._act = act
        self._after = after
        self.acted = False

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        if not self.acted and (current or 0) >= self._after:
            self.acted = True
            self._act()


def free_pages(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize // PAGE


def fill(disk: Path, left: int) -> None:
    """Take all room but so many pages."""
    if (surplus := free_pages(disk) - left) > 0:
        with (disk / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, surplus * PAGE)


@dataclass(slots=True)
class Pulls:
    """An image in a registry, to be pulled again and again."""

    registry: LocalRegistry
    client: RegistryClient
    reference: str
    image: ResolvedImage

    async def into(self, store: ImageStore, progress: NoopProgress | None = None) -> None:
        await pull(self.client, self.reference, store, progress)

    async def fails(self, store: ImageStore, progress: NoopProgress | None = None) -> None:
        """Pull, which has to end with what is needed and free told."""
        with pytest.raises(StoreFull, match=f"{store.path}.*AIORUNTIME_STORE") as caught:
            await self.into(store, progress)
        assert caught.value.need > 0
        assert caught.value.have >= 0

    async def goes_on(self, store: ImageStore) -> int:
        """Pull, with what was done before kept and not fetched again; return how many bytes came."""
        assert await store.verify() == []
        assert not list(store.path.rglob(".*"))
        assert all(not image.missing for image in await store.images())  # named before index.json, if at all
        done = {layer.digest for layer in self.image.layers} - {
            layer.digest for layer in await store.missing(self.image.layers)
        }
        rest = await store.unwritten(await store.missing(self.image.layers))
        before = len(await self.registry.settle())
        report = await pull(self.client, self.reference, store)
        asked = [request for request in (await self.registry.settle())[before:] if request.method == "GET"]

        assert report.downloaded_bytes == rest
        assert not [request for request in asked if any(str(digest) in request.path for digest in done)]
        await self.is_whole(store)
        return rest

    async def is_whole(self, store: ImageStore) -> None:
        assert await store.verify() == []
        assert await store.missing(self.image.layers) == []
        assert list(await store.references()) == [self.image.reference.canonical]
        assert await store.read(self.image.manifest_digest) == self.image.raw_manifest
        assert await store.read(self.image.manifest.config.digest) == self.image.raw_config
        assert partials(store) == []


@pytest.fixture
async def pulls(tmp_path: Path) -> AsyncIterator[Pulls]:
    """An image of three layers."""
    layers = [{str(size): content(size)[0]} for size in CONTENTS]
    await asyncio.to_thread(write_image, tmp_path / "layout", "full", layers)
    async with LocalRegistry() as registry, RegistryClient() as client:
        reference = await registry.push(tmp_path / "layout", "full", "full:1")
        yield Pulls(registry, client, reference, await client.resolve(OciRef.parse(reference)))


async def room_needed(pulls: Pulls, disk: Path) -> tuple[int, list[int]]:
    """Return how many pages a pull takes once it has begun, and after how many of them each layer ends."""
    with tmpfs(disk, f"size={SIZE}"):
        store, free = ImageStore(disk / "store"), []
        await pulls.into(store, AtFirst(lambda: free.append(free_pages(disk))))
        needed = free[0] - free_pages(disk)
    edges, total = [], 0
    for size in sorted((layer.size for layer in pulls.image.layers), reverse=True):
        total += -(-size // PAGE)
        edges.append(total)
    return needed, edges


async def run_out(pulls: Pulls, disk: Path, points: Iterable[int]) -> None:
    """Pull where so many pages are left once the fetch has begun; then make room, and pull again."""
    size = sum(layer.size for layer in pulls.image.layers)
    for left in points:
        with tmpfs(disk, f"size={SIZE}"):
            store = ImageStore(disk / "store")
            try:
                await pulls.fails(store, AtFirst(lambda: fill(disk, left)))  # noqa: B023 - called at once
                (disk / "ballast").unlink()
                rest = await pulls.goes_on(store)
                assert rest <= max(0, size - left * PAGE + LOST)
            except BaseException as exc:
                exc.add_note(f"with {left} pages left")
                raise


@pytest.mark.slow
async def test_full_at_20_points(pulls: Pulls, tmp_path: Path) -> None:
    """L3, T5: Where the disk gets full in a pull (at its first byte, in and at the end of each layer, at the
    note of who served them, at config, manifest and index), StoreFull tells it, and what was done is kept."""
    needed, edges = await room_needed(pulls, tmp_path / "disk")
    points = {0, 1, *range(needed - 4, needed + 1)}
    points |= {edge + offset for edge in edges for offset in (-2, -1, 0, 1)}
    points |= {edges[0] // 2, (edges[0] + edges[1]) // 2}
    points = {point for point in points if point <= needed}
    points |= set(range(20, needed, needed // (20 - len(points)))) if len(points) < 20 else set()
    assert len(points) >= 20

    await run_out(pulls, tmp_path / "disk", sorted(points))


@pytest.mark.full
@pytest.mark.timeout(1200)
async def test_full_around_each_layers_edge(pulls: Pulls, tmp_path: Path) -> None:
    """L3, T5: The same for each of the 64 sizes around the end of each layer."""
    needed, edges = await room_needed(pulls, tmp_path / "disk")
    points = {edge + offset for edge in edges for offset in range(-32, 32)}

    await run_out(pulls, tmp_path / "disk", sorted(point for point in points if point <= needed))


async def run_out_of_inodes(pulls: Pulls, disk: Path, limits: Iterable[int]) -> None:
    """Pull where so many files can be made; then allow more, and pull again."""
    with tmpfs(disk, f"size={SIZE}"):
        await pulls.into(ImageStore(disk / "store"))
        found = os.statvfs(disk)
        needed = found.f_files - found.f_ffree
    for limit in limits:
        with tmpfs(disk, f"size={SIZE},nr_inodes={limit}"):
            store = ImageStore(disk / "store")
            if limit <= needed:
                await pulls.fails(store)
                remount(disk, "nr_inodes=100")
                await pulls.goes_on(store)
            elif limit > needed + FOR_A_WHILE:
                await pulls.into(store)
                await pulls.is_whole(store)


async def test_out_of_inodes(pulls: Pulls, tmp_path: Path) -> None:
    """L3, T5: A disk that takes no more files is full too, at whichever file of a pull."""
    await run_out_of_inodes(pulls, tmp_path / "disk", range(1, 17, 3))


@pytest.mark.full
async def test_out_of_inodes_at_any_file(pulls: Pulls, tmp_path: Path) -> None:
    """L3, T5: The same for each number of files from 1 to 40."""
    await run_out_of_inodes(pulls, tmp_path / "disk", range(1, 41))


def fill_to_the_last_block(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1024)):
            pass


async def save_all(store: ImageStore, made: list[tuple[bytes, ImageDigest]]) -> None:
    for data, digest in made:
        await save(store, data, digest)


async def test_no_room_for_a_name(tmp_path: Path) -> None:
    """L3, T5: A blob that is on the disk, but has no room for its name, is kept and gets it later."""
    made = [content(100, seed) for seed in range(60)]
    make_ext4(tmp_path / "image", 4 * MIB, "-b", "1024", "-m", "0")
    with mounted(tmp_path / "image", tmp_path / "disk", "-o", "loop") as disk:
        store = ImageStore(disk / "store")
        for data, digest in made:
            async with store.ingest(digest, len(data)) as ingest:
                assert ingest is not None
                await ingest.write(data)
        fill_to_the_last_block(disk / "ballast")
        with pytest.raises(StoreFull, match="blobs/sha256") as caught:  # the directory can't grow
            await save_all(store, made)
        assert caught.value.have >= 0
        assert await store.verify() == []
        assert len(partials(store)) == len(made) - len(os.listdir(store.path / "blobs" / "sha256"))
        (disk / "ballast").unlink()
        await save_all(store, made)
        assert await store.verify() == []
        assert partials(store) == []


async def test_read_only_in_the_middle(pulls: Pulls, tmp_path: Path) -> None:
    """L3, T5: A disk that the kernel makes read-only in the middle, as after an error, is told as such."""
    make_ext4(tmp_path / "image", 2 * SIZE)
    with mounted(tmp_path / "image", tmp_path / "disk", "-o", "loop") as disk:
        store = ImageStore(disk / "store")
        told = "mount it writable|the disk reports an error"  # what fsync says, if it was at it
        with pytest.raises(StoreError, match=f"{store.path}.*({told})"):
            await pulls.into(store, AtFirst(lambda: remount(disk, "abort"), after=MIB))
        assert await store.verify() == []
    # A copy: the kernel may keep what was mounted, read-only as it is, for as long as anybody sees it.
    shutil.copyfile(tmp_path / "image", tmp_path / "repaired")
    with mounted(tmp_path / "repaired", tmp_path / "disk", "-o", "loop"):
        await pulls.goes_on(store)


async def pull_under(*command: str, reference: str, store: ImageStore) -> dict[str, object]:
    """Pull in another process, under such a command; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(*command, sys.executable, "-m", "tests.support.pulls", reference, str(store.path)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    told: dict[str, object] = json.loads(output)
    return told


@pytest.mark.parametrize("after", [1, 2])
async def test_quota(pulls: Pulls, tmp_path: Path, after: int) -> None:
    """L3, T5: A quota that is used up is told as a full disk, at the first write or a later one."""
    store = ImageStore(tmp_path / "store")
    await save(store, *content(10))
    inject = f"inject=pwrite64:error=EDQUOT:when={after}+"
    strace = ("strace", "--quiet=all", "-f", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", inject)
    told = await pull_under(*strace, reference=pulls.reference, store=store)
    assert told["error"] == "StoreFull"
    assert str(store.path) in str(told["message"])
    assert told["need"] == await store.unwritten(await store.missing(pulls.image.layers))
    await pulls.goes_on(store)


async def test_limit_of_file_sizes(pulls: Pulls, tmp_path: Path) -> None:
    """L3, T5: A limit of file sizes is told as such, and what is smaller is kept."""
    store = ImageStore(tmp_path / "store")
    limit = 1_500_000
    told = await pull_under("prlimit", f"--fsize={limit}", reference=pulls.reference, store=store)
    assert told["error"] == "StoreError"
    assert "ulimit -f" in str(told["message"])
    largest = max(pulls.image.layers, key=lambda layer: layer.size)
    assert 0 < partial_path(store, largest.digest).stat().st_size <= limit
    assert not blob_path(store, largest.digest).exists()
    await pulls.goes_on(store)
