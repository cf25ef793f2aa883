from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from aioruntime.engine.api_version import negotiate
from aioruntime.engine.attach import attach
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.images import load_image, pull_image
from aioruntime.errors import EngineError, EngineUnavailable, ImageLoadFailed, ImageNotFound, StreamTruncated
from tests.engine import documents
from tests.support.scripted import Fault, Reply, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"),
    [("1.41", "1.12", "1.41"), ("1.40", None, "1.40"), ("1.55", "1.40", "1.51"), ("1.52", "1.51", "1.51")],
)
def test_api_version(newest: str, oldest: str | None, chosen: str) -> None:
    """The newest API version that both sides speak is chosen."""
    assert negotiate(newest, oldest) == chosen


@pytest.mark.parametrize(
    ("newest", "oldest", "advice"),
    [
        ("1.39", "1.12", "update the engine"),
        ("2.3", "2.0", "update aioruntime"),
        ("x", None, "not an engine"),
    ],
)
def test_api_version_out_of_range(newest: str, oldest: str | None, advice: str) -> None:
    """Where the ranges do not meet, the message says which side is too old."""
    with pytest.raises(EngineUnavailable, match=advice):
        negotiate(newest, oldest)


async def archive(pieces: int = 3) -> AsyncIterator[bytes]:
    for _ in range(pieces):
        yield b"x" * 65536


async def test_nothing_there(tmp_path: Path) -> None:
    """A socket that does not answer is told with its address and where that came from."""
    with pytest.raises(EngineUnavailable, match=r"unix://.*nothing \(DOCKER_HOST\)"):
        async with EngineClient.open(Endpoint(f"unix://{tmp_path}/nothing", "DOCKER_HOST")):
            pass


async def test_not_an_engine(server: ScriptedServer) -> None:
    """A web server that is no engine is not taken for one."""
    async with ScriptedServer() as other:
        other.on("GET", "/version", Reply(404, body=b"<html>"))
        with pytest.raises(EngineUnavailable, match="no usable engine"):
            async with EngineClient.open(Endpoint(other.url, "test")):
                pass


async def test_refusal_has_the_engines_words(server: ScriptedServer, fake: EngineClient) -> None:
    """A refusal carries its status and the engine's words, made safe to show."""
    server.on("GET", "/v1.41/x", Reply(409, body=b'{"message": "in\\nuse"}'))
    with pytest.raises(EngineError, match="GET /x: in use") as caught:
        await fake.json("GET", "/x")
    assert caught.value.status == 409


async def test_no_answer_in_time(server: ScriptedServer, fake: EngineClient) -> None:
    """A call that gets no answer says which it was and how long it waited."""
    stall = Fault("stall", of="response")
    server.on("GET", "/v1.41/x", Reply(faults=(stall,)))
    with pytest.raises(EngineUnavailable, match=r"GET /x: no answer .* within 0\.05 s"):
        await fake.json("GET", "/x", timeout=0.05)


async def test_cut_answer(server: ScriptedServer, fake: EngineClient) -> None:
    """An answer that is cut is never taken for a complete one."""
    cut = Fault("cut", 5)
    server.on("GET", "/v1.41/x", Reply(body=b'{"a": 1}', framing="chunked", chunk=4, faults=(cut,)))
    with pytest.raises(StreamTruncated, match="GET /x"):
        await fake.json("GET", "/x")


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b'{"stream":"Loading"}\n{"errorDetail":{"message":"bad tar"},"error":"bad tar"}'),
        Reply(body=b'{"stream":"Error unpacking image: bad tar"}'),
        Reply(500, body=b'{"cause":"x","message":"bad tar"}'),
        Reply(400, body=b"bad tar"),
    ],
)
async def test_load_refused(server: ScriptedServer, fake: EngineClient, reply: Reply) -> None:
    """However an engine tells that it did not take an image, it is ImageLoadFailed with its words."""
    server.on("POST", "/v1.41/images/load", reply)
    with pytest.raises(ImageLoadFailed, match="bad tar"):
        await load_image(fake, archive())


@pytest.mark.parametrize("fault", [Fault("cut", 5), Fault("reset", 12)])
async def test_load_answer_cut(server: ScriptedServer, fake: EngineClient, fault: Fault) -> None:
    """A load whose answer breaks off has failed."""
    body = b'{"stream":"Loaded image: x"}'
    server.on("POST", "/v1.41/images/load", Reply(body=body, framing="chunked", faults=(fault,)))
    with pytest.raises(ImageLoadFailed):
        await load_image(fake, archive())


