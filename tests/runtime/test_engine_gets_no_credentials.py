"""What we know to get into registries stays with us: the engine is told nothing of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.registry.credentials import Credentials, Secret
from tests.assembly.stacks import entry, packed
from tests.support.proxy import Connection, Direction, UnixProxy
from tests.support.registries import OneKey
from tests.support.scripted import Reply, ScriptedServer
from tests.support.served_image import make_image
from tests.support.tools import remove_images

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from tests.support.engines import Engine

ANY = re.compile(".*")
WHO = Credentials("owner", Secret("canary-password"))


class Overheard(UnixProxy):
    """Keeps all that a client says to the engine."""

    said = b""

    async def __aenter__(self) -> Overheard:
        await super().__aenter__()
        return self

    async def _write(
        self, connection: Connection, way: Direction, data: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if way == "up":
            self.said += data
        await super()._write(connection, way, data, writer)


async def test_no_registry_auth(engine: Engine, store: ar.ImageStore, tmp_path: Path) -> None:
    """C11: no request to an engine has ``X-Registry-Auth`` or the password, also where the engine pulls."""
    kind = ar.DockerRuntime if engine.kind == "docker" else ar.PodmanRuntime
    contents = make_image("org/private", "1", [packed([entry("file", data=b"x")])])
    async with (
        ScriptedServer() as server,
        ar.RegistryClient(keychain=OneKey(WHO)) as client,
        Overheard(tmp_path / "s", engine.socket) as proxy,
        kind(proxy.url, store=store, registry=client) as runtime,
    ):
        for path, data in contents.items():
            server.on("GET", path, Reply(body=data), requires={"Authorization": WHO.basic().reveal()})
        server.on("*", ANY, Reply(401, {"WWW-Authenticate": 'Basic realm="x"'}))
        await runtime.pull(f"{server.origin}/org/private:1")
        await remove_images(runtime)
        with pytest.raises(ar.EngineError):
            await runtime.pull(f"{server.origin}/org/private:1", via="engine")

    assert b"/images/create?" in proxy.said
    for field in (b"x-registry-auth", b"x-registry-config"):
        assert field not in proxy.said.lower()
    for secret in (b"canary", b"b3duZXI6Y2FuYXJ5"):
        assert secret not in proxy.said
