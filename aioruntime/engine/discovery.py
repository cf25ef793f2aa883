"""Find an engine: the first address that answers, else a Podman service of our own (L2)."""

from __future__ import annotations

__all__ = ("open_engine",)

import os
import stat
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aioruntime.engine.client import EngineClient
from aioruntime.engine.endpoint import Endpoint, candidate_endpoints, check_url, usual_sockets
from aioruntime.engine.install import install_hint
from aioruntime.engine.service import podman_program, private_podman
from aioruntime.errors import EngineUnavailable
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

Kind = Literal["docker", "podman"]


@asynccontextmanager
async def open_engine(
    url: str | None = None,
    *,
    kind: Kind | None = None,
    environ: Mapping[str, str] | None = None,
    home: Path | None = None,
    embedded: bool = True,
) -> AsyncGenerator[EngineClient]:
    """Connect to the first engine that answers, for the time of the context.

    An address that somebody configured (*url*, the environment, a Docker context) must answer. Sockets
    that are merely looked for are passed over when they do not.

    Args:
        url: the engine's address; None to look for one.
        kind: take only an engine of this kind; None for either.
        environ: environment variables to look at; None for this process's own.
        home: home directory with Docker's settings and sockets; None for the user's own.
        embedded: whether to run a private Podman service if nothing else is found.

    Raises:
        EngineUnavailable: nothing answers; the message lists what was tried and how to install an engine.
    """
    environ = os.environ if environ is None else environ
    tried: list[str] = []
    home = home or _home(tried)
    async with AsyncExitStack() as stack:
        client = await _open_known(stack, await _candidates(url, environ, home), kind, tried)
        if client is None:
            if url is None:
                _note_absent(environ, home, tried)
            client = await _open_embedded(stack, kind, embedded, tried)
        if client is None:
            hint = "" if embedded and podman_program() else f"; {install_hint()}"
            raise EngineUnavailable(f"no {kind or 'container'} engine: {'; '.join(tried)}{hint}")
        yield client


async def _candidates(url: str | None, environ: Mapping[str, str], home: Path) -> list[Endpoint]:
    if url is not None:
        return [Endpoint(check_url(url, "url"), "url")]
    return await in_thread(candidate_endpoints, environ, home, _is_socket)


async def _open_known(
    stack: AsyncExitStack, endpoints: list[Endpoint], kind: Kind | None, tried: list[str]
) -> EngineClient | None:
    for endpoint in endpoints:
        place = f"{endpoint.source} ({endpoint.shown_url})"
        if not endpoint.explicit:
            doubt = await in_thread(_doubt, Path(endpoint.socket or ""))
            if doubt is not None:
                tried.append(f"{place}: {doubt}, not used unless asked for")
                continue
        opened = AsyncExitStack()
        try:
            client = await opened.enter_async_context(EngineClient.open(endpoint))
        except EngineUnavailable as exc:
            if endpoint.explicit:
                raise
            tried.append(exc.message)
            continue
        if kind is None or client.capabilities.kind == kind:
            stack.push_async_exit(opened)
            return client
        await opened.aclose()
        found = client.capabilities.kind
        # DOCKER_HOST and the like say where an engine is, not which kind this caller needs.
        if endpoint.source == "url":
            raise EngineUnavailable(f"{endpoint.shown_url} is {found}, not {kind}")
        tried.append(f"{place}: is {found}, not {kind}")
    return None


async def _open_embedded(
    stack: AsyncExitStack, kind: Kind | None, embedded: bool, tried: list[str]
) -> EngineClient | None:
    if kind == "docker" or not embedded:
        return None
    if podman_program() is None:
        tried.append("program podman: not installed")
        return None
    opened = AsyncExitStack()
    try:
        endpoint = await opened.enter_async_context(private_podman())
        client = await opened.enter_async_context(EngineClient.open(endpoint))
    except EngineUnavailable as exc:
        await opened.aclose()
        tried.append(f"private podman service: {exc.message}")
        return None
    except BaseException:
        await opened.aclose()
        raise
    stack.push_async_exit(opened)
    return client


def _home(tried: list[str]) -> Path:
    try:
        return Path.home()
    except RuntimeError:
        tried.append("HOME: not set, so no home directory to look in")
        return Path("/nonexistent")


def _note_absent(environ: Mapping[str, str], home: Path, tried: list[str]) -> None:
    absent = (e for e in usual_sockets(environ, home) if not _is_socket(e.socket or ""))
    tried.extend(f"{endpoint.shown_url}: not there" for endpoint in absent)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _doubt(path: Path) -> str | None:
    """Tell why the socket at *path* could be a trap: somebody else can put it there; None if nobody can."""
    trusted = (0, os.geteuid())
    try:
        if (owner := path.stat().st_uid) not in trusted:
            return f"belongs to user {owner}"
        # A link may lead to another directory.
        for directory in (path.parent, path.resolve().parent):
            about = directory.stat()
            if about.st_uid not in trusted:
                return f"lies in {directory}, which belongs to user {about.st_uid}"
            if about.st_mode & stat.S_IWOTH and not about.st_mode & stat.S_ISVTX:
                return f"lies in {directory}, where anybody can replace it"
    except OSError:
        return None  # it has gone: connecting will tell
    return None
