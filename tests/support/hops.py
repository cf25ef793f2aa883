"""Ways by which a registry sends its clients elsewhere, each with servers that note what they are given."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from tests.support.scripted import Reply, Request, ScriptedServer
from tests.support.served_image import CONFIG, LAYER, MANIFEST, digest_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

__all__ = ("HOPS", "Hop", "Stage", "leaks", "staged")

DATA = b"a layer's bytes" * 64
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


@dataclass(slots=True)
class Stage:
    """A registry, which the credentials are for, and servers that they are not for.

    Attributes:
        home: the registry; it serves ``org/tool:1`` to whoever has an ``Authorization``.
        port: another port of the registry's address.
        host: another address.
        contents: what the registry serves, by path.
    """

    home: ScriptedServer
    port: ScriptedServer
    host: ScriptedServer
    contents: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def image(self) -> str:
        return f"{self.home.origin}/org/tool:1"

    def basic(self) -> Reply:
        return refused('Basic realm="home"')

    def bearer(self, realm: str) -> Reply:
        return refused(f'Bearer realm="{realm}",service="home",scope="repository:org/tool:pull"')


Act = Callable[[Stage, Request], Reply | None]


def as_usual(stage: Stage, request: Request) -> Reply | None:
    return None


@dataclass(frozen=True, slots=True)
class Hop:
    """One way of being sent elsewhere.

    Attributes:
        name: what happens.
        action: what a client does: ``pull``, ``push`` or ``tags``.
        home: what the registry answers where it is not the usual; None for the usual.
        away: what the other servers answer.
        tls: whether the registry speaks TLS.
        foreign: whether the image's layer has a URL at the other host.
        mirror: whether the other host is the registry's mirror.
        entitled: whether the registry itself gets the credentials on the way.
    """

    name: str
    action: str = "pull"
    home: Act = as_usual
    away: Act = as_usual
    tls: bool = False
    foreign: bool = False
    mirror: bool = False
    entitled: bool = True


def refused(challenge: str) -> Reply:
    return Reply(401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')


def is_layer(request: Request) -> bool:
    return request.path.endswith(digest_of(DATA)) and "/blobs/" in request.path


def realm_at(where: Callable[[Stage], str]) -> Act:
    def answer(stage: Stage, request: Request) -> Reply | None:
        if (request.header("Authorization") or "").startswith("Bearer"):
            return None
        return stage.bearer(where(stage))

    return answer


def realm_that_redirects(stage: Stage, request: Request) -> Reply | None:
    if request.path == "/token":
        return Reply(307, {"Location": f"{stage.host.url}/token?{request.query}"})
    return realm_at(lambda stage: f"{stage.home.url}/token")(stage, request)


def layer_at(where: Callable[[Stage], str]) -> Act:
    def answer(stage: Stage, request: Request) -> Reply | None:
        if is_layer(request) and request.header("Authorization"):
            return Reply(307, {"Location": where(stage)})
        return None

    return answer


def wants_basic(stage: Stage, request: Request) -> Reply | None:
    return None if request.header("Authorization") else stage.basic()


def wants_bearer(stage: Stage, request: Request) -> Reply | None:
    if request.path == "/token" or request.header("Authorization"):
        return None
    return stage.bearer(f"{stage.host.url}/token")


def no_layer(stage: Stage, request: Request) -> Reply | None:
    return Reply(404) if is_layer(request) and request.header("Authorization") else None


def upload_elsewhere(stage: Stage, request: Request) -> Reply | None:
    if not request.header("Authorization"):
        return None
    if request.method == "HEAD":
        return Reply(404)
    if request.method == "POST":
        return Reply(202, {"Location": f"{stage.host.url}/upload/1?state=x", "Docker-Upload-UUID": "1"})
    return None


def next_elsewhere(stage: Stage, request: Request) -> Reply | None:
    if request.path.endswith("/tags/list") and request.header("Authorization"):
        link = f'<{stage.host.url}/v2/org/tool/tags/list?last=1>; rel="next"'
        return Reply(headers={"Link": link}, body=b'{"name":"org/tool","tags":["1"]}')
    return None


HOPS = (
    Hop("realm at another host", home=realm_at(lambda s: f"{s.host.url}/token"), entitled=False),
    Hop("realm at another port", home=realm_at(lambda s: f"{s.port.url}/token"), entitled=False),
    Hop("realm without TLS", home=realm_at(lambda s: f"{s.port.url}/token"), tls=True, entitled=False),
    Hop("realm that redirects", home=realm_that_redirects),
    Hop("layer at another host", home=layer_at(lambda stage: f"{stage.host.url}/blob")),
    Hop("layer at another port", home=layer_at(lambda stage: f"{stage.port.url}/blob")),
    Hop("layer without TLS", home=layer_at(lambda stage: f"{stage.port.url}/blob"), tls=True),
    Hop("layer where Basic is wanted", home=layer_at(lambda s: f"{s.host.url}/blob"), away=wants_basic),
    Hop("layer where a token is wanted", home=layer_at(lambda s: f"{s.host.url}/blob"), away=wants_bearer),
    Hop("layer of a URL in the manifest", home=no_layer, away=wants_basic, foreign=True),
    Hop("mirror that wants Basic", away=wants_basic, mirror=True),
    Hop("mirror that wants a token", away=wants_bearer, mirror=True, entitled=False),
    Hop("upload at another host", "push", home=upload_elsewhere, away=wants_basic),
    Hop("next page at another host", "tags", home=next_elsewhere, away=wants_basic),
)


@asynccontextmanager
async def staged(hop: Hop, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stage]:
    """Run the servers of a hop; *tls* is the registry's, for hops that have it."""
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(ScriptedServer(tls=tls if hop.tls else None))
        port = await stack.enter_async_context(ScriptedServer())
        host = await stack.enter_async_context(ScriptedServer("127.0.0.2"))
        stage = Stage(home, port, host)
        stage.contents = _contents(f"{host.url}/foreign" if hop.foreign else None)
        anything = re.compile(r".*")
        home.on("*", anything, lambda request: hop.home(stage, request) or _at_home(stage, request))
        for other in (port, host):
            other.on("*", anything, lambda request: hop.away(stage, request) or _away(stage, request))
        yield stage


