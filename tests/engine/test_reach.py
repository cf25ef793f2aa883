"""Ways to an engine: over each a container runs with its output and input; what does not work is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

import aioruntime as ar
from aioruntime.engine import containers
from aioruntime.engine.client import EngineClient
from aioruntime.engine.discovery import open_engine
from aioruntime.engine.endpoint import Endpoint
from aioruntime.errors import EngineUnavailable
from aioruntime.tasks import in_thread
from tests.engine.running import created, output_of, run
from tests.support import engines
from tests.support.certificates import Certificates
from tests.support.leaks import assert_settles, snapshot
from tests.support.proxy import UnixProxy
from tests.support.sshd import Sshd, sshd

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine


class Door:
    """Listens on a port of 127.0.0.1 for an engine's socket, with TLS if given a context."""

    def __init__(self, target: Path, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Door:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        to_reader, to_writer = await asyncio.open_unix_connection(self._target)
        try:
            await asyncio.gather(_pass(reader, to_writer), _pass(to_reader, writer))
        except OSError:
            pass
        finally:
            for each in (writer, to_writer):
                each.transport.abort()
            self._tasks.discard(task)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()  # asyncio can't close TLS one way


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """Certificates where Docker's own program looks for them."""
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "certs"))
    return Certificates(tmp_path / "certs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An ssh server of this module."""
    with sshd(tmp_path_factory.mktemp("ssh") / "d") as running:
        yield running


@pytest.fixture
def ssh(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The ssh server, and an ``ssh`` on PATH that may enter it."""
    monkeypatch.setenv("PATH", f"{server.directory}/bin:/usr/local/bin:/usr/bin:/bin")
    return server


def write_context(home: Path, name: str, url: str, files: Path | None = None) -> None:
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker/contexts/meta" / key / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": url}}}))
    if files is not None:
        shutil.copytree(files, home / ".docker/contexts/tls" / key / "docker")


WAYS = ("unix", "rootless", "tcp", "tls", "context", "ssh")


@asynccontextmanager
async def way(
    name: str, engine: Engine, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[dict]:  # type: ignore[type-arg]
    """Make a way to the engine; gives the environment in which it is found."""
    home = tmp_path / "home"
    if name == "unix":
        yield {"DOCKER_HOST": engine.url}
    elif name == "rootless":
        usual = {"docker": "docker.sock", "podman": "podman/podman.sock"}[engine.kind]
        place = home / "xdg_runtime_dir" / usual
        place.parent.mkdir(exist_ok=True)
        async with UnixProxy(place, engine.socket):
            yield {"XDG_RUNTIME_DIR": str(home / "xdg_runtime_dir")}
    elif name == "tcp":
        async with Door(engine.socket) as door:
            yield {"DOCKER_HOST": f"tcp://127.0.0.1:{door.port}"}
    elif name == "ssh":
        yield {"DOCKER_HOST": request.getfixturevalue("ssh").url(engine.socket)}
    else:
        made: Certificates = request.getfixturevalue("certificates")
        async with Door(engine.socket, made.server) as door:
            url = f"tcp://127.0.0.1:{door.port}"
            if name == "context":
                write_context(home, "over there", url, made.files)
                yield {"DOCKER_CONTEXT": "over there"}
            else:
                yield {"DOCKER_HOST": url, "DOCKER_TLS_VERIFY": "1"}


@pytest.mark.parametrize("name", WAYS)
async def test_a_container_runs(
    name: str,
    engine: Engine,
    image: str,
    registry: LocalRegistry,
    store: ar.ImageStore,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found as configured, over each way a container runs, its output comes in full, and its input goes.

    The end of the input reaches it, but where the door here has TLS, which asyncio can end in both directions
    only: for that see `test_tls`. The version that both speak was agreed on. Nothing is left open afterwards.
    """
    async with way(name, engine, request, tmp_path) as environ:
        before = snapshot()
        for variable, value in environ.items():
            monkeypatch.setenv(variable, value)
        async with open_engine(environ=environ, home=tmp_path / "home", embedded=False) as client:
            version = await client.json("GET", "/version", versioned=False)
            assert client.api_version <= version["ApiVersion"]
            for _ in range(3):
                assert await run(client, image, "sh", "-c", "echo out; echo err >&2; exit 3") == (
                    3,
                    {"stdout": b"out\n", "stderr": b"err\n"},
                )
            _, much = await run(client, image, "head", "-c", "3000000", "/dev/zero")
            assert len(much["stdout"]) == 3_000_000
            await with_input(client, image, ends=name not in ("tls", "context"))
        async with ar.connect(store=store) as runtime:
            tiny = ar.OciRef.parse(f"{registry.host}/tiny:1")
            await runtime.pull(tiny)
            assert (await runtime.run(ar.RunSpec(tiny, capture_output=True))).stdout == b"hello\n"
            await runtime.remove_image(tiny)
        await assert_settles(before)


async def with_input(client: EngineClient, image: str, *, ends: bool) -> None:
    fields = {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
    async with created(client, image, "cat", **fields) as container:
        async with containers.attach(client, container, stdin=True) as attachment:
            await containers.start(client, container)
            await attachment.send(b"line\n" * 1000)
            if not ends:
                found = b""
                while len(found) < 5000:
                    found += (await anext(attachment)).data
                assert found == b"line\n" * 1000
                return
            reading = asyncio.ensure_future(output_of(attachment))
            await attachment.close_input()
            assert (await reading)["stdout"] == b"line\n" * 1000
        assert await containers.wait(client, container) == 0


async def refused(url: str) -> str:
    """Return how an engine at *url* can't be reached; nothing is left open by that."""
    before = snapshot()
    with pytest.raises(EngineUnavailable) as caught:
        async with EngineClient.open(Endpoint(url, "url"), timeout=20):
            pytest.fail("reached")
    await assert_settles(before)
    assert url.rpartition("@")[2] in caught.value.message
    return caught.value.message


async def test_certificates_that_do_not_fit(
    certificates: Certificates, free_port: int, tmp_path: Path
) -> None:
    """A real Docker with TLS takes a client that fits; of others each side's want is told, and its remedy."""
    arguments = certificates.dockerd(tmp_path / "server", free_port)
    stranger = trustme.CA()
    engines.require(engines.FLAVORS["docker-20.10"])
    with await in_thread(lambda: engines.start_docker(arguments=arguments)) as engine:
        url = f"https://127.0.0.1:{free_port}"
        async with EngineClient.open(Endpoint(url, "url")) as client:
            assert client.capabilities.kind == "docker"
        certificates.write(certificates.authority, None)
        assert "only clients with a certificate of its authority: cert.pem and key" in await refused(url)
        certificates.write(certificates.authority, stranger)
        assert "only clients with a certificate of its authority: cert.pem and key" in await refused(url)
        certificates.write(stranger, certificates.authority)
        assert "certificate is not to be trusted; its authority's is ca.pem" in await refused(url)
        assert "HTTP request to an HTTPS server" in await refused(f"tcp://127.0.0.1:{free_port}")
        async with Door(engine.socket) as plain:
            assert "does not speak TLS; is DOCKER_TLS_VERIFY" in await refused(
                f"https://127.0.0.1:{plain.port}"
            )
    assert "nothing listens there" in await refused(url)


async def test_no_engine_there(free_port: int, tmp_path: Path) -> None:
    """What is no engine is said to be none; that nothing is there is told for each kind of address."""
    answers = {
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}": "is no container engine",
        b"SSH-2.0-OpenSSH_9.2\r\n": "no usable engine at",
    }
    for answer, expected in answers.items():

        async def reply(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = answer
        ) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert expected in await refused(f"tcp://127.0.0.1:{port}")
    assert "nothing listens there" in await refused(f"tcp://127.0.0.1:{free_port}")
    assert "there is no such socket" in await refused(f"unix://{tmp_path}/s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert "nothing listens there" in await refused(f"unix://{tmp_path}/dead")


async def test_an_unknown_context(tmp_path: Path) -> None:
    """A context that does not exist is told by its name, with where it was looked for."""
    with pytest.raises(EngineUnavailable, match=r"DOCKER_CONTEXT.*'nope' can't be read .*docker context ls"):
        async with open_engine(environ={"DOCKER_CONTEXT": "nope"}, home=tmp_path, embedded=False):
            pass


async def test_ssh_that_fails(docker_engine: Engine, ssh: Sshd, free_port: int) -> None:
    """Of a failing ssh its own words are told: nobody there, no key, an unknown or changed host, no engine.

    No question is asked of anybody, and no check is left out.
    """
    url = ssh.url(docker_engine.socket)
    assert "Connection refused" in await refused(url.replace(str(ssh.port), str(free_port)))
    message = await refused(url + "x")
    assert "ssh failed" in message
    assert f"ssh -l root -p {ssh.port} -- 127.0.0.1" in message
    settings, known = ssh.client.read_text(), ssh.known_hosts.read_text()
    try:
        ssh.client.write_text(settings.replace(f"{ssh.directory}/key", f"{ssh.directory}/host"))
        assert "Permission denied (publickey" in await refused(url)
        ssh.client.write_text(settings)
        ssh.known_hosts.write_text("")
        assert "Host key verification failed" in await refused(url)
        kind, key = (ssh.directory / "key.pub").read_text().split()[:2]
        ssh.known_hosts.write_text(f"[127.0.0.1]:{ssh.port} {kind} {key}\n")
        assert "Host key verification failed" in await refused(url)
    finally:
        ssh.client.write_text(settings)
        ssh.known_hosts.write_text(known)
    with pytest.raises(EngineUnavailable, match="takes no password from a URL") as caught:
        async with EngineClient.open(Endpoint("ssh://root:secret@127.0.0.1", "url")):
            pass
    assert "secret" not in str(caught.value)


async def test_no_ssh_outlives_its_stream(docker_engine: Engine, image: str, ssh: Sshd) -> None:
    """THREATS E9: leaving a silent attachment ends the ssh that carried it, and the engine's side of it."""
    async with (
        EngineClient.open(Endpoint(ssh.url(docker_engine.socket), "url")) as client,
        created(client, image, "sleep", "1000") as container,
    ):
        await client.probe()
        before = snapshot()
        async with containers.attach(client, container):
            await containers.start(client, container)
            assert any("ssh" in name for _, name in snapshot().children - before.children)
        await assert_settles(before)
