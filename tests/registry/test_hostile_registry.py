"""A registry that does all that it can to fail, or to harm whoever asks."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from aioruntime.assembly.fetch import fetch_layers
from aioruntime.errors import AioRuntimeError
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress
from aioruntime.registry.client import RegistryClient
from aioruntime.tasks import in_thread
from tests.registry.helpers import DATA, blob_path
from tests.support.canary import shown_by
from tests.support.leaks import assert_settles, snapshot
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import MANIFEST, digest_of, make_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioruntime.store.store import ImageStore

STALL = 0.2
DEADLINE = 40.0  # it takes 3 where nobody else uses the machine
GROWTH = 32 << 20

CONTENTS = make_image("org/tool", "1", [DATA])
RAW_MANIFEST = CONTENTS["/v2/org/tool/manifests/1"]
SECRET = "canary-4c1f7a"
TOKEN = b'{"token": "%s"}' % SECRET.encode()
TARGETS = {
    "token": ("/token", TOKEN),
    "manifest": (f"/v2/org/tool/manifests/{digest_of(RAW_MANIFEST)}", RAW_MANIFEST),
    "config": next(pair for pair in CONTENTS.items() if "/blobs/" in pair[0] and pair[0] != blob_path()),
    "layer": (blob_path(), DATA),
}


def places(data: bytes) -> tuple[int, int, int]:
    return 0, len(data) // 2, len(data) - 1


def at_each_place() -> dict[str, Callable[[bytes], list[Reply]]]:
    """What is done to a body at its first byte, in its middle and at its last byte."""

    def faulty(kind: str) -> Callable[[bytes], list[Reply]]:
        return lambda data: [Reply(body=data, faults=(Fault(kind, at),)) for at in places(data)]  # type: ignore[arg-type]

    def flipped(data: bytes) -> list[Reply]:
        return [Reply(body=data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) for at in places(data)]

    def shorter(data: bytes) -> list[Reply]:
        return [Reply(body=data[:at]) for at in places(data)]

    return {
        "cut": faulty("cut"),
        "reset": faulty("reset"),
        "stalls": faulty("stall"),
        "flipped": flipped,
        "shorter": shorter,
    }


def head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode()


BROKEN: dict[str, Callable[[bytes], Reply]] = {
    # R14, R15
    "longer": lambda data: Reply(body=data, extra=b"x" * 1000, declared=len(data) + 1000),
    "longer in chunks": lambda data: Reply(body=data + b"x" * 1000, framing="chunked"),
    "longer without a length": lambda data: Reply(body=data + b"x" * 100_000, framing="none", close=True),
    "gzip": lambda data: Reply(body=data, headers={"Content-Encoding": "gzip"}),
    "br": lambda data: Reply(body=data, headers={"Content-Encoding": "br"}),
    "zstd": lambda data: Reply(body=data, headers={"Content-Encoding": "zstd, identity"}),
    # R16
    "a range that nobody asked for": lambda data: Reply(
        206, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data
    ),
    "another range": lambda data: Reply(206, {"Content-Range": "bytes 5-9/10"}, b"x" * 5),
    # R13, R19
    "two lengths": lambda data: Reply(raw=head(f"Content-Length: {len(data)}", "Content-Length: 1") + data),
    "length and chunks": lambda data: Reply(
        raw=head(f"Content-Length: {len(data)}", "Transfer-Encoding: chunked") + data
    ),
    "a length below zero": lambda data: Reply(body=data, declared=-1),
    "a length of words": lambda data: Reply(body=data, declared="many"),
    "a length of 2^70": lambda data: Reply(body=data, declared=2**70, close=True),
    "a chunk without a size": lambda _: Reply(raw=head("Transfer-Encoding: chunked") + b"zz\r\nxx\r\n"),
    "a chunk of 2^80": lambda _: Reply(raw=head("Transfer-Encoding: chunked") + b"f" * 20 + b"\r\nxx\r\n"),
    "CR in the status": lambda data: Reply(raw=b"HTTP/1.1 200 O\rK\r\nContent-Length: 1\r\n\r\nx"),
    "no status": lambda data: Reply(raw=data),
    "a header of 1 MB": lambda data: Reply(body=data, headers={"X": "y" * 1_000_000}),
    "10^5 headers": lambda data: Reply(body=data, headers=tuple((f"X{n}", "y") for n in range(100_000))),
    "10^5 trailers": lambda data: Reply(
        raw=head("Transfer-Encoding: chunked") + b"0\r\n" + b"X: y\r\n" * 100_000
    ),
    "early answers without end": lambda _: Reply(raw=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000),
    "another protocol": lambda _: Reply(raw=b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03" * 10),
    # R18, R20, R22 and statuses that make no sense here
    "429 for a long time": lambda _: Reply(429, {"Retry-After": "1000000000"}),
    "429 since a past date": lambda _: Reply(429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
    "401 without end": lambda _: Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}),
    "401 with a broken challenge": lambda _: Reply(401, {"WWW-Authenticate": 'Bearer realm="x'}),
    "403": lambda _: Reply(403),
    "404 with control characters": lambda _: Reply(404, body=b'{"errors":[{"message":"\\u001b[2J\\n\\nx"}]}'),
    "500 of 1 MB": lambda _: Reply(500, body=b"x" * 1_000_000),
    "503": lambda _: Reply(503, {"Retry-After": "-5"}),
    "204": lambda _: Reply(204, framing="none"),
    "304": lambda _: Reply(304, framing="none"),
    "999": lambda data: Reply(999, body=data),
    # R5
    "to a file": lambda _: Reply(302, {"Location": "file:///etc/passwd"}),
    "to the metadata service": lambda _: Reply(302, {"Location": "http://169.254.169.254/latest"}),
    "to nowhere": lambda _: Reply(302),
    "to itself": lambda _: Reply(302, {"Location": "?again"}),
    "with a user name": lambda _: Reply(302, {"Location": "http://user:word@127.0.0.1/"}),
}
JSON: dict[str, bytes] = {
    "nested 10^5 deep": b'{"a":' * 100_000,
    "a number of 10^6 digits": b'{"schemaVersion": ' + b"9" * 1_000_000 + b"}",
    "not UTF-8": b'{"token": "\xff"}',
    "nothing": b"",
    "a list": b"[]",
    "a number": b"7",
}

CASES = [
    *(
        (target, f"{name} {place}", replies(TARGETS[target][1])[number])
        for target in TARGETS
        for name, replies in at_each_place().items()
        if (target, name) != ("token", "flipped")
        for number, place in enumerate(("at once", "in the middle", "at the end"))
    ),
    *((target, name, make(data)) for target, (_, data) in TARGETS.items() for name, make in BROKEN.items()),
    *(
        (target, name, Reply(body=data))
        for target in ("token", "manifest", "config")
        for name, data in JSON.items()
    ),
]


def test_there_are_enough() -> None:
    """THREATS T9: at least 150 cases."""
    assert len(CASES) >= 150


@pytest.fixture
async def server() -> ScriptedServer:
    """A registry whose answers each case changes; what is asked for besides is not looked at."""
    return ScriptedServer()


def serve(server: ScriptedServer, target: str, reply: Reply) -> None:
    authorized = {"Authorization": f"Bearer {SECRET}"}
    path, _ = TARGETS[target]
    server.on("*", path, reply, requires=None if target == "token" else authorized)
    for path, data in CONTENTS.items():
        headers = {"Content-Type": MANIFEST if "/manifests/" in path else "application/octet-stream"}
        server.on("GET", path, Reply(headers=headers, body=data), requires=authorized)
    server.on("GET", "/token", Reply(body=TOKEN))
    server.on("*", "/etc/passwd", Reply(404))


@pytest.mark.parametrize(("target", "name", "reply"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
async def test_a_hostile_registry(
    server: ScriptedServer,
    store: ImageStore,
    caplog: pytest.LogCaptureFixture,
    target: str,
    name: str,
    reply: Reply,
) -> None:
    """THREATS T9, T11: a typed error in time, or the right bytes; nothing wrong is kept, nothing left open.

    The cases are of R5, R13 to R20 and R22, each for a token, a manifest, a config and a layer.
    """
    caplog.set_level(logging.DEBUG)
    before, memory = snapshot(), resident()
    async with server:
        serve(server, target, reply)
        challenge = f'Bearer realm="{server.url}/token",service="s"'
        denied = Reply(401, {"WWW-Authenticate": challenge})
        server.on("*", TARGETS["manifest"][0], denied)
        server.on("*", blob_path(), denied)
        server.on("*", TARGETS["config"][0], denied)
        image = OciRef.parse(f"{server.origin}/org/tool@{digest_of(RAW_MANIFEST)}")
        failure: AioRuntimeError | None = None
        try:
            async with asyncio.timeout(DEADLINE):
                await pull(image, store)
        except AioRuntimeError as exc:
            failure = exc
        server.unmatched.clear()
    if failure is not None:
        assert len(str(failure)) < 1500
        assert str(failure).isprintable()
        assert SECRET not in shown_by(failure)
    assert SECRET not in caplog.text
    kept = {path.name: path.read_bytes() for path in await in_thread(files_below, store.path / "blobs")}
    assert kept == ({digest_of(DATA).partition(":")[2]: DATA} if failure is None else {})
    assert resident() - memory < GROWTH
    for fault in reply.faults:
        fault.release.set()
    await assert_settles(before)


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def pull(image: OciRef, store: ImageStore) -> None:
    async with RegistryClient(
        stall_timeout=STALL, connect_timeout=STALL, retries=1, retry_budget=1.0
    ) as client:
        resolved = await client.resolve(image)
        await fetch_layers(
            resolved.layers,
            image=image,
            source=client,
            store=store,
            progress=NoopProgress(),
            connections=anyio.CapacityLimiter(4),
        )


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
