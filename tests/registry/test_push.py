"""Pushing: what is sent in which order, and how faults on the way are met."""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.errors import (
    DigestMismatch,
    LayersMissing,
    NotFound,
    RateLimited,
    RegistryError,
    RequestRefused,
    Unauthorized,
)
from aioruntime.oci.reference import OciRef
from aioruntime.registry import uploads
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import Credentials, Secret
from aioruntime.registry.uploads import chunk_size, received
from tests.registry.helpers import image_at
from tests.registry.uploads import Image, InstantClock, Taker
from tests.support.leaks import assert_settles, snapshot
from tests.support.registries import OneKey
from tests.support.said import Said
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import digest_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioruntime.oci.digest import ImageDigest
    from tests.support.scripted import Request

CHUNK = 1000
LARGE = random.Random(1).randbytes(2500)
PLACE = re.compile(r"/v2/org/tool/blobs/uploads/\d+\?.*")
BEGIN = "/v2/org/tool/blobs/uploads/"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have blobs sent in small pieces."""
    monkeypatch.setattr(uploads, "_CHUNK", CHUNK)


@pytest.fixture
def taker(server: ScriptedServer) -> Taker:
    return Taker(server)


async def push(server: ScriptedServer, image: Image, name: str = "org/tool:1", **options: Any) -> Any:
    """Push with a client of its own that does not wait."""
    of_push = {name: options.pop(name) for name in ("mounts", "progress") if name in options}
    async with RegistryClient(**{"clock": InstantClock(), **options}) as client:
        return await client.push(
            image_at(server, name), image.manifest, image.media_type, image.blobs, image, **of_push
        )


def assert_taken(taker: Taker, image: Image) -> None:
    assert taker.blobs == image.data
    assert taker.manifests == {"1": (image.media_type, image.manifest)}
    assert taker.uploads == {}
    assert image.open == 0


async def test_in_pieces(taker: Taker, server: ScriptedServer) -> None:
    """A large blob goes up in pieces, a small one whole, then the manifest by its type, byte for byte."""
    image, said = Image(LARGE, piece=300), Said()

    assert await push(server, image, progress=said) == image.digest

    assert_taken(taker, image)
    sent = taker.sent("PATCH")
    assert [request.header("Content-Range") for request in sent] == ["0-999", "1000-1999", "2000-2499"]
    assert {request.header("Content-Type") for request in sent} == {"application/octet-stream"}
    assert {request.header("Transfer-Encoding") for request in server.requests} == {None}
    assert sorted(len(request.body) for request in taker.sent("PUT")[:-1]) == [0, 40]
    assert server.requests[-1].path == "/v2/org/tool/manifests/1"
    assert said.last == f"{image_at(server)}: 2 of 2 blobs sent (2540 bytes), 0 mounted"


async def test_what_is_there_is_not_sent(taker: Taker, server: ScriptedServer) -> None:
    """Pushed again, each blob is asked for and none is sent."""
    image, said = Image(LARGE, b"", b"x" * CHUNK, b"y" * (CHUNK + 1)), Said()
    await push(server, image)
    before = len(server.requests)

    await push(server, image, progress=said)

    assert [request.method for request in server.requests[before:]] == ["HEAD"] * 5 + ["PUT"]
    assert_taken(taker, image)
    assert ": 0 of 5 blobs sent (0 bytes)" in said.last


async def test_mounts(taker: Taker, server: ScriptedServer) -> None:
    """A blob that another repository has is mounted; a registry that does not mount it is sent it."""
    image = Image(LARGE, b"other")
    _, large, other = image.data
    taker.mountable.add(large)

    await push(server, image, mounts={large: "org/base", other: "org/base"})

    assert {request.query for request in taker.sent("POST")} == {
        f"mount={large}&from=org/base",
        f"mount={other}&from=org/base",
        "",
    }
    assert len(taker.sent("POST")) == 3
    assert taker.blobs == {**image.data, large: b"mounted"}


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_mounting_is_refused(server: ScriptedServer, status: int) -> None:
    """A registry that answers an error to a mount is asked for an upload without."""
    server.on("POST", re.compile(r".*mount=.*"), Reply(status))
    taker, image = Taker(server), Image(LARGE)

    await push(server, image, mounts=dict.fromkeys(image.data, "org/base"))

    assert_taken(taker, image)


@pytest.mark.parametrize("piece", [0, 1, 2])
@pytest.mark.parametrize("kept", [0, 1, 2, 250, 499, 500])
async def test_cut(taker: Taker, server: ScriptedServer, piece: int, kept: int) -> None:
    """An upload that breaks at the first byte, in the middle or at the last byte goes on where it was."""
    taker.keep = [*[None] * piece, kept]
    image = Image(LARGE)

    await push(server, image)

    assert_taken(taker, image)
    anew = piece == 0 and kept < 2
    assert taker.begun == (3 if anew else 2)
    assert taker.abandoned == (1 if anew else 0)
    sent = [len(request.body) for request in taker.sent("PATCH")]
    assert sum(sent) == len(LARGE) + sent[piece] - (0 if anew else kept)


async def test_cut_again_and_again(taker: Taker, server: ScriptedServer) -> None:
    """Breaks with progress between them may be many; without, the upload is given up after a while."""
    image = Image(LARGE)
    taker.keep = [100] * 20

    await push(server, image)

    assert_taken(taker, image)
    taker.blobs.clear()
    taker.keep = [None, *[0] * 100]
    clock, before = InstantClock(), len(taker.sent("PATCH"))
    with pytest.raises(RegistryError, match=rf"{server.origin}.*broke"):
        await push(server, image, clock=clock)

    assert 4 <= len(taker.sent("PATCH")) - before <= 4 * 4
    assert 0 < min(clock.slept) < max(clock.slept) <= 8
    assert taker.uploads == {}
    assert "2" not in taker.manifests


async def test_the_upload_is_lost(server: ScriptedServer) -> None:
    """A registry that knows nothing of the upload any more gets a new one, and the whole blob."""
    server.on("GET", PLACE, Reply(404), times=1)
    taker, image = Taker(server), Image(LARGE)
    taker.keep = [None, 500]

    await push(server, image)

    assert_taken(taker, image)
    assert taker.abandoned == 1


async def test_the_last_answer_is_lost(server: ScriptedServer) -> None:
    """A blob that the registry took without being able to say so is not sent again."""

    playing: list[Taker] = []

    def take(request: Request) -> Reply:
        playing[0]._finish(request)
        return Reply(faults=(Fault("cut", of="response"),))

    server.on("PUT", PLACE, take, times=2)
    taker, image = Taker(server), Image(LARGE)
    playing.append(taker)

    await push(server, image)

    assert_taken(taker, image)
    assert taker.begun == 2


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
async def test_errors_of_the_server(server: ScriptedServer, method: str) -> None:
    """408, 429 and 5xx are met by trying again, whatever was asked, in pieces as before."""
    replies = (Reply(429, {"Retry-After": "7"}), Reply(408), Reply(500), Reply(502), Reply(503))
    server.on(method, re.compile(r".*/blobs/.*"), *replies, times=len(replies))
    taker, image, clock = Taker(server), Image(LARGE), InstantClock()

    await push(server, image, clock=clock)

    assert_taken(taker, image)
    assert sum(clock.slept) >= 7
    assert max(len(request.body) for request in taker.sent("PATCH", "PUT")) <= CHUNK


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_errors_without_end(server: ScriptedServer, method: str, status: int) -> None:
    """A server that fails for ever is given up with its status, and the manifest is not sent."""
    server.on(method, re.compile(r".*/blobs/.*"), Reply(status))
    taker, clock = Taker(server), InstantClock()

    with pytest.raises(RegistryError, match=server.origin) as caught:
        await push(server, Image(LARGE), clock=clock)

    assert caught.value.status == status
    assert isinstance(caught.value, RateLimited) is (status == 429)
    assert len(taker.sent(method)) <= 16
    assert taker.manifests == {}
    assert taker.uploads == {}
    assert clock.slept


@pytest.mark.parametrize("status", [400, 403, 404, 413])
async def test_refused(server: ScriptedServer, status: int) -> None:
    """A registry that refuses an upload is not asked again; its own code and words are told."""
    body = b'{"errors": [{"code": "DENIED", "message": "quota exceeded"}]}'
    server.on("POST", BEGIN, Reply(status, body=body))
    kinds: dict[int, type[RegistryError]] = {403: Unauthorized, 404: NotFound}
    kind = kinds.get(status, RegistryError)
    Taker(server)

    with pytest.raises(kind, match="quota exceeded") as caught:
        await push(server, Image())

    assert (caught.value.status, caught.value.code) == (status, "DENIED")
    assert len(server.requests) == 2


async def test_one_416(server: ScriptedServer) -> None:
    """A piece that the registry calls out of order once does not end the push."""
    server.on("PATCH", PLACE, Reply(416), times=1)
    taker, image = Taker(server), Image(LARGE)

    await push(server, image)

    assert_taken(taker, image)


@pytest.mark.parametrize("state", ["0", "1000"])
@pytest.mark.parametrize("status", [400, 404, 405, 416])
async def test_no_pieces(server: ScriptedServer, status: int, state: str) -> None:
    """A registry that takes no pieces, or one, is sent whole blobs, and not tried by pieces again."""
    server.on("PATCH", re.compile(rf".*_state={state}"), Reply(status))
    taker, image = Taker(server), Image(LARGE, *(LARGE[:size] for size in range(2000, 2020)), piece=300)

    await push(server, image)

    assert_taken(taker, image)
    assert len(taker.sent("PATCH")) <= 2 * 8
    assert LARGE in [request.body for request in taker.sent("PUT")]


async def test_larger_pieces(taker: Taker, server: ScriptedServer) -> None:
    """Pieces are no smaller than the registry wants them."""
    taker.headers = {"OCI-Chunk-Min-Length": "1500"}
    await push(server, Image(LARGE, piece=400))

    assert [len(request.body) for request in taker.sent("PATCH")] == [1500, 1000]


@pytest.mark.parametrize(
    ("told", "size"),
    [("", CHUNK), ("1", CHUNK), ("-1", CHUNK), ("2000", 2000), ("9" * 19, 32 << 20), ("9" * 5000, CHUNK)],
)
def test_chunk_size(told: str, size: int) -> None:
    """A registry may ask for larger pieces, but not for any amount of our memory."""
    assert chunk_size({"OCI-Chunk-Min-Length": told}) == size


@pytest.mark.parametrize(
    ("told", "held"),
    [("", None), ("0-0", 1), ("0-99", 100), ("bytes=0-99", 100), ("1-2", None), ("0-" + "9" * 99, None)],
)
def test_received(told: str, held: int | None) -> None:
    """What a registry has is read from its Range, in either form."""
    assert received({"Range": told}) == held


@pytest.mark.parametrize("held", ["0-5000", "0-999", "0-500"])
async def test_a_range_that_can_not_be(server: ScriptedServer, held: str) -> None:
    """A registry that claims more than it was sent, or less than before, is not believed for ever."""
    server.on("PATCH", re.compile(r".*_state=1000"), Reply(202, {"Range": held}))
    taker, image = Taker(server), Image(LARGE)

    with pytest.raises(RegistryError, match=r"has \d+ bytes, and was sent 1000 to 2000"):
        await push(server, image)

    assert taker.manifests == {}
    assert taker.uploads == {}


async def test_place_at_another_origin(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R7: an upload that goes on at another origin carries no Authorization there, and gets none."""
    image = Image(b"data")
    basic = {"WWW-Authenticate": 'Basic realm="x"'}
    server.on("*", re.compile(".*"), Reply(401, basic), requires={"Authorization": None})
    server.on("HEAD", re.compile(".*"), Reply(404))
    server.on("POST", BEGIN, Reply(202, {"Location": f"{other.url}/up?sig=canary"}))
    server.on("PUT", "/v2/org/tool/manifests/1", Reply(201))
    other.on("PUT", "/up", Reply(201), Reply(201), Reply(401, basic))
    other.on("DELETE", "/up", Reply(401, basic))
    key = OneKey(Credentials("user", Secret("canary")))

    await push(server, image, keychain=key)
    with pytest.raises(Unauthorized, match=other.origin) as caught:
        await push(server, image, keychain=key)

    assert {r.header("Authorization") for r in other.requests} == {None}
    assert other.requests[0].target.startswith("/up?sig=canary&digest=sha256%3A")
    assert "canary" not in str(caught.value)
    assert [r.method for r in server.requests if r.header("Authorization")][-1] == "POST"