def _contents(url: str | None) -> dict[str, tuple[str, bytes]]:
    fields = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(DATA)]},
    }
    config = json.dumps(fields).encode()
    layer: dict[str, Any] = {"mediaType": LAYER, "digest": digest_of(DATA), "size": len(DATA)}
    if url:
        layer |= {"mediaType": FOREIGN, "urls": [url]}
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest_of(config), "size": len(config)},
            "layers": [layer],
        }
    ).encode()
    base = "/v2/org/tool"
    binary = "application/octet-stream"
    return {
        f"{base}/manifests/1": (MANIFEST, manifest),
        f"{base}/manifests/{digest_of(manifest)}": (MANIFEST, manifest),
        f"{base}/blobs/{digest_of(config)}": (binary, config),
        f"{base}/blobs/{digest_of(DATA)}": (binary, DATA),
    }


def _at_home(stage: Stage, request: Request) -> Reply:
    if request.path == "/token":
        return Reply(body=b'{"token":"home-token"}')
    return _served(stage, request) if request.header("Authorization") else stage.basic()


def _away(stage: Stage, request: Request) -> Reply:
    """Answer what keeps a client going, so that it shows all that it would send."""
    if request.path == "/token":
        return Reply(body=b'{"token":"away-token"}')
    if request.path in ("/blob", "/foreign"):
        return Reply(body=DATA)
    if request.path.endswith("/tags/list"):
        return Reply(body=b'{"name":"org/tool","tags":["2"]}')
    if request.path.startswith("/upload/"):
        return Reply(201, {"Location": "/done", "Docker-Content-Digest": digest_of(DATA)})
    return _served(stage, request)


def _served(stage: Stage, request: Request) -> Reply:
    if request.path == "/v2/":
        return Reply(body=b"{}")
    if request.path.endswith("/tags/list"):
        return Reply(body=b'{"name":"org/tool","tags":["1"]}')
    if request.method == "PUT":
        return Reply(201, {"Location": "/done"})
    found = stage.contents.get(request.path)
    if found is None:
        return Reply(404)
    media_type, data = found
    headers = {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}
    return Reply(headers=headers, body=data)


def leaks(stage: Stage, secrets: list[str]) -> list[str]:
    """List where a server that may not have them was given one of *secrets*, or what they were traded for."""
    forms = {form for secret in [*secrets, "home-token"] for form in _forms(secret)}
    return [
        f"{server.origin} {request.method} {request.path}"
        for server in (stage.port, stage.host)
        for request in server.requests
        if any(form in _text(request) for form in forms)
    ]


def _forms(secret: str) -> set[str]:
    # In base64, a text looks different by where it starts; and its ends depend on what is beside it.
    shifted = (b64encode(b"x" * shift + secret.encode()).decode()[4:-4] for shift in range(3))
    return {secret, quote(secret, safe=""), quote_plus(secret), *shifted}


def _text(request: Request) -> str:
    headers = "\n".join(f"{name}: {value}" for name, value in request.headers)
    return f"{request.target}\n{headers}\n{request.body.decode('latin-1')}"
