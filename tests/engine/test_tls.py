"""A real Docker behind TLS: the input of programs ends there too, and what is cut is no end."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

import aioruntime as ar
from aioruntime.engine import containers
from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint
from aioruntime.engine.exec import attach_exec, create_exec
from aioruntime.engine.transport import Transport, tls_hint
from tests.engine.conftest import provide_image
from tests.engine.running import created, output_of, started
from tests.support import engines, host
from tests.support.certificates import Certificates
from tests.support.leaks import assert_settles, snapshot
from tests.support.proxy import Fault, TcpProxy
from tests.support.stepper import each_step, run_cancelled_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aioruntime.engine.hijack import Attachment

# More than all that is kept on the way, so that each side must wait for the other.
MUCH = bytes(range(251)) * 12_000
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of this module."""
    return Certificates(tmp_path_factory.mktemp("tls") / "client")


@pytest.fixture(scope="module")
def port(made: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where a Docker of this module, with an image in it, speaks TLS."""
    found = host.free_port()
    arguments = made.dockerd(tmp_path_factory.mktemp("tls") / "server", found)
    with engines.start_docker(arguments=arguments) as engine:
        provide_image(engine)
        yield found


@pytest.fixture
def image() -> str:
    """The image in it."""
    return "localhost/engine-tests:latest"


@pytest.fixture(autouse=True)
def certificates(made: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[Certificates]:
    """Certificates where Docker's own program looks for them."""
    monkeypatch.setenv("DOCKER_CERT_PATH", str(made.files))
    yield made
    made.write(made.authority, made.authority)


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ssl.TLSVersion:
    """The one version of TLS that connections may have."""
    make = ssl.create_default_context
    wanted: ssl.TLSVersion = request.param

    def limited(*, cafile: str | None = None) -> ssl.SSLContext:
        context = make(cafile=cafile)
        context.minimum_version = context.maximum_version = wanted
        return context

    monkeypatch.setattr(ssl, "create_default_context", limited)
    return wanted


def reach(port: int, name: str = "127.0.0.1") -> Endpoint:
    return Endpoint(f"https://{name}:{port}", "test")


async def through(attachment: Attachment, data: bytes) -> bytes:
    """Send *data* and its end to a program that gives back what it gets; what came back."""
    reading = asyncio.ensure_future(output_of(attachment))
    await attachment.send(data)
    await attachment.close_input()
    return (await reading)["stdout"]


@pytest.mark.usefixtures("version")
async def test_input_ends(port: int, image: str) -> None:
    """Over each version of TLS input ends, of a container and of a program executed in one; all output comes.

    Also what is written only after that end. Nothing is left open.
    """
    before = snapshot()
    fields = {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
    late = ("sh", "-c", "cat; sleep 0.2; cat; head -c 1000000 /dev/zero")
    async with EngineClient.open(reach(port)) as client:
        async with created(client, image, *late, **fields) as container:
            async with containers.attach(client, container, stdin=True) as attachment:
                await containers.start(client, container)
                assert await through(attachment, MUCH) == MUCH + bytes(1_000_000)
            assert await containers.wait(client, container) == 0
        async with started(client, image) as container:
            process = await create_exec(client, container, ["cat"], stdin=True)
            async with attach_exec(client, process) as attachment:
                assert await through(attachment, MUCH) == MUCH
    await assert_settles(before)


async def test_bytes_as_input(port: int, image: str, store: ar.ImageStore) -> None:
    """What a run, or a program executed in a container, gets as its input, it reads to the end."""
    async with ar.connect(f"https://127.0.0.1:{port}", store=store) as runtime:
        spec = ar.RunSpec(image, ["cat"], stdin=MUCH, capture_output=True, networks=["none"])
        assert (await runtime.run(spec)).stdout == MUCH
        async with runtime.start(ar.RunSpec(image, ["sleep", "1000"], networks=["none"])) as container:
            assert (await container.run(["cat"], stdin=MUCH)).stdout == MUCH


@asynccontextmanager
async def zeros(client: EngineClient, image: str, *, tty: bool) -> AsyncIterator[Attachment]:
    """The output of a container that writes without end."""
    async with (
        created(client, image, "cat", "/dev/zero", Tty=tty) as container,
        containers.attach(client, container, tty=tty) as attachment,
    ):
        await containers.start(client, container)
        yield attachment


@pytest.mark.parametrize("kind", ["cut", "reset", "corrupt"])
@pytest.mark.usefixtures("version")
async def test_a_cut_is_no_end(kind: str, port: int, image: str) -> None:
    """THREATS E6: output of a terminal, whose end nothing marks, fails if its connection was cut.

    TLS says farewell before an end; without that, by a reset or with altered bytes it is none.
    """
    before = snapshot()
    async with TcpProxy("127.0.0.1", port) as proxy, EngineClient.open(reach(proxy.port)) as client:
        fault = proxy.add(Fault(kind, after=1_000_000))  # type: ignore[arg-type]
        async with zeros(client, image, tty=True) as attachment:
            with pytest.raises(ar.StreamTruncated, match="output was cut"):
                await output_of(attachment)
            assert fault.reached.is_set()
    await assert_settles(before)


async def test_each_waits_for_the_other(certificates: Certificates) -> None:
    """Data that nobody reads is not collected, coming or going; once it is read, all of it arrives."""
    much = bytes(32 << 20)
    reads = asyncio.Event()
    got = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        writer.write(much)
        await reads.wait()
        while got < len(much):
            got += len(await reader.read(1 << 16))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(peer, "127.0.0.1", 0, ssl=certificates.server) as server:
        transport = Transport.to(reach(server.sockets[0].getsockname()[1]))
        wire = await transport.connect()
        wire.write(much)
        sending = asyncio.ensure_future(wire.drain())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sending), 0.5)
        reads.set()
        arrived = bytearray()
        while data := await wire.receive():
            assert len(data) <= 1 << 17
            arrived += data
        assert arrived == much
        await sending
        assert got == len(much)
        wire.close()
        await transport.aclose()


