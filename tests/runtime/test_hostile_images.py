"""Images that lie about what they are, or name what is not theirs: on every engine, with each layering."""

from __future__ import annotations

import gzip
import json
import sys
from contextlib import suppress
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

import aioruntime as ar
from aioruntime.runtime.docker_body import docker_body
from tests.runtime.test_foreign import tar_of
from tests.support.rootfs import program_tar
from tests.support.scripted import ScriptedServer
from tests.support.served_image import LAYER, digest_of, make_image, serve_image
from tests.support.unixhttp import ask

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aioruntime.assembly.plan import Layering
    from aioruntime.runtime.engine_runtime import EngineRuntime
    from tests.support.engines import Engine

OWN = tar_of("own", b"mine")


@pytest.fixture
def engine(every_engine: Engine) -> Engine:
    """Each generation of engine in turn."""
    return every_engine


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """The registry of whoever made the image."""
    async with ScriptedServer() as running:
        yield running


@cache
def programs() -> bytes:
    return program_tar("cat")


async def printed(runtime: EngineRuntime, image: str, path: str) -> bytes | None:
    outcome = await runtime.run(ar.RunSpec(image, ["/bin/cat", path], capture_output=True))
    return outcome.stdout if outcome.exit_code == 0 else None


def changed(contents: dict[str, bytes], tag: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a served image."""
    base = next(path for path in contents if path.endswith(f"/manifests/{tag}")).removesuffix(tag)
    document = json.loads(contents[base + tag])
    change(document)
    made = json.dumps(document).encode()
    contents |= {base + tag: made, base + digest_of(made): made}


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, "+gzip": gzip.compress, "+zstd": zstd.compress}


@pytest.mark.parametrize("layering", ["keep", "merge"])
async def test_media_types_that_lie(
    runtime: EngineRuntime, server: ScriptedServer, layering: Layering
) -> None:
    """THREATS I14: whatever compression a media type claims, the layer's first bytes decide, and it runs.

    Where the engine goes by the media type, it refuses the image, and that is told.
    """
    trusting = runtime._client.capabilities.image_store == "containerd"
    for number, (said, real) in enumerate(permutations(PACKED, 2)):
        diff_ids = [digest_of(programs()), digest_of(OWN)]
        contents = make_image(f"liar{number}", "1", [programs(), PACKED[real](OWN)], diff_ids=diff_ids)

        def lie(document: dict[str, Any], said: str = said) -> None:
            document["layers"][1]["mediaType"] = LAYER + said

        changed(contents, "1", lie)
        serve_image(server, contents)
        image = f"{server.origin}/liar{number}:1"
        try:
            await runtime.pull(image, layering=layering)
        except ar.ImageLoadFailed:
            assert trusting, (said, real)
        else:
            assert await printed(runtime, image, "/own") == b"mine", (said, real)


async def test_names_in_an_image(
    runtime: EngineRuntime, server: ScriptedServer, store: ar.ImageStore, tmp_path: Path
) -> None:
    """THREATS I9: no name within an image becomes a name in the engine or the store, or a host path."""
    victim = f"{server.origin}/victim:1"
    serve_image(server, make_image("victim", "1", [programs()]))
    await runtime.pull(victim)
    before = await runtime.inspect(victim)
    evil = {
        "org.opencontainers.image.ref.name": victim,
        "io.containerd.image.name": victim,
        "org.opencontainers.image.title": "../../../../escaped",
    }
    saved = json.dumps([{"Config": "x.json", "RepoTags": [victim], "Layers": []}]).encode()
    contents = make_image("evil", "1", [tar_of("manifest.json", saved), tar_of("repositories", b"{}"), OWN])

    def name(document: dict[str, Any]) -> None:
        document |= {"annotations": evil, "RepoTags": [victim]}
        for descriptor in (document["config"], *document["layers"]):
            descriptor["annotations"] = evil

    changed(contents, "1", name)
    manifest = contents["/v2/evil/manifests/1"]
    index_type = "application/vnd.oci.image.index.v1+json"
    listed = {
        "mediaType": json.loads(manifest)["mediaType"],
        "digest": digest_of(manifest),
        "size": len(manifest),
        "annotations": evil,
    }
    index = {"schemaVersion": 2, "mediaType": index_type, "manifests": [listed], "annotations": evil}
    contents["/v2/evil/manifests/2"] = json.dumps(index).encode()
    serve_image(server, contents)
    for tag in ("1", "2"):
        await runtime.pull(f"{server.origin}/evil:{tag}")
    await runtime.pull(f"{server.origin}/evil:1", layering="merge")

    held = await runtime._client.json("GET", "/images/json")
    ours = {victim, f"{server.origin}/evil:1", f"{server.origin}/evil:2"}
    names = {name for image in held for name in image["RepoTags"] or ()}
    # An engine may still hold what it could not unpack for an earlier test, under a name of that test.
    assert {name for name in names if name.startswith(server.origin) or "escaped" in name} == ours
    assert (await runtime.inspect(victim)).id == before.id
    assert set(await store.references()) == ours
    assert list(tmp_path.parent.rglob("*escaped*")) == []


@pytest.mark.slow
async def test_one_layer_300_times(runtime: EngineRuntime, server: ScriptedServer) -> None:
    """THREATS I11: an image that names one layer 300 times runs; the layer is asked for once."""
    contents = make_image("same", "1", [programs(), *[OWN] * 300])
    routes = serve_image(server, contents)
    image = f"{server.origin}/same:1"

    await runtime.pull(image)

    assert await printed(runtime, image, "/own") == b"mine"
    assert len(routes[f"/v2/same/blobs/{digest_of(OWN)}"][0].hits) == 1


SECRET = tar_of("secret", b"secret")
BASE, MIDDLE = tar_of("base", b"b"), tar_of("middle", b"m")
# The blobs of an image, and which layers its config claims that they are.
LIES: dict[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {
    "another's": ((BASE, OWN), (programs(), SECRET)),
    "another's top": ((programs(), OWN), (programs(), SECRET)),
    "another's below its own": ((BASE, MIDDLE, OWN), (programs(), SECRET, OWN)),
    "another's top below its own": ((programs(), MIDDLE, OWN), (programs(), SECRET, OWN)),
    "the first twice": ((programs(), OWN), (programs(), programs())),
    "none": ((programs(), OWN), ()),
    "one too few": ((programs(), OWN), (programs(),)),
    "one too many": ((programs(), OWN), (programs(), OWN, SECRET)),
}


@pytest.mark.parametrize("layering", ["keep", "merge"])
async def test_diff_ids_that_lie(runtime: EngineRuntime, server: ScriptedServer, layering: Layering) -> None:
    """THREATS I2: a config that claims layers that the image's blobs are not gets none of them.

    The engine holds them, from an image of somebody else.
    """
    victim = f"{server.origin}/victim:1"
    serve_image(server, make_image("victim", "1", [programs(), SECRET]))
    await runtime.pull(victim)
    for number, (blobs, claimed) in enumerate(LIES.values()):
        name = f"liar{number}"
        serve_image(server, make_image(name, "1", blobs, diff_ids=[*map(digest_of, claimed)]))
        image = f"{server.origin}/{name}:1"
        wrong = ar.InvalidManifest if len(claimed) != len(blobs) else ar.DigestMismatch
        if claimed == (programs(), programs()):
            # What it claims is its own: which error tells is the engine's.
            with suppress(ar.ImageLoadFailed, ar.DigestMismatch):
                await runtime.pull(image, layering=layering)
            continue
        with pytest.raises(wrong):
            await runtime.pull(image, layering=layering)
        with pytest.raises(ar.ImageNotFound):
            await runtime.inspect(image)

    assert await printed(runtime, victim, "/secret") == b"secret"


async def test_a_lie_that_came_first(runtime: EngineRuntime, server: ScriptedServer) -> None:
    """THREATS I2: nor can an image that was there first put its own layer in another's place."""
    serve_image(server, make_image("victim", "1", [programs(), SECRET]))
    diff_ids = [*map(digest_of, (programs(), SECRET, OWN))]
    serve_image(server, make_image("liar", "1", [programs(), MIDDLE, OWN], diff_ids=diff_ids))
    with suppress(ar.ImageLoadFailed, ar.DigestMismatch):
        await runtime.pull(f"{server.origin}/liar:1")

    await runtime.pull(f"{server.origin}/victim:1")

    assert await printed(runtime, f"{server.origin}/victim:1", "/secret") == b"secret"


async def test_settings_that_are_bait(runtime: EngineRuntime, server: ScriptedServer, engine: Engine) -> None:
    """THREATS I8, I10: what an image asks for goes to the engine unread, and its labels don't stand for ours.

    A user of 2^32 - 2 and a directory behind a descriptor are the engine's to judge; that fails as any run.
    """
    contents = make_image("bait", "1", [programs()])
    settings = {
        "User": "4294967294",
        "WorkingDir": "/proc/self/fd/7",
        "Volumes": {"/data": {}},
        "Labels": {"aioruntime.owner": "somebody", "other": "kept"},
    }

    def ask_for(document: dict[str, Any]) -> None:
        base = "/v2/bait/blobs/"
        config = json.loads(contents[base + document["config"]["digest"]]) | {"config": settings}
        made = json.dumps(config).encode()
        contents[base + digest_of(made)] = made
        document["config"] |= {"digest": digest_of(made), "size": len(made)}

    changed(contents, "1", ask_for)
    serve_image(server, contents)
    image = f"{server.origin}/bait:1"

    await runtime.pull(image)

    image_id = str((await runtime.inspect(image)).id)
    held = await runtime._client.json("GET", f"/images/{image_id}/json")
    assert {name: held["Config"][name] for name in settings} == settings
    with pytest.raises(ar.RunError):
        await runtime.run(ar.RunSpec(image, ["/bin/cat"], capture_output=True))
    body = docker_body(ar.RunSpec(image, ["/bin/cat"]), image_id, {"aioruntime.owner": "us"}, None)
    labels = json.loads(made_container(engine, body))["Config"]["Labels"]
    assert labels.items() >= {"aioruntime.owner": "us", "other": "kept"}.items()


def made_container(engine: Engine, body: dict[str, Any]) -> bytes:
    """What the engine tells of a container made of this body; it is removed again."""
    headers = {"Content-Type": "application/json"}
    status, answer = ask(
        engine.socket, "POST", "/v1.40/containers/create", body=json.dumps(body).encode(), headers=headers
    )
    assert status == 201, answer
    path = f"/v1.40/containers/{json.loads(answer)['Id']}"
    told = ask(engine.socket, "GET", f"{path}/json")[1]
    ask(engine.socket, "DELETE", f"{path}?force=true")
    return told
