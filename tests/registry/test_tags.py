"""Listing tags, and asking whether an image exists."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from aioruntime.errors import NotFound, RegistryError, RequestRefused, Unauthorized
from aioruntime.registry.client import RegistryClient
from aioruntime.registry.credentials import ANONYMOUS, Credentials, Keychain, Secret
from tests.registry.helpers import image_at
from tests.support.registries import OneKey
from tests.support.scripted import Fault, Reply, Request, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Sequence

LIST = "/v2/org/tool/tags/list"
MANIFEST = "/v2/org/tool/manifests/1"


def page(tags: Sequence[str], link: str | None = None) -> Reply:
    headers = {"Link": f'<{link}>; rel="next"'} if link is not None else {}
    return Reply(headers=headers, body=json.dumps({"name": "org/tool", "tags": tags}).encode())


async def tags(server: ScriptedServer, keychain: Keychain = ANONYMOUS) -> list[str]:
    async with RegistryClient(keychain=keychain) as client:
        return [tag async for tag in client.tags(image_at(server))]


@pytest.mark.parametrize(
    "form", ["{path}?last={last}&n=100", "list?last={last}", "{origin}{path}?last={last}"]
)
async def test_pages(server: ScriptedServer, form: str) -> None:
    """250 tags come in pages of 100, in the registry's order, however it writes the next page's address."""
    everything = [f"v{number}" for number in range(250)]

    def answer(request: Request) -> Reply:
        last = re.search(r"last=(\w+)", request.query)
        start = everything.index(last[1]) + 1 if last else 0
        found = everything[start : start + 100]
        link = form.format(path=LIST, last=found[-1], origin=server.url)
        return page(found, link if found[-1] != everything[-1] else None)

    server.on("GET", LIST, answer)

    assert await tags(server) == everything
    assert len(server.requests) == 3


async def test_a_page_at_a_time(server: ScriptedServer) -> None:
    """Who needs no more asks for no more, and leaves no connection in use."""
    server.on("GET", LIST, page(["a", "b"], "?2"))
    async with RegistryClient(connections_per_host=1) as client:
        async for tag in client.tags(image_at(server)):
            assert tag == "a"
            break
        async for _ in client.tags(image_at(server)):
            break

    assert len(server.requests) == 2


async def test_pages_that_fail(server: ScriptedServer) -> None:
    """A page that fails, or breaks off, is asked for again; no tag is told twice."""
    first = page(["a", "b"], f"{LIST}?last=b")
    broken = Reply(first.status, first.headers, first.body, faults=(Fault("cut", 9),))
    pages = server.on("GET", LIST, Reply(503), broken, first, Reply(429), page(["c"]))

    assert await tags(server) == ["a", "b", "c"]
    assert len(pages.hits) == 5


async def test_pages_that_fail_for_ever(server: ScriptedServer) -> None:
    """The registry's own words come out when a page can't be had."""
    server.on("GET", LIST, Reply(500, body=b'{"errors": [{"code": "UNKNOWN", "message": "db is away"}]}'))

    with pytest.raises(RegistryError, match="db is away"):
        await tags(server)

    assert len(server.requests) == 6


async def test_none(server: ScriptedServer) -> None:
    """A repository without tags has none, whether the list is empty or null."""
    server.on("GET", LIST, page([]), Reply(body=b'{"tags": null}'), Reply(body=b"{}"))

    assert [await tags(server) for _ in range(3)] == [[], [], []]


async def test_same_page_again(server: ScriptedServer) -> None:
    """THREATS R8: a page that leads to itself, or to an earlier one, ends the list with an error."""
    server.on("GET", LIST, page(["a"], "?2"), page(["b"], "?3"), page(["c"], "?2"))

    with pytest.raises(RegistryError, match=f"{server.origin} leads from page to page in a circle"):
        await tags(server)

    assert len(server.requests) == 3


async def test_pages_without_end(server: ScriptedServer) -> None:
    """THREATS R8: a chain of ever new pages is left after 1000 of them."""
    server.on("GET", LIST, lambda request: page(["a"], f"?last={len(server.requests)}"))

    with pytest.raises(RegistryError, match="has more than 1000 pages"):
        await tags(server)

    assert len(server.requests) == 1000


async def test_page_at_another_origin(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R8: a next page at another host, port or scheme is not asked for."""
    for link in (
        f"{other.url}{LIST}",
        f"//localhost:{server.port}{LIST}",
        f"https://{server.origin}{LIST}?2",
    ):
        server.on("GET", LIST, page(["a"], link), times=1)
        with pytest.raises(RequestRefused, match="another origin"):
            await tags(server)

    assert len(server.requests) == 3
    assert other.requests == []