async def answer(endpoint: Endpoint) -> bytes:
    """Ask over a connection of its own."""
    transport = Transport.to(endpoint)
    await transport.aclose()
    wire = await transport.connect()
    try:
        wire.write(b"HEAD /_ping HTTP/1.1\r\nHost: engine\r\n\r\n")
        await wire.drain()
        return (await wire.receive()).partition(b"\n")[0]
    finally:
        wire.close()


@pytest.mark.usefixtures("version")
async def test_certificates_that_do_not_fit(certificates: Certificates, port: int) -> None:
    """A stream's own connection demands the same as calls do; what is wrong is told; nothing is left open."""
    stranger = trustme.CA()
    before = snapshot()
    assert await answer(reach(port)) == b"HTTP/1.1 200 OK\r"
    ours = certificates.authority
    for name, trusted, issuer, said in (
        ("127.0.0.1", stranger, ours, "certificate is not to be trusted"),
        ("127.0.0.1", ours, stranger, "only clients with a certificate of its authority"),
        ("127.0.0.1", ours, None, "only clients with a certificate of its authority"),
        ("localhost", ours, ours, "not valid for 'localhost'"),
    ):
        certificates.write(trusted, issuer)
        with pytest.raises(ssl.SSLError) as caught:
            await answer(reach(port, name))
        assert said in (tls_hint(caught.value) or "")
    await assert_settles(before)


@pytest.mark.parametrize("again_after", [None, 1])
async def test_cancelled_anywhere(again_after: int | None, port: int, image: str) -> None:
    """THREATS E9: cancelled at any step, from the first word of TLS to the end, no connection is left."""
    fields = {"OpenStdin": True, "AttachStdin": True}
    async with EngineClient.open(reach(port)) as client, created(client, image, "cat", **fields) as container:

        async def attach() -> None:
            async with containers.attach(client, container, stdin=True) as attachment:
                await attachment.send(b"x" * 100_000)
                await attachment.close_input()

        before = snapshot()
        async for step in each_step(attach):
            await run_cancelled_at(attach, step, again_after=again_after, may_finish=True)
            await assert_settles(before)


async def test_a_handshake_that_stalls(port: int) -> None:
    """THREATS E9: while the engine keeps TLS's first answer back, the wait can be cancelled."""
    async with TcpProxy("127.0.0.1", port) as proxy:
        before = snapshot()
        stall = proxy.add(Fault("stall"))
        asking = asyncio.ensure_future(answer(reach(proxy.port)))
        await stall.reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        stall.release.set()
        await assert_settles(before)
