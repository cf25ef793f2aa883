"""Upload one blob to a repository: in pieces that go on where a break left them, or as one body (L2).

Follows "Pushing blobs" of the OCI distribution specification: "Pushing a blob in chunks", "Pushing a blob
monolithically" (POST, then PUT), "Mounting a blob from another repository" and its upload status.
"""

from __future__ import annotations

__all__ = (
    "Destination",
    "Pieces",
    "Upload",
    "UploadLost",
    "check_answer",
    "chunk_size",
    "received",
)

import asyncio
import random
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aioruntime.errors import DigestMismatch, RegistryError, RequestRefused, Unauthorized, one_line
from aioruntime.registry.endpoints import Endpoint
from aioruntime.registry.origins import Rules, follow, parse_url
from aioruntime.registry.requests import Requests
from aioruntime.registry.retry import Retry, pause_before, worth_another_try
from aioruntime.tasks import to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from yarl import URL

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import LayerSpec
    from aioruntime.registry.answer import Answer
    from aioruntime.registry.http import Method

_CHUNK = 4 * 1024 * 1024
# A chunk is held in memory, and a registry does not decide how much of that there is.
_LARGEST_CHUNK = 32 * 1024 * 1024
# Breaks in a row, with nothing received in between, after which an upload is given up.
_BREAKS = 4
_ABANDON_SECONDS = 5.0
_RANGE = re.compile(r"(?:bytes[= ])?0-([0-9]{1,19})", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)
_CHECK_REPOSITORY = "check the repository's name; some registries want it to be made first"


class UploadLost(RegistryError):
    """The registry can't go on with an upload; a new one may work.

    Attributes:
        takes_pieces: False if it has refused a piece that fitted, so that it may take none.
    """

    def __init__(self, failed: RegistryError, *, takes_pieces: bool = True) -> None:
        super().__init__(str(failed), status=failed.status, code=failed.code, temporary=True)
        self.takes_pieces = takes_pieces


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository to push to, and what is needed to get there."""

    requests: Requests
    rules: Rules
    endpoint: Endpoint
    retry: Retry

    def open(
        self,
        method: Method,
        url: URL,
        what: str,
        headers: Mapping[str, str] | None = None,
        *,
        mount: str | None = None,
        body: AsyncIterable[bytes] | None = None,
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request with leave to push, and to pull from the repository to *mount* from."""
        scopes = [f"repository:{self.endpoint.repository}:{'delete' if method == 'DELETE' else 'pull,push'}"]
        scopes += [f"repository:{mount}:pull"] if mount else []
        return self.requests.open(method, url, self.endpoint, what, headers, scopes=scopes, body=body)


def chunk_size(headers: Mapping[str, str]) -> int:
    """Return the bytes of a chunk, no less than ``OCI-Chunk-Min-Length`` demands within reason."""
    wanted = headers.get("OCI-Chunk-Min-Length", "").strip()
    least = int(wanted) if _LENGTH.fullmatch(wanted) else 0
    return min(max(_CHUNK, least), _LARGEST_CHUNK)


def received(headers: Mapping[str, str]) -> int | None:
    """Return the bytes that ``Range`` says were received; None if it says nothing.

    ``0-0`` stands for one byte, but some registries send it for none: 1 is not to be relied on.
    """
    found = _RANGE.fullmatch(headers.get("Range", "").strip())
    return int(found[1]) + 1 if found else None


def _is_final(failed: RegistryError) -> bool:
    """Tell whether trying again, in whatever way, would not help."""
    return isinstance(failed, Unauthorized | RequestRefused) or failed.status == 413


def _lost(broken: RegistryError) -> RegistryError:
    """Return what has a new upload begun after *broken*: itself, if it is such a failure already."""
    return broken if worth_another_try(broken) else UploadLost(broken)


def check_answer(answer: Answer, digest: ImageDigest, what: str) -> None:
    """Check that what the registry says it has taken is what it was sent.

    Raises:
        DigestMismatch: it says otherwise.
    """
    told = answer.headers.get("Docker-Content-Digest", "").strip()
    # Some registries tell the digest by their own algorithm, whatever they were asked by.
    if told.startswith(f"{digest.algorithm}:") and told != digest:
        raise DigestMismatch(
            f"{what}: {answer.host} says that it has taken {one_line(told, 140)}; it was sent {digest}",
            expected=digest,
            actual=told,
        )


