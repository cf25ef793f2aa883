"""Requests to an engine's HTTP API, with errors of one kind and nothing left open (L2).

aiodocker finds the transport and keeps the session; requests are made here, since its own leave a
response open when cancelled and take a cut answer for a complete one.
"""

from __future__ import annotations

__all__ = ("EngineClient", "libpod_path", "path_part", "refusal")

import errno
import json
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import aiohttp
import anyio
from yarl import URL

from aioruntime.engine.api_version import negotiate
from aioruntime.engine.capabilities import EngineCapabilities, describe, is_podman
from aioruntime.engine.transport import DockerError, Transport, tls_hint
from aioruntime.errors import EngineError, EngineUnavailable, InvalidSpec, StreamTruncated, one_line
from aioruntime.oci.checks import is_text
from aioruntime.tasks import task_group, to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    import aiodocker

    from aioruntime.engine.endpoint import Endpoint

_HINTS = {
    errno.ENOENT: "there is no such socket",
    errno.ECONNREFUSED: "nothing listens there; is the engine running?",
    errno.EACCES: "permission denied; run as a user who may use it (for Docker, one in the group docker)",
}
_ERROR_LIMIT = 64 * 1024
_OPEN_SECONDS = 30.0
_PROBE_SECONDS = 10.0
_CLOSE_SECONDS = 5.0
# Starts that a processor of the engine's machine has at a time. With 2 processors, 32 containers took Docker
# 20.10 0.82 of the time that they take when all are started at once; with twice as many starts, 0.85.
_STARTS = 2


def libpod_path(path: str) -> str:
    """Return the path of a call of Podman's own API; use it with ``versioned=False``."""
    # Podman takes any version up to its own here; 4.0.0 is the oldest whose documents are still current.
    return f"/v4.0.0/libpod{path}"


def path_part(name: str) -> str:
    """Escape the name or ID of an image, a container and the like for use in a path.

    Raises:
        InvalidSpec: it would make the path that of another call.
    """
    if not is_text(name) or {"", ".", ".."} & set(name.split("/")):
        raise InvalidSpec(f"{one_line(repr(name))} is not a name or ID; give such as the engine's lists tell")
    return quote(name, safe="/:@")