@pytest.mark.parametrize(
    "location",
    [
        "http://user:pw@127.0.0.1/x",
        "file:///etc/passwd",
        "http://registry.example/x",
        "https://169.254.169.254/x",
        "https://10.0.0.1/x",
        "/a b",
        "",
    ],
)
async def test_place_is_refused(server: ScriptedServer, location: str) -> None:
    """THREATS R7: an upload is not sent to where no request may go."""
    server.on("POST", BEGIN, Reply(202, {"Location": location}))
    Taker(server)

    with pytest.raises(RequestRefused) as caught:
        await push(server, Image(b"data"))

    assert {request.method for request in server.requests} == {"HEAD", "POST"}
    assert "pw" not in str(caught.value)


async def test_no_place(server: ScriptedServer) -> None:
    """A registry that begins an upload nowhere is told of."""
    server.on("POST", BEGIN, Reply(202))
    Taker(server)

    with pytest.raises(RegistryError, match=rf"{server.origin} tells no place to upload to"):
        await push(server, Image())


@pytest.mark.parametrize("size", [1, 60_000, 1_000_000])
async def test_the_manifest_is_refused(server: ScriptedServer, size: int) -> None:
    """THREATS R22: of what a registry says, however long and wild, one short plain line is told."""
    words = "\x1b[31mno\r\nsuch thing " + "x" * size
    body = json.dumps({"errors": [{"code": "MANIFEST_INVALID", "message": words}]}).encode()
    server.on("PUT", "/v2/org/tool/manifests/1", Reply(400, body=body))
    Taker(server)

    with pytest.raises(RegistryError, match="400") as caught:
        await push(server, Image(b"data"))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert caught.value.status == 400
    if size < 64 << 10:
        assert caught.value.code == "MANIFEST_INVALID"
        assert "such thing" in str(caught.value)


