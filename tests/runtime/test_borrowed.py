"""A layer in the store is not everybody's: an image whose repository does not serve it never gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from anyio import move_on_after

import aioruntime as ar
from aioruntime.registry.credentials import Credentials, Secret
from aioruntime.tasks import task_group
from tests.assembly.stacks import entry, packed
from tests.store.helpers import blob_path
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import digest_of, make_image, serve_image
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

PRIVATE = packed([entry("secret", data=b"only for those with the password" * 100)])
OWN = packed([entry("reader", data=b"what reads /secret and sends it away")])
WHO = Credentials("owner", Secret("password"))


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


class OwnersKeys:
    """Has credentials for one registry alone."""

    def __init__(self, host: str) -> None:
        self.host = host

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        return WHO if host == self.host else None


@pytest.fixture
async def private() -> AsyncIterator[ScriptedServer]:
    """A registry that has an image for its owner alone, and one for all that borrows its layer."""
    async with ScriptedServer() as server:
        known = {"Authorization": WHO.basic().reveal()}
        for path, data in make_image("org/private", "1", [PRIVATE]).items():
            server.on("GET", path, Reply(body=data), requires=known)
            refused = Reply(401, {"WWW-Authenticate": 'Basic realm="private"'})
            server.on("GET", path, refused, requires={"Authorization": None})
        yield server


@pytest.fixture
def answer() -> Fault:
    """The moment before the answer about the private layer; it passes at once unless `release` is cleared."""
    fault = Fault("stall", of="response")
    fault.release.set()
    return fault


@pytest.fixture
async def public(answer: Fault) -> AsyncIterator[ScriptedServer]:
    """A registry of somebody who knows the private layer's digest and diff ID, but not its content."""
    async with ScriptedServer() as server:
        contents = make_image("org/evil", "1", [PRIVATE, OWN])
        stolen = f"/v2/org/evil/blobs/{digest_of(PRIVATE)}"
        del contents[stolen]
        serve_image(server, contents)
        server.on("*", stolen, Reply(404, faults=(answer,)))
        yield server


WAYS = ("pulled", "merged", "assembled", "held by the engine alone")


async def borrow(runtime: EngineRuntime, image: ar.OciRef, way: str, answer: Fault) -> None:
    if way == "assembled":
        resolved = await runtime.resolve(image)
        await runtime.ensure_layers(resolved.layers[1:], image=image)
        await runtime.assemble_image(image, resolved.layers)
    elif way == "held by the engine alone":
        async with task_group() as group:
            answer.release.clear()
            group.start_soon(runtime.pull, image)
            await answer.reached.wait()
            with move_on_after(0.7):  # time enough to load the rest, if that did not wait for the answer
                while image.repository not in str(await held_images(runtime)):
                    continue
            answer.release.set()
    else:
        await runtime.pull(image, layering="merge" if way == "merged" else "keep")


@pytest.mark.parametrize("way", WAYS)
async def test_a_borrowed_layer_is_refused(
    engine: Engine,
    store: ar.ImageStore,
    private: ScriptedServer,
    public: ScriptedServer,
    answer: Fault,
    way: str,
) -> None:
    """THREATS I3, T21: no engine, and no way to assemble, gives an image a layer that others were served."""
    evil = ar.OciRef.parse(f"{public.origin}/org/evil:1")
    digest = ar.ImageDigest(digest_of(PRIVATE))
    async with (
        ar.RegistryClient(keychain=OwnersKeys(private.origin)) as registry,
        ar.connect(engine.url, store=store, registry=registry) as runtime,
    ):
        try:
            await runtime.pull(f"{private.origin}/org/private:1")
            if way == "held by the engine alone":
                blob_path(store, digest).unlink()
            with pytest.raises(ar.NotFound, match=digest) as caught:
                await borrow(runtime, evil, way, answer)

            if way != "held by the engine alone":
                assert "lies in the store" in str(caught.value)
                assert await store.has(digest, len(PRIVATE))
            with pytest.raises(ar.ImageNotFound):
                await runtime.inspect(evil)
            with pytest.raises(ar.ImageNotFound):
                await runtime.run(ar.RunSpec(evil, ["/reader"]))
            names = [name for held in await held_images(runtime) for name in held["RepoTags"] or ()]
            assert [name for name in names if "/org/" in name or "aioruntime" in name] == [
                f"{private.origin}/org/private:1"
            ]
            assert await runtime.pull(f"{private.origin}/org/private:1")
        finally:
            await remove_images(runtime)


async def held_images(runtime: EngineRuntime) -> list[dict[str, list[str]]]:
    found: list[dict[str, list[str]]] = await runtime._client.json("GET", "/images/json")
    return found
