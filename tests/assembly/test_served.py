"""What is in the store counts for an image once its repository was seen to serve it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from aioruntime.assembly.arrivals import Arrivals
from aioruntime.assembly.fetch import FetchReport, fetch_layers
from aioruntime.assembly.served import _LIMIT, Served, _note
from aioruntime.errors import NotFound, RateLimited, RegistryError, RequestRefused, Unauthorized
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import ANONYMOUS, Credentials, Secret
from tests.store.helpers import content, save, save_some
from tests.support.scripted import Fault, Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aioruntime.registry.credentials import Keychain
    from aioruntime.store.store import ImageStore

DATA, DIGEST = content(5000)
LAYER = LayerSpec(DIGEST, len(DATA), "x")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A registry on loopback that answers what the test tells it to."""
    async with ScriptedServer() as running:
        yield running


class OneKey:
    """Has one user's credentials for whoever asks."""

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        return Credentials("me", Secret("word"))


def path_of(digest: str, repository: str = "org/tool") -> str:
    return f"/v2/{repository}/blobs/{digest}"


async def fetch(
    store: ImageStore,
    server: ScriptedServer,
    layers: Sequence[LayerSpec] = (LAYER,),
    *,
    name: str | None = "org/tool:1",
    arrivals: Arrivals | None = None,
    keychain: Keychain = ANONYMOUS,
) -> FetchReport:
    async with RegistryClient(keychain=keychain) as client:
        return await fetch_layers(
            layers,
            image=OciRef.parse(f"{server.origin}/{name}") if name else None,
            source=client,
            store=store,
            progress=NoopProgress(),
            connections=anyio.CapacityLimiter(16),
            arrivals=arrivals,
        )


async def test_a_repository_is_asked_once(store: ImageStore, server: ScriptedServer) -> None:
    """THREATS I3: a layer that is in the store is asked for by HEAD, once a repository, and never loaded."""
    await save(store, DATA, DIGEST)
    for repository in ("org/tool", "org/other"):
        server.on("HEAD", path_of(DIGEST, repository), Reply(body=DATA), times=1)

    for name in ("org/tool:1", "org/tool:2", "org/other:1", "org/tool:1"):
        report = await fetch(store, server, name=name)
        assert (report.fetched, report.downloaded_bytes) == ((), 0)

    assert [request.method for request in server.requests] == ["HEAD", "HEAD"]


async def test_what_was_fetched_is_not_asked_for(store: ImageStore, server: ScriptedServer) -> None:
    """THREATS I3: a layer that came from the repository needs no further request, by any tag of it."""
    server.on("GET", path_of(DIGEST), Reply(body=DATA), times=1)

    assert (await fetch(store, server)).fetched == (DIGEST,)
    assert (await fetch(store, server, name="org/tool:other")).fetched == ()


async def test_what_came_before_a_failure_is_not_asked_for(store: ImageStore, server: ScriptedServer) -> None:
    """THREATS I3: also what came in a pull that failed for another layer needs no further request."""
    other = content(4000)[1]
    lacking = Fault("stall", of="response")
    server.on("GET", path_of(other), Reply(404, faults=(lacking,)))
    server.on("GET", path_of(DIGEST), Reply(body=DATA), times=1)
    arrivals = Arrivals()

    async def fail_after_the_other() -> None:
        await arrivals.all_of([LAYER])
        lacking.release.set()

    async with anyio.create_task_group() as group:
        group.start_soon(fail_after_the_other)
        with pytest.raises(NotFound):
            await fetch(store, server, (LAYER, LayerSpec(other, 4000, "x")), arrivals=arrivals)

    assert (await fetch(store, server)).fetched == ()
    assert len(server.requests) == 2


@pytest.mark.parametrize("challenge", [None, 'Basic realm="x"'])
async def test_what_anybody_gets_counts_at_its_registry(
    store: ImageStore, server: ScriptedServer, challenge: str | None
) -> None:
    """THREATS I3: what took no credentials counts for all images of its registry; others are asked for."""
    key = {"Authorization": Credentials("me", Secret("word")).basic().reveal()} if challenge else None
    server.on("GET", path_of(DIGEST), Reply(body=DATA), requires=key)
    if challenge:
        refused = Reply(401, {"WWW-Authenticate": challenge})
        server.on("GET", path_of(DIGEST), refused, requires={"Authorization": None})
    server.on("HEAD", path_of(DIGEST, "org/other"), Reply(body=DATA))
    await fetch(store, server, keychain=OneKey())
    asked = len(server.requests)

    await fetch(store, server, name="org/other:1", keychain=OneKey())

    assert [request.method for request in server.requests[asked:]] == (["HEAD"] if challenge else [])