@pytest.mark.parametrize("keep_open", [False, True])
async def test_early_answer(tmp_path: Path, keep_open: bool) -> None:
    """An engine that refuses while the image is still being sent is heard, and nothing waits for ever."""
    version, info, _ = documents.DOCKER_20
    replies = {b"/version": version, b"/v1.41/info": info}
    done, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        document = replies.get(head.split()[1])
        body = json.dumps(document or {"message": "disk full"}).encode()
        status = b"200 OK" if document else b"500 Error"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        if keep_open and not document:
            await done.wait()
        writer.close()
        closed.set()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)

    async with await asyncio.start_unix_server(serve, tmp_path / "s"):
        async with EngineClient.open(Endpoint(f"unix://{tmp_path}/s", "test")) as client:
            with pytest.raises(ImageLoadFailed, match=r"disk full|closed the connection"):
                await load_image(client, endless())
        closed.clear()
        done.set()
        if keep_open:
            await closed.wait()


async def test_pull_error_within_the_stream(server: ScriptedServer, fake: EngineClient) -> None:
    """An error inside a pull's answer of status 200 is raised."""
    body = b'{"status":"x"}{"errorDetail":{"message":"denied"}}'
    server.on("POST", "/v1.41/images/create", Reply(body=body))
    with pytest.raises(EngineError, match="denied"):
        await pull_image(fake, "example.com/a")
    assert "fromImage=example.com/a:latest" in server.requests[-1].query


async def test_pull_cut(server: ScriptedServer, fake: EngineClient) -> None:
    """A pull whose answer ends within a message is StreamTruncated."""
    server.on("POST", "/v1.41/images/create", Reply(body=b'{"status":"x"}{"stat'))
    with pytest.raises(StreamTruncated):
        await pull_image(fake, "example.com/a:1")


async def test_pull_progress(server: ScriptedServer, fake: EngineClient) -> None:
    """Bytes are summed over the layers; units that are no bytes are left out."""
    lines = [
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 1, "total": 10}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 2, "total": 20}},
        {"status": "Extracting", "id": "a", "progressDetail": {"current": 9, "units": "s"}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 10}},
    ]
    body = "\n".join(map(json.dumps, lines)).encode()
    server.on("POST", "/v1.41/images/create", Reply(body=body, framing="chunked", chunk=7))
    told: list[tuple[int | None, int | None]] = []
    await pull_image(fake, "example.com/a:1", lambda _, done, total: told.append((done, total)))
    assert told == [(1, 10), (3, 30), (12, 30)]


async def test_pull_of_an_absent_image(server: ScriptedServer, fake: EngineClient) -> None:
    """An image that the registry does not have is ImageNotFound."""
    server.on("POST", "/v1.41/images/create", Reply(404, body=b'{"message":"manifest unknown"}'))
    with pytest.raises(ImageNotFound, match="manifest unknown"):
        await pull_image(fake, "example.com/a:1")


async def test_attach_cut_within_a_frame(server: ScriptedServer, fake: EngineClient) -> None:
    """Output that is cut within a frame is handed out as far as it came, then told to be cut."""
    body = b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x05he"
    reply = Reply(raw=b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\n" + body, close=True)
    server.on("POST", "/v1.41/containers/c/attach", reply)
    found = b""
    async with attach(fake, "c") as output:
        while len(found) < 7:
            found += (await anext(output)).data
        with pytest.raises(StreamTruncated):
            await anext(output)
    assert found == b"hellohe"


async def test_attach_refused(server: ScriptedServer, fake: EngineClient) -> None:
    """A refusal to attach has the engine's words, also when the engine keeps the connection open."""
    server.on("POST", "/v1.41/containers/c/attach", Reply(409, body=b'{"message":"no such command"}'))
    with pytest.raises(EngineError, match=r"no such command \(409\)"):
        async with attach(fake, "c"):
            pass


@pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")
async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_TLS_VERIFY and DOCKER_CERT_PATH make a tcp:// address TLS, verified, for calls and streams."""
    names = (
        f"-keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    )
    command = f"openssl req -x509 -newkey ed25519 -nodes -days 2 {names}"
    subprocess.run(command.split(), check=True, capture_output=True)  # noqa: ASYNC221
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    version, info, _ = documents.DOCKER_20
    async with ScriptedServer(tls=context) as server:
        server.on("GET", "/version", Reply(body=json.dumps(version).encode()))
        server.on("GET", "/v1.41/info", Reply(body=json.dumps(info).encode()))
        raw = b"HTTP/1.1 101 UPGRADED\r\n\r\n\x01\0\0\0\0\0\0\x02hi"
        server.on("POST", "/v1.41/containers/c/attach", Reply(raw=raw, close=True))
        endpoint = Endpoint(f"tcp://{server.origin}", "DOCKER_HOST")
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "none"))
        with pytest.raises(EngineUnavailable, match=r"(?i)certificate"):
            async with EngineClient.open(endpoint):
                pass
        (tmp_path / "ca.pem").symlink_to("cert.pem")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        async with EngineClient.open(endpoint) as client, attach(client, "c") as output:
            assert [piece.data async for piece in output] == [b"hi"]
