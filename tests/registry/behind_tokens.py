"""A scripted registry that wants tokens, for the tests of authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioruntime.registry.credentials import Credentials, Secret
from tests.registry.helpers import DATA, blob_path, image_at, layer_of
from tests.support.scripted import Reply, Request, ScriptedServer

if TYPE_CHECKING:
    from aioruntime.registry.client import RegistryClient

SCOPE = "repository:org/tool:pull"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class Holder:
    """A keychain with one entry, which notes who asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        self.asked.append((host, repository))
        return Credentials("user", Secret("canary"))


def challenge(server: ScriptedServer, **parameters: str) -> str:
    pairs = {"realm": f"{server.url}/token?a=%2f", "service": "a service", "scope": SCOPE, **parameters}
    return "Bearer " + ",".join(f'{name}="{value}"' for name, value in pairs.items() if value)


def serve_behind_token(server: ScriptedServer, value: str, *, valid: str = "t1") -> None:
    server.on("GET", blob_path(), Reply(body=DATA), requires={"Authorization": f"Bearer {valid}"})
    server.on("GET", blob_path(), Reply(401, {"WWW-Authenticate": value}))


async def read(client: RegistryClient, server: ScriptedServer) -> bytes:
    async with client.blob(image_at(server), layer_of()) as stream:
        return b"".join([chunk async for chunk in stream])


def token_requests(server: ScriptedServer) -> list[Request]:
    return [request for request in server.requests if request.path == "/token"]