@pytest.mark.parametrize("where", ["blobs/uploads", "manifests"])
async def test_another_digest(server: ScriptedServer, where: str) -> None:
    """A registry that says that it has taken something else is not believed to have the image."""
    lie = {"Docker-Content-Digest": digest_of(b"something else")}
    server.on("PUT", re.compile(rf".*/{where}/.*"), Reply(201, lie))
    Taker(server)

    with pytest.raises(DigestMismatch, match=f"{server.origin} says that it has taken") as caught:
        await push(server, Image(b"data"))

    assert caught.value.actual == digest_of(b"something else")


async def test_names(taker: Taker, server: ScriptedServer) -> None:
    """A digest in the name has to be the manifest's; the manifest is put by the tag, else by the digest."""
    image, wrong = Image(b"data"), digest_of(b"other")
    with pytest.raises(DigestMismatch):
        await push(server, image, f"org/tool@{wrong}")
    assert server.requests == []

    for name in (f"org/tool@{image.digest}", f"org/tool:a@{image.digest}", "org/tool"):
        assert await push(server, image, name) == image.digest

    assert list(taker.manifests) == [image.digest, "a", "latest"]


async def test_large_manifest(taker: Taker, server: ScriptedServer) -> None:
    """A manifest of several MiB goes out whole."""
    image = Image(b"data")
    image.manifest += b" " * (3 << 20)

    await push(server, image)

    assert taker.manifests["1"][1] == image.manifest