class Pieces:
    """Bytes as a body, which can be iterated over again."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._data:
            yield self._data


class Upload:
    """One attempt to upload *blob*, called *what* in messages; made by `opened`.

    Attributes:
        chunk: bytes of each piece that `send` is given, but the last.
    """

    def __init__(self, to: Destination, blob: LayerSpec, what: str) -> None:
        self.chunk = _CHUNK
        self._to = to
        self._blob = blob
        self._what = what
        self._place: URL | None = None
        self._offset = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls, to: Destination, blob: LayerSpec, what: str) -> AsyncIterator[Upload]:
        """Give an upload that the registry is told to forget if it is not finished by the end."""
        upload = cls(to, blob, what)
        try:
            yield upload
        finally:
            if upload._place is not None:
                await to_completion(upload._abandon(upload._place))

    async def begin(self, mount: str | None) -> bool:
        """Begin it, or have the registry take the blob from the repository to *mount* from.

        Returns:
            True if it took it from there, so that there is nothing to send.
        """
        url = self._to.endpoint.url("blobs/uploads/")
        if mount:
            url = url.with_query({"mount": self._blob.digest, "from": mount})
        async with self._to.open("POST", url, self._what, mount=mount) as answer:
            if mount and answer.status == 201:
                check_answer(answer, self._blob.digest, self._what)
                return True
            if answer.status != 202:
                raise await answer.error(_CHECK_REPOSITORY)
            self._follow(answer)
            self.chunk = chunk_size(answer.headers)
        return False

    async def send(self, data: bytes) -> None:
        """Send the next piece, and what a break keeps back of it once more.

        Raises:
            UploadLost: the registry can't go on with this upload.
            RegistryError: it refused.
        """
        start, end, breaks = self._offset, self._offset + len(data), 0
        while (at := self._offset) < end:
            broken = None
            try:
                held = await self._patch(at, data[at - start :])
            except RegistryError as exc:
                broken = exc
                held = await self._held_after(exc, at)
            breaks = 0 if held > at else breaks + 1
            # Some registries tell of one byte where they have none, so it does not count.
            if not max(at, 2) <= held <= end or breaks == _BREAKS:
                raise _lost(broken or self._failed(f"has {held} bytes, and was sent {at} to {end}"))
            if breaks:
                await self._to.retry.clock.sleep(pause_before(breaks, random.random()))
            self._offset = held

    async def finish(self, body: AsyncIterable[bytes], length: int) -> None:
        """Send the last piece, or all, and have the registry check the whole.

        Raises:
            UploadLost: the registry does not know the upload, or not with these bytes.
            DigestMismatch: it says that it has taken something else.
            RegistryError: it refused, or the connection broke.
        """
        place = self._known_place()
        # Put together as text: the query that it came with has to stay as it is.
        joint = "&" if place.raw_query_string else "?"
        query = urlencode({"digest": self._blob.digest})
        url = parse_url(str(place).rstrip("?&") + joint + query, f"{self._what}: upload")
        async with self._to.open("PUT", url, self._what, _content(length), body=body) as answer:
            if answer.status in (404, 416):
                raise UploadLost(await answer.error(_CHECK_REPOSITORY))
            if not 200 <= answer.status < 300:
                raise await answer.error(_CHECK_REPOSITORY)
            self._place = None
            check_answer(answer, self._blob.digest, self._what)

    async def _patch(self, at: int, data: bytes) -> int:
        """Send *data*; return the bytes that the registry has then."""
        fields = {"Content-Range": f"{at}-{at + len(data) - 1}", **_content(len(data))}
        place = self._known_place()
        async with self._to.open("PATCH", place, self._what, fields, body=Pieces(data)) as answer:
            if not 200 <= answer.status < 300:
                raise await answer.error(_CHECK_REPOSITORY)
            self._follow(answer)
            held = received(answer.headers)
            return at + len(data) if held is None else held

    async def _held_after(self, broken: RegistryError, at: int) -> int:
        """Return the bytes that the registry has after a piece sent from *at* on has failed."""
        if _is_final(broken):
            raise broken
        try:
            async with self._to.open("GET", self._known_place(), self._what) as answer:
                if answer.status not in (200, 204):
                    raise await answer.error(_CHECK_REPOSITORY)
                self._follow(answer)
                held = received(answer.headers) or 0
        except RegistryError as exc:
            if _is_final(exc):
                raise
            raise _lost(broken) from exc
        if broken.status is not None and not worth_another_try(broken) and held <= max(at, 1):
            raise UploadLost(broken, takes_pieces=False) from broken
        return held

    def _follow(self, answer: Answer) -> None:
        """Note where the upload goes on; a registry that does not say goes on where it was."""
        location = answer.headers.get("Location")
        if location is not None:
            place = follow(answer.url, location, "upload")
            root = self._to.endpoint.root
            self._to.rules.may_send(place, registry=root, what="upload", previous=answer.url)
            self._place = place

    def _known_place(self) -> URL:
        if self._place is None:
            raise self._failed("tells no place to upload to")
        return self._place

    def _failed(self, why: str) -> RegistryError:
        return RegistryError(f"{self._what}: {self._to.endpoint.host} {why}")

    async def _abandon(self, place: URL) -> None:
        with suppress(RegistryError, TimeoutError):
            async with asyncio.timeout(_ABANDON_SECONDS), self._to.open("DELETE", place, self._what):
                pass


def _content(length: int) -> dict[str, str]:
    return {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