async def test_what_the_caller_answers_for(store: ImageStore, server: ScriptedServer) -> None:
    """A layer with a URL of the caller's, or without an image, is not asked for, nor is it noted."""
    await save(store, DATA, DIGEST)
    by_url = LayerSpec(DIGEST, len(DATA), "x", f"http://{server.origin}/anywhere")

    await fetch(store, server, [by_url])
    await fetch(store, server, [by_url], name=None)

    assert server.requests == []
    server.on("*", path_of(DIGEST), Reply(404))
    with pytest.raises(NotFound):
        await fetch(store, server)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (429, RateLimited),
        (500, RegistryError),
    ],
)
async def test_what_is_not_served_does_not_count(
    store: ImageStore, server: ScriptedServer, status: int, kind: type[RegistryError]
) -> None:
    """THREATS I3: the repository's own error comes out; the layer stays, and does not arrive."""
    await save(store, DATA, DIGEST)
    arrivals = Arrivals()
    server.on("*", path_of(DIGEST), Reply(status, body=b'{"errors":[{"code":"WHY"}]}'))

    for attempt in (1, 2):
        with pytest.raises(kind, match=DIGEST) as caught:
            await fetch(store, server, arrivals=arrivals)
        asked = ["HEAD", "GET"] if status < 429 else ["HEAD"] * 6 + ["GET"] * 6
        assert [request.method for request in server.requests] == asked * attempt

    assert (caught.value.status, caught.value.code) == (status, "WHY")
    assert ("lies in the store" in str(caught.value)) is (status in (401, 403, 404))
    assert await store.has(DIGEST, len(DATA))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(arrivals.all_of([LAYER]), 0.05)


async def test_storage_that_answers_no_head(store: ImageStore, server: ScriptedServer) -> None:
    """Where HEAD is refused but GET is not, the layer counts, and its content is not read."""
    await save(store, DATA, DIGEST)
    server.on("HEAD", path_of(DIGEST), Reply(405))
    server.on("GET", path_of(DIGEST), Reply(body=DATA), times=1)

    assert (await fetch(store, server)).downloaded_bytes == 0
    await fetch(store, server)


async def test_redirects_are_followed_by_the_rules(store: ImageStore, server: ScriptedServer) -> None:
    """A HEAD goes on to where the blob lies, and nowhere that a GET would not go."""
    await save(store, DATA, DIGEST)
    server.on("HEAD", path_of(DIGEST), Reply(307, {"Location": f"{server.url}/elsewhere"}), times=1)
    server.on("HEAD", "/elsewhere", Reply(body=DATA))
    await fetch(store, server)

    server.on("HEAD", path_of(DIGEST, "org/evil"), Reply(307, {"Location": "http://169.254.169.254/"}))
    with pytest.raises(RequestRefused):
        await fetch(store, server, name="org/evil:1")


async def test_a_whole_partial_counts_only_if_served(store: ImageStore, server: ScriptedServer) -> None:
    """THREATS I3: bytes that another repository's download left, all of them, are no layer of this image."""
    await save_some(store, DATA, DIGEST, len(DATA))
    server.on("*", path_of(DIGEST), Reply(404), times=2)
    with pytest.raises(NotFound):
        await fetch(store, server)
    assert not await store.has(DIGEST)

    server.on("HEAD", path_of(DIGEST, "org/other"), Reply(body=DATA))
    await fetch(store, server, name="org/other:1")
    assert await store.has(DIGEST, len(DATA))


async def test_what_another_task_brings_counts_only_if_served(
    store: ImageStore, server: ScriptedServer
) -> None:
    """THREATS I3: a layer that came in from elsewhere while this fetch waited for it is asked for too."""
    server.on("*", path_of(DIGEST), Reply(404))
    async with store.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest is not None
        task = asyncio.create_task(fetch(store, server))
        await asyncio.wait([task], timeout=0.2)
        assert not task.done()
        await ingest.write(DATA)
        await ingest.commit("elsewhere.test")

    with pytest.raises(NotFound, match="lies in the store"):
        await task


async def test_the_note_is_bounded_and_may_be_damaged(store: ImageStore, server: ScriptedServer) -> None:
    """Notes keep the newest layers, as many as an image may have; a damaged one means to ask again."""
    image = OciRef.parse(f"{server.origin}/org/tool:1")
    async with RegistryClient() as client:
        for batch in (0, 1):
            served = await Served.recall(image, client, store)
            for number in range(_LIMIT * 3 // 4):
                served.add(LayerSpec(ImageDigest.of(b"%d %d" % (batch, number)), 1, "x"), public=False)
            await served.keep()
        note = await store.read_note(_note(image))
        assert note is not None
        assert note.count(b"sha256:") == _LIMIT
        served = await Served.recall(image, client, store)
        assert served.covers(LayerSpec(ImageDigest.of(b"1 0"), 1, "x"))
        assert served.covers(LayerSpec(ImageDigest.of(b"0 0"), 1, "x"))
        assert not served.covers(LayerSpec(ImageDigest.of(b"0 %d" % (_LIMIT // 2)), 1, "x"))
        await store.update_note(_note(image), lambda _: b"\xff{[")
        assert not (await Served.recall(image, client, store)).covers(LAYER)


async def test_asking_for_many_is_quick(store: ImageStore, server: ScriptedServer) -> None:
    """54 layers are asked for eight at a time, over no more connections than allowed, and each once."""
    held = Fault("stall", of="response")
    made = [content(100, seed) for seed in range(54)]
    layers = [LayerSpec(digest, len(data), "x") for data, digest in made]
    for data, digest in made:
        await save(store, data, digest)
        server.on("HEAD", path_of(digest), Reply(body=data, faults=(held,)), times=1)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(fetch, store, server, layers)
            while len(server.requests) < 8:  # noqa: ASYNC110
                await anyio.sleep(0.001)
            held.release.set()

    assert server.connections <= 16
    assert len(server.requests) == 54