def challenge(server: ScriptedServer) -> dict[str, str]:
    parameters = f'realm="{server.url}/token",service="s",scope="repository:org/tool:pull"'
    return {"WWW-Authenticate": f"Bearer {parameters}"}


@pytest.mark.parametrize("at", ["HEAD", "PATCH", "PUT"])
async def test_token(server: ScriptedServer, at: str) -> None:
    """A token is asked for with leave to push; if it expires, the body is sent again with another."""
    refusal = Reply(401, challenge(server))
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}'), Reply(body=b'{"token": "t2"}'))
    server.on("*", re.compile("/v2/.*"), Reply(401, challenge(server)), requires={"Authorization": None})
    if at != "HEAD":
        server.on(at, re.compile("/v2/.*"), refusal, requires={"Authorization": "Bearer t1"})
    taker, image = Taker(server), Image(LARGE)

    await push(server, image)

    assert_taken(taker, image)
    asked = [request.query for request in server.requests if request.path == "/token"]
    assert set(asked) == {"service=s&scope=repository%3Aorg%2Ftool%3Apull%2Cpush"}
    assert len(asked) == (1 if at == "HEAD" else 2)
    assert taker.begun == 2


async def test_token_for_mounting(server: ScriptedServer) -> None:
    """For a mount, the token has to allow pulling from the other repository too."""
    server.on("GET", "/token", Reply(body=b'{"token": "t1"}'))
    server.on("*", re.compile("/v2/.*"), Reply(401, challenge(server)), requires={"Authorization": None})
    taker, image = Taker(server), Image()
    taker.mountable |= image.data.keys()

    await push(server, image, mounts=dict.fromkeys(image.data, "org/base"))

    asked = [request.query for request in server.requests if request.path == "/token"]
    assert asked[-1].endswith(
        "&scope=repository%3Aorg%2Ftool%3Apull%2Cpush&scope=repository%3Aorg%2Fbase%3Apull"
    )
    assert taker.begun == 0