async def test_redirected_page(server: ScriptedServer, other: ScriptedServer) -> None:
    """THREATS R8: a page from where a redirect led names the next one there: it is not asked for."""
    server.on("GET", LIST, Reply(307, {"Location": f"{other.url}/x"}))
    other.on("GET", "/x", page(["a"], "/y"))

    with pytest.raises(RequestRefused, match="another origin"):
        await tags(server)

    assert [request.target for request in other.requests] == ["/x"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(body=b"["), "sent no valid list"),
        (Reply(body=b"[" * 100_000), "sent no valid list"),
        (Reply(body=b'{"tags": [1]}'), "sent no valid list"),
        (Reply(body=b'{"tags": ["\xff"]}'), "sent no valid list"),
        (Reply(body=b" " * (4 << 20) + b"{}"), "more than 4194304 bytes"),
        (Reply(body=b" " * (4 << 20) + b"{}", framing="chunked"), "more than 4194304 bytes"),
        (page(["\x1b[31m"]), "lists what is no tag"),
        (page(["a/../b"]), "lists what is no tag"),
        (Reply(headers={"Link": "</x>; rel=next y"}, body=b"{}"), "malformed Link"),
        (Reply(500), "500"),
    ],
)
async def test_no_list(server: ScriptedServer, reply: Reply, message: str) -> None:
    """What is no list of tags is an error that names the registry's fault in one line."""
    server.on("GET", LIST, reply)

    with pytest.raises(RegistryError, match=message) as caught:
        await tags(server)

    assert str(caught.value).isprintable()


async def test_more_than_declared(server: ScriptedServer) -> None:
    """Bytes beyond the declared length count for nothing, and their connection is not used again."""
    whole = page(["a"]).body
    server.on("GET", LIST, Reply(body=whole, extra=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
    async with RegistryClient() as client:
        for _ in range(2):
            assert [tag async for tag in client.tags(image_at(server))] == ["a"]

    assert server.connections == 2


async def test_no_repository(server: ScriptedServer) -> None:
    """A repository that is not there is told as such."""
    server.on("GET", LIST, Reply(404, body=b'{"errors": [{"code": "NAME_UNKNOWN"}]}'))

    with pytest.raises(NotFound) as caught:
        await tags(server)

    assert caught.value.code == "NAME_UNKNOWN"


async def test_credentials(server: ScriptedServer) -> None:
    """Every page gets the credentials that the registry asks for."""
    server.on(
        "GET", LIST, Reply(401, {"WWW-Authenticate": "Basic realm=x"}), requires={"Authorization": None}
    )
    server.on("GET", LIST, page(["a"], "?2"), page(["b"]))

    assert await tags(server, OneKey(Credentials("user", Secret("pw")))) == ["a", "b"]


async def test_exists(server: ScriptedServer) -> None:
    """200 is yes and 404 no, by HEAD; a registry that knows no HEAD is asked by GET."""
    server.on("HEAD", MANIFEST, Reply(200), Reply(404), Reply(405))
    server.on("GET", MANIFEST, Reply(body=b"{}"), Reply(404))
    async with RegistryClient() as client:
        found = [await client.exists(image_at(server)) for _ in range(4)]

    assert found == [True, False, True, False]
    assert [request.method for request in server.requests] == ["HEAD"] * 3 + ["GET", "HEAD", "GET"]
    assert "application/vnd.oci.image.index.v1+json" in str(server.requests[0].header("Accept"))


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Unauthorized), (500, RegistryError)]
)
async def test_exists_or_not(server: ScriptedServer, status: int, error: type[RegistryError]) -> None:
    """An error is not taken for "no"."""
    server.on("HEAD", MANIFEST, Reply(status))
    async with RegistryClient() as client:
        with pytest.raises(error):
            await client.exists(image_at(server))
