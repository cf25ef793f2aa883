"""How long `prune` takes to decide on a store of many blobs, and how long the loop stands still meanwhile.

`python -m benchmarks.prune [--blobs 100000] [--images 1000]`: blobs of some bytes, half of them in images of
a hundred layers, the rest of none.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import tempfile
import time
from pathlib import Path

from aioruntime import ImageDigest, ImageStore
from aioruntime.oci.documents import Descriptor
from benchmarks.meters import loop_stall

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


async def measure(store: ImageStore, **options: object) -> tuple[float, float, int]:
    """Return the seconds that a decision takes, the longest stall of the loop in ms, and what would go."""
    async with loop_stall() as stall:
        start = time.perf_counter()
        report = await store.prune(dry_run=True, **options)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
    return seconds, stall.longest * 1000, len(report.blobs)


async def main(blobs: int, images: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = ImageStore(Path(directory) / "store")
        await fill(store, blobs, images)
        for name, options in {"prune()": {}, "prune(max_bytes=0)": {"max_bytes": 0}}.items():
            for _ in range(3):
                seconds, stall, gone = await measure(store, **options)
                print(f"{name}: {gone} would go, {seconds:.2f} s, stall {stall:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    asyncio.run(main(given.blobs, given.images))
