"""How long `prune` takes to decide on a store of many blobs, and how long the loop stands still meanwhile.

``python -m benchmarks.prune`` makes a store of 100,000 blobs of some bytes, half of them in 1,000 images of a
hundred layers, the rest of none. In each round `prune` decides without removing anything, once for any size
and once for none, and then removes all from another store of the same files; `blobs`, `images` and `usage`
are asked too. The garbage collector is on, as users have it.

A stall is the time of the processors that the whole process took between two turns of the loop, which wants
one every millisecond: of a thread that does not let the loop have its turn that is as long as the wall clock
tells, and what other programs take of the machine does not count. Of each round the longest counts, and of
the rounds the median; of the seconds that a call takes, which others do lengthen, the fewest. `prune` has to
decide within 2 s, and none of its stalls may be longer than 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime import ImageDigest, ImageStore
from aioruntime.oci.documents import Descriptor
from aioruntime.tasks import in_thread
from benchmarks.meters import loop_stall

if TYPE_CHECKING:
    from collections.abc import Awaitable

LIMIT = 2.0
STALL_LIMIT = 0.05
LAYERS = 100
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def write_blob(store: ImageStore, data: bytes) -> ImageDigest:
    """Put a blob where the store would; the fsyncs of 100,000 would take minutes."""
    digest = ImageDigest(f"sha256:{hashlib.sha256(data).hexdigest()}")
    (store.path / "blobs" / "sha256" / digest.hex).write_bytes(data)
    return digest


async def fill(store: ImageStore, blobs: int, images: int) -> None:
    """Make the store."""
    await store.put(b"", ImageDigest.of(b""))
    digests = [write_blob(store, b"%d" % number) for number in range(blobs)]
    named = {}
    for number in range(images):
        start = number * 37 % max(1, blobs // 2 - LAYERS)
        layers = [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": len(b"%d" % (start + i)),
            }
            for i, digest in enumerate(digests[start : start + LAYERS])
        ]
        raw = json.dumps({"schemaVersion": 2, "layers": layers, "annotations": {"n": str(number)}}).encode()
        named[f"example.org/image:{number}"] = Descriptor(MANIFEST, write_blob(store, raw), len(raw))
    (store.path / "index.json").write_bytes(
        json.dumps(
            {
                "schemaVersion": 2,
                "manifests": [
                    {
                        "mediaType": MANIFEST,
                        "digest": found.digest,
                        "size": found.size,
                        "annotations": {"org.opencontainers.image.ref.name": name},
                    }
                    for name, found in named.items()
                ],
            }
        ).encode()
    )


async def measure(work: Awaitable[object]) -> tuple[float, float]:
    """Return the seconds that it takes, and the longest that it held up the loop."""
    async with loop_stall(time.process_time) as stall:
        started = time.perf_counter()
        await work
        taken = time.perf_counter() - started
    return taken, stall.longest


async def round_of(store: ImageStore, copy: Path) -> dict[str, tuple[float, float]]:
    """Measure each call once."""
    await in_thread(partial(shutil.copytree, store.path, copy, copy_function=os.link))
    figures = {
        "prune(dry_run=True)": await measure(store.prune(dry_run=True)),
        "prune(max_bytes=0, dry_run=True)": await measure(store.prune(max_bytes=0, dry_run=True)),
        "prune(max_bytes=0)": await measure(ImageStore(copy).prune(max_bytes=0)),
        "blobs()": await measure(store.blobs()),
        "images()": await measure(store.images()),
        "usage()": await measure(store.usage()),
    }
    assert (await ImageStore(copy).usage()).total == 0
    await in_thread(shutil.rmtree, copy)
    return figures


async def run(blobs: int, images: int, runs: int) -> bool:
    """Print the figures; return whether those of `prune` are within the limits."""
    with tempfile.TemporaryDirectory(prefix="aioruntime-prune-", dir="/dev/shm") as name:
        store = ImageStore(Path(name) / "store")
        await fill(store, blobs, images)
        rounds = [await round_of(store, Path(name) / f"copy-{number}") for number in range(runs)]
    good = True
    for call in rounds[0]:
        taken = min(each[call][0] for each in rounds)
        stall = statistics.median(each[call][1] for each in rounds)
        print(f"{call}: {taken:.2f} s; the loop stood still for {stall * 1000:.0f} ms", flush=True)
        good &= not call.startswith("prune") or stall <= STALL_LIMIT
        good &= "dry_run" not in call or taken <= LIMIT
    return good


def main() -> None:
    """Run the benchmark; exit with 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    sys.exit(0 if asyncio.run(run(given.blobs, given.images, given.runs)) else 1)


if __name__ == "__main__":
    main()
