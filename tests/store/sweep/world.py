"""A small store to do harm to, and what must be true of it at any time."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor
from aioruntime.store import blobs, carry, ingest, partial
from aioruntime.store.store import ImageStore
from aioruntime.store.threads import Threads
from tests.store.helpers import save
from tests.support.served_image import MANIFEST, make_image

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.store.sweep.operations import Operation

PIECE = 16 * 1024
FOREIGN = "of-another-tool"


def small_pieces() -> None:
    """Let a small blob be written in many pieces, as a large one is."""
    for module, name in ((partial, "CHUNK"), (ingest, "CHUNK"), (blobs, "_CHUNK"), (carry, "_CHUNK")):
        assert hasattr(module, name)
        setattr(module, name, PIECE)
    # One thread, so that calls come in the same order each time.
    setattr(Threads.__init__, "__defaults__", (1,))  # noqa: B010


def data(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True)
class Image:
    """An image of the store, and its bytes."""

    manifest: bytes
    others: tuple[bytes, ...]

    @classmethod
    def of(cls, *layers: bytes) -> Image:
        documents = make_image("any", "any", layers)
        manifest, config = documents["/v2/any/manifests/any"], _config(documents, layers)
        return cls(manifest, (config, *layers))

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(MANIFEST, ImageDigest.of(self.manifest), len(self.manifest))

    @property
    def digests(self) -> list[ImageDigest]:
        return [ImageDigest.of(each) for each in (self.manifest, *self.others)]

    async def put(self, store: ImageStore) -> None:
        for each in (*self.others, self.manifest):
            await save(store, each, ImageDigest.of(each))


def _config(documents: dict[str, bytes], layers: tuple[bytes, ...]) -> bytes:
    return next(each for path, each in documents.items() if "/blobs/" in path and each not in layers)


SHARED = data(PIECE + 7, 1)
OWN = data(3 * PIECE + 5, 2)
KEPT = Image.of(SHARED, data(100, 3))
OLD = Image.of(SHARED, OWN)
NEW = Image.of(SHARED, data(2 * PIECE + 9, 4))
THEIRS = Image.of(data(200, 5))
PART = data(3 * PIECE + 100, 6)
PART_KEPT = PIECE + 300


@dataclass(frozen=True)
class Place:
    """A directory with the store, and what else an operation needs."""

    path: Path

    @property
    def store(self) -> ImageStore:
        return ImageStore(self.path / "store")


async def make(place: Place) -> None:
    """Make a store with images, one of them listed by another tool, a note, and a partial blob."""
    store = place.store
    for name, image in (("kept", KEPT), ("old", OLD)):
        await image.put(store)
        await store.set_reference(name, image.descriptor)
    await THEIRS.put(store)
    index = store.path / "index.json"
    document = json.loads(index.read_bytes())
    document["manifests"].append(_foreign())
    index.write_text(json.dumps(document))
    await store.update_note("told", lambda _: b"old")
    async with store.ingest(ImageDigest.of(PART), len(PART)) as writing:
        assert writing is not None
        await writing.write(PART[:PART_KEPT])


def _foreign() -> dict[str, Any]:
    descriptor = THEIRS.descriptor
    annotations = {"org.opencontainers.image.ref.name": FOREIGN}
    return {
        "mediaType": MANIFEST,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
        "annotations": annotations,
    }


async def check_sound(store: ImageStore, operation: Operation) -> None:
    """No blob is wrong and no name lost, but those that the operation is about; what has a name is whole."""
    assert set(await store.verify()) <= set(operation.doubtful)
    found = await store.references()
    for name, descriptor in found.items():
        if name not in operation.mortal:
            await check_whole(store, name, descriptor.digest, operation.doubtful)
    if operation.empty:
        return
    assert {"kept", "old", FOREIGN} - set(operation.mortal) <= found.keys(), found.keys()
    assert found["kept"].digest == KEPT.descriptor.digest
    assert FOREIGN not in found or found[FOREIGN].digest == THEIRS.descriptor.digest
    assert json.loads((store.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert await store.read_note("told") in (b"old", b"new")


async def check_whole(
    store: ImageStore, name: str, digest: ImageDigest, doubtful: Collection[ImageDigest] = ()
) -> None:
    """What the manifest names is there and right, but for what is *doubtful*."""
    manifest = json.loads(await store.read(digest))
    for part in (manifest["config"], *manifest["layers"]):
        if part["digest"] not in doubtful:
            assert len(await store.read(ImageDigest(part["digest"]))) == part["size"], name


def check_tidy(store: ImageStore, partials: Collection[bytes]) -> None:
    """Nothing temporary is left, but the *partials* that the store began with."""
    known = {f"sha256-{ImageDigest.of(each).hex}" for each in partials}
    ours = store.path / "aioruntime"
    left = [
        *(path for path in (store.path / "ingest").iterdir() if path.name not in known),
        *(path for path in store.path.rglob("*") if path.name.startswith(".")),
        *ours.glob("*.lock"),
        *(ours / "leases").glob("*"),
    ]
    assert left == [], left