class EngineClient:
    """A connection to one Docker or Podman engine; made by `open`.

    Attributes:
        endpoint: where the engine is and how it was found.
        docker: an aiodocker client for the endpoints that this library has no function for.
        api_version: the API version spoken, such as ``1.41``.
        version: the engine's answer to ``/version``.
        capabilities: what the engine is and can do, as it said last.
        starting: the containers that it may be asked to start at once.
    """

    capabilities: EngineCapabilities
    starting: anyio.Semaphore

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.endpoint = endpoint
        self.transport = transport
        self.docker: aiodocker.Docker = transport.docker
        self.api_version = ""
        self.version: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, endpoint: Endpoint, *, timeout: float = _OPEN_SECONDS) -> AsyncGenerator[Self]:
        """Connect to the engine at *endpoint* and agree on an API version, for the time of the context.

        Args:
            endpoint: where the engine is.
            timeout: seconds that it may take to answer.

        Raises:
            EngineUnavailable: nothing answers there, or no engine that can be spoken with.
        """
        transport = Transport.to(endpoint)
        try:
            client = cls(endpoint, transport)
            await client._agree(timeout)
            await client.probe(timeout=timeout)
            client.starting = anyio.Semaphore(_STARTS * max(client.capabilities.cpus, 1), fast_acquire=True)
            yield client
        finally:
            await to_completion(_close_transport(transport))

    async def _agree(self, timeout: float) -> None:
        with self._usable():
            document = await self.json("GET", "/version", timeout=timeout, versioned=False)
        if not isinstance(document, dict) or not isinstance(document.get("ApiVersion"), str):
            raise EngineUnavailable(f"what answers at {self.place} is no container engine")
        self.version = document
        self.api_version = negotiate(document["ApiVersion"], document.get("MinAPIVersion"))
        self.docker.api_version = f"v{self.api_version}"

    async def probe(self, *, timeout: float = _PROBE_SECONDS) -> EngineCapabilities:
        """Ask the engine what it is and can do now; the answer is also kept as `capabilities`.

        Args:
            timeout: seconds that each of its answers may take.

        Raises:
            EngineUnavailable: it does not answer, or in an unknown way; the message has its address.
        """
        answers: dict[str, Any] = {}

        async def ask(path: str, *, versioned: bool) -> None:
            answers[path] = await self.json("GET", path, timeout=timeout, versioned=versioned)

        libpod = libpod_path("/info")
        with self._usable():
            # Podman runs other programs for each answer, for a tenth of a second or more.
            async with task_group() as group:
                group.start_soon(partial(ask, "/info", versioned=True))
                if is_podman(self.version):
                    group.start_soon(partial(ask, libpod, versioned=False))
            self.capabilities = describe(
                self.version, answers["/info"], answers.get(libpod), local=self.endpoint.socket is not None
            )
        return self.capabilities

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except EngineUnavailable:
            raise
        except EngineError as exc:
            raise EngineUnavailable(f"no usable engine at {self.place}: {exc}", status=exc.status) from exc

    @property
    def place(self) -> str:
        """Where the engine is, and who said so; to be shown."""
        return f"{self.endpoint.shown_url} ({self.endpoint.source})"

    def path(self, path: str, *, versioned: bool = True) -> str:
        """Return the request path of API call *path*, with the version in front if *versioned*."""
        return f"/v{self.api_version}{path}" if versioned else path

    async def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | list[str]] | None = None,
        body: object = None,
        timeout: float | None = 60,
        versioned: bool = True,
    ) -> Any:
        """Make a call and return the decoded answer; None if the answer is empty.

        Args:
            method: the HTTP method.
            path: the path without version, its names escaped by `path_part`.
            params: the query.
            body: sent as JSON unless None.
            timeout: seconds that the whole call may take; None for no limit.
            versioned: whether the API version goes in front of *path*.

        Raises:
            EngineError: the engine refused, or answered something that is no JSON.
            EngineUnavailable: the engine can't be reached, or did not answer in time.
            StreamTruncated: the connection ended before the answer did.
        """
        raw = await self.send(method, path, params=params, body=body, timeout=timeout, versioned=versioned)
        if not raw.strip():
            return None
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as exc:
            text = one_line(raw.decode(errors="replace"))
            raise EngineError(f"{method} {path}: the engine's answer is no JSON: {text}") from exc

    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | list[str]] | None = None,
        body: object = None,
        timeout: float | None = 60,
        versioned: bool = True,
    ) -> bytes:
        """Make a call and return the answer as it came; arguments and errors are those of `json`."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        limit = aiohttp.ClientTimeout(total=timeout)
        async with self._call(method, path, params, data, headers, limit, versioned) as response:
            return await response.read()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | list[str]] | None = None,
        body: AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        versioned: bool = True,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Make a call whose body or answer may be long; there is no limit on its time.

        The response is closed with the context, however that ends. If *body* raises, that exception
        comes out.

        Raises:
            EngineError: the engine refused.
            EngineUnavailable: the engine can't be reached.
            StreamTruncated: the connection ended before the answer did.
        """
        upload = None if body is None else _Upload(body)
        limit = aiohttp.ClientTimeout(total=None, sock_connect=_OPEN_SECONDS)
        data = None if upload is None else upload.pieces()
        try:
            async with self._call(method, path, params, data, headers or {}, limit, versioned) as response:
                yield response
        except Exception:
            if upload is not None and upload.error is not None:
                raise upload.error from None
            raise
        finally:
            if data is not None:
                await to_completion(_close(data))

    @asynccontextmanager
    async def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | list[str]] | None,
        data: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
        versioned: bool,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        url = URL(self.transport.base_url + self.path(path, versioned=versioned), encoded=True)
        call = f"{method} {path}"
        if self.docker.session.closed:
            raise EngineUnavailable(
                f"{call}: the connection to {self.place} was closed: its runtime was left"
            )
        response = None
        try:
            with self.failures(call, timeout.total, answered=False):
                response = await self.docker.session.request(
                    method, url, params=params, data=data, headers=headers, timeout=timeout,
                    allow_redirects=False,
                )  # fmt: skip
            with self.failures(call, timeout.total):
                if response.status >= 300 and response.status != 304:
                    raise await self._refusal(call, response)
                yield response
        finally:
            if response is not None:
                response.close()

    @contextmanager
    def failures(self, call: str, timeout: float | None = None, *, answered: bool = True) -> Iterator[None]:
        """Raise what goes wrong with the connection of *call*, before or after its answer, as our errors."""
        try:
            yield
        except TimeoutError as exc:
            within = f"within {timeout:g} s" if timeout is not None else "in time"
            raise EngineUnavailable(f"{call}: no answer from {self.place} {within}") from exc
        except (aiohttp.ClientConnectorError, DockerError) as exc:
            raise EngineUnavailable(f"no engine answers at {self.place}: {unreachable(exc)}") from exc
        except (aiohttp.ClientError, ConnectionError) as exc:
            if not answered and (failure := tls_hint(exc) or self.transport.failure):
                raise EngineUnavailable(f"no engine answers at {self.place}: {failure}") from exc
            reason = one_line(str(exc) or type(exc).__name__)
            raise StreamTruncated(f"{call}: the engine closed the connection: {reason}") from exc

    async def _refusal(self, call: str, response: aiohttp.ClientResponse) -> EngineError:
        raw = await response.content.read(_ERROR_LIMIT)
        while len(raw) < _ERROR_LIMIT and (more := await response.content.read(_ERROR_LIMIT - len(raw))):
            raw += more
        return refusal(call, response.status, raw)


def refusal(call: str, status: int, body: bytes) -> EngineError:
    """Make the error for an answer with *status* and *body* to *call*."""
    text = body.decode(errors="replace")
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        text = json.loads(text)["message"]
    reason = one_line(str(text)) or "no reason given"
    return EngineError(f"{one_line(call)}: {reason} ({status})", status=status)


def unreachable(exc: Exception) -> str:
    """Tell why an engine can't be reached, and what can be done about it."""
    error = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else None
    hint = tls_hint(exc) or (_HINTS.get(error.errno or 0) if error is not None else None)
    return hint or one_line(str((error and error.strerror) or exc))


class _Upload:
    """A body that remembers how its source failed, since aiohttp tells it as a connection error."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self.error: Exception | None = None

    async def pieces(self) -> AsyncGenerator[bytes]:
        try:
            async for piece in self._source:
                yield piece
        except Exception as exc:
            self.error = exc
            raise


async def _close(pieces: AsyncGenerator[bytes]) -> None:
    with anyio.move_on_after(_CLOSE_SECONDS):
        # aiohttp has told its writing task to end, but does not wait for it; until then that holds us up.
        while getattr(pieces, "ag_running", False):  # noqa: ASYNC110 - nothing else tells
            await anyio.sleep(0.001)
        await pieces.aclose()


async def _close_transport(transport: Transport) -> None:
    with anyio.move_on_after(_CLOSE_SECONDS):
        await transport.aclose()