async def test_a_body_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that stops reading is given up after the stall timeout."""
    monkeypatch.setattr(uploads, "_CHUNK", 32 << 20)  # more than fits into the buffers of a connection
    before = snapshot()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = {
            b"HEAD": b"404 Not Found\r\n",
            b"POST": b"202 Accepted\r\nLocation: /up\r\nContent-Length: 0\r\n",
            b"DELE": b"204 No Content\r\n",
        }
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head[:4] not in answers:
                    await asyncio.sleep(3600)
                writer.write(b"HTTP/1.1 " + answers[head[:4]] + b"\r\n")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    data = bytes(30 << 20)
    image = Image(data)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        host = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with RegistryClient(clock=InstantClock(), stall_timeout=0.2) as client:
            name = OciRef.parse(f"{host}/org/tool:1")
            with pytest.raises(RegistryError, match=f"{host} did not answer within 0.2 s"):
                await client.push(name, image.manifest, image.media_type, image.blobs[1:], image)
        for task in asyncio.all_tasks() - before.tasks - {asyncio.current_task()}:
            task.cancel()

    await assert_settles(before)
    assert image.open == 0


async def test_a_blob_is_missing(taker: Taker, server: ScriptedServer) -> None:
    """What can't be read here ends the push with that error; the upload is given up, no manifest is sent."""

    class Broken(Image):
        async def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes, None]:
            async for data in super().stream(digest, size):
                yield data[:1500]
                raise LayersMissing("gone", digests=[digest])

    with pytest.raises(LayersMissing, match="gone"):
        await push(server, Broken(LARGE))

    assert taker.uploads == {}
    assert taker.manifests == {}


async def test_a_blob_is_missing_when_sent_whole(server: ScriptedServer) -> None:
    """Likewise where the registry takes no pieces."""
    server.on("PATCH", PLACE, Reply(405))
    taker = Taker(server)

    class Broken(Image):
        async def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes, None]:
            async for data in super().stream(digest, size):
                yield data
                if taker.begun == 3:
                    raise LayersMissing("gone", digests=[digest])

    with pytest.raises(LayersMissing, match="gone"):
        await push(server, Broken(LARGE, piece=300))

    assert taker.begun == 3
    assert taker.manifests == {}


async def test_several_at_once_but_not_all(server: ScriptedServer) -> None:
    """Eight blobs go up at once, the others wait."""
    stall = Fault("stall", of="response")
    server.on("POST", BEGIN, Reply(503, faults=(stall,)))
    Taker(server)
    image = Image(*(b"%d" % number for number in range(20)))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        task = group.create_task(push(server, image))
        while len([r for r in server.requests if r.method == "POST"]) < 8:
            await stall.reached.wait()
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # for those that should not come
        assert len(server.requests) == 16
        task.cancel()


async def test_cancelled_in_the_middle(server: ScriptedServer) -> None:
    """A push that is cancelled while it sends tells the registry to forget the upload, once."""
    stall = Fault("stall", of="response")
    server.on("PATCH", PLACE, Reply(202, faults=(stall,)))
    taker, image = Taker(server), Image(LARGE)
    task = asyncio.create_task(push(server, image))
    await stall.reached.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert taker.abandoned == 1
    assert taker.uploads == {}
    assert image.open == 0
