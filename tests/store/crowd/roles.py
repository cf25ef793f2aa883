"""What processes of the crowd do, each an `async def role(link, place, ...)`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.fetch import fetch_layers
from aioruntime.errors import InvalidSpec, NotStored, StoreBusy
from aioruntime.oci.documents import Descriptor
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress
from aioruntime.registry.client import RegistryClient
from aioruntime.store.store import ImageStore
from tests.store.crowd.images import Known
from tests.store.crowd.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.oci.image import ResolvedImage
    from tests.store.crowd.processes import Link

# No call may take longer, whoever was killed meanwhile.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """The store, the images that can be had, and where journals go."""

    store: Path
    images: Sequence[Known]
    journals: Path


class Puller:
    """Pulls as a runtime does, but for the engine."""

    def __init__(self, store: ImageStore, client: RegistryClient) -> None:
        self.store = store
        self._client = client
        self._slots = anyio.CapacityLimiter(4)

    @asynccontextmanager
    async def pulled(self, known: Known) -> AsyncIterator[ResolvedImage]:
        """Pull an image, find it whole, and keep all of it from being collected within the context."""
        image = await self._client.resolve(OciRef.parse(known.reference), documents=self.store)
        async with self.store.lease(known.blobs, image=image.manifest_digest):
            await fetch_layers(
                image.layers,
                image=image.reference,
                source=self._client,
                store=self.store,
                progress=NoopProgress(),
                connections=self._slots,
            )
            await keep_image(self.store, image)
            await self.look_at(image)
            yield image

    async def look_at(self, image: ResolvedImage) -> None:
        """Read all of an image, the hashes checked."""
        await self.store.read(image.manifest_digest)
        await self.store.read(image.manifest.config.digest)
        for layer in image.layers:
            async with aclosing(self.store.stream(layer.digest, layer.size)) as pieces:
                async for _ in pieces:
                    pass


@asynccontextmanager
async def _puller(place: Place) -> AsyncIterator[Puller]:
    async with RegistryClient() as client:
        yield Puller(ImageStore(place.store), client)


async def pull_and_hold(link: Link, place: Place, images: Sequence[Known]) -> None:
    """Pull images at once, hold them until told, and find them whole to the end."""
    held: list[ResolvedImage] = []
    leaving = asyncio.Event()

    async def pull(known: Known) -> None:
        async with puller.pulled(known) as image:
            held.append(image)
            if len(held) == len(images):
                link.say("pulled")
                await link.told()
                leaving.set()
            await leaving.wait()
            await puller.look_at(image)

    async with _puller(place) as puller:
        link.say("ready")
        await link.told()
        async with asyncio.TaskGroup() as group:
            for known in images:
                group.create_task(pull(known))


async def visit(link: Link, place: Place, number: int, seed: str) -> None:
    """Pull all images in some order; give each a name of ours, and now and then take it back for a while."""
    chance = random.Random(seed)
    async with _puller(place) as puller:
        link.say("ready")
        await link.told()
        with Journal(place.journals / f"{seed}.jsonl") as journal:
            for known in chance.sample(list(place.images), len(place.images)):
                ours = f"crowd.test/{number}:{known.digest[-12:]}"
                async with puller.pulled(known) as image:
                    described = Descriptor(
                        str(image.manifest.media_type), image.manifest_digest, len(image.raw_manifest)
                    )
                    with journal.deed("set", ours):
                        await puller.store.set_reference(ours, described)
                    if chance.random() < 0.2:
                        with journal.deed("remove", ours):
                            await puller.store.remove(ours)
                        with journal.deed("set", ours):
                            await puller.store.set_reference(ours, described)


async def prune(link: Link, place: Place, max_bytes: int | None) -> None:
    """Prune until told to stop."""
    store = ImageStore(place.store)
    link.say("ready")
    while not link.stopped:
        await store.prune()
        await store.prune(max_bytes=max_bytes, older_than=timedelta(days=1))


async def verify(link: Link, place: Place) -> None:
    """Verify until told to stop."""
    store = ImageStore(place.store)
    link.say("ready")
    while not link.stopped:
        await _sound(store, place)


async def _sound(store: ImageStore, place: Place) -> None:
    # skopeo writes a manifest in its place, so that of its own image may be half written.
    ours = frozenset().union(*(image.blobs for image in place.images))
    damaged = ours.intersection(await store.verify())
    assert not damaged, f"damaged: {damaged}"


async def anything(_link: Link, place: Place, seed: str, squeezing: bool) -> None:
    """Do something, then something else, until killed."""
    async with _puller(place) as puller:
        with Journal(place.journals / f"{seed}.jsonl") as journal:
            whim = Whim(place, puller, journal, seed, squeezing)
            while True:
                async with asyncio.timeout(PATIENCE):
                    await whim.follow()


class Whim:
    """One of the things that can be done to a store, chosen by chance, and what was done written down."""

    def __init__(self, place: Place, puller: Puller, journal: Journal, seed: str, squeezing: bool) -> None:
        self._place = place
        self._puller = puller
        self._store = puller.store
        self._journal = journal
        self._seed = seed
        self._chance = random.Random(seed)
        weights = {
            self._pull: 8,
            self._import: 3,
            self._remove: 2,
            self._prune: 2,
            self._verify: 1,
            self._pin: 1,
            self._unpin: 1,
            self._keep: 3 if squeezing else 1,
            self._squeeze: 3 if squeezing else 0,
        }
        self._deeds, self._weights = list(weights), list(weights.values())

    async def follow(self) -> None:
        """Do one thing."""
        (deed,) = self._chance.choices(self._deeds, self._weights)
        with suppress(NotStored, InvalidSpec, StoreBusy):
            await deed(self._chance.choice(self._place.images))

    async def _pull(self, known: Known) -> None:
        with self._journal.deed("set", known.name):
            async with self._puller.pulled(known):
                pass

    async def _import(self, known: Known) -> None:
        with self._journal.deed("set", known.local):
            await self._store.import_layout(known.layout)

    async def _remove(self, known: Known) -> None:
        name = self._chance.choice((known.name, known.local))
        with self._journal.deed("remove", name):
            await self._store.remove(name)

    async def _prune(self, _known: Known) -> None:
        await self._store.prune(older_than=timedelta(days=1), wait=self._chance.choice((None, 0)))

    async def _squeeze(self, _known: Known) -> None:
        size = self._chance.choice((0, 4 * 2**20))
        with self._journal.deed("squeeze"):
            await self._store.prune(max_bytes=size)

    async def _verify(self, _known: Known) -> None:
        await _sound(self._store, self._place)

    async def _keep(self, known: Known) -> None:
        """Find an image whole that nothing keeps but a pinned name of our own."""
        ours = f"crowd.test/{self._seed}:{known.digest[-12:]}"
        async with self._store.lease(known.blobs):
            found = await self._store.reference(known.name)
            if found is None or not all([await self._store.has(digest) for digest in known.blobs]):
                return
            with self._journal.deed("set", ours):
                await self._store.set_reference(ours, found)
        with self._journal.deed("pin", ours):
            await self._store.pin(ours)
        await self._store.prune()  # by its end, those have ended who chose what goes before we pinned it
        for digest in known.blobs:
            await self._store.read(digest)
        with self._journal.deed("unpin", ours):
            await self._store.unpin(ours)
        with self._journal.deed("remove", ours):
            await self._store.remove(ours)

    async def _pin(self, known: Known) -> None:
        with self._journal.deed("pin", known.name):
            await self._store.pin(known.name)

    async def _unpin(self, known: Known) -> None:
        with self._journal.deed("unpin", known.name):
            await self._store.unpin(known.name)
