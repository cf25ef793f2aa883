"""Stream a blob: what its range and its length have to be, and where it goes on after a failure (L2).

Follows "Pulling blobs" of the OCI distribution specification, and RFC 9110, 14.4 and 15.3.7, for ranges.
"""

from __future__ import annotations

__all__ = ("BlobStream", "range_fits")

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from aioruntime.errors import RegistryError
from aioruntime.registry.verify import surplus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aioruntime.oci.image import LayerSpec
    from aioruntime.registry.answer import Answer
    from aioruntime.registry.blob_requests import BlobRequests
    from aioruntime.registry.mirrors import Place
    from aioruntime.registry.retry import Retry

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII | re.IGNORECASE)
# Less than this within the patience is no download, however often a byte comes.
_LEAST = 64 * 1024


def range_fits(
    content_range: str, offset: int, size: int, length: int | None = None, *, end: int | None = None
) -> bool:
    """Tell whether an answer is exactly a part of a blob of *size* bytes from *offset* on.

    Args:
        content_range: value of ``Content-Range``.
        offset: where the part was asked to start.
        size: bytes of the whole blob.
        length: value of ``Content-Length``; None if there is none.
        end: where the part ends; the blob's end if not given.
    """
    end = size if end is None else end
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if match is None or length not in (None, end - offset):
        return False
    return tuple(map(int, match.groups())) == (offset, end - 1, size)


class BlobStream:
    """The body of a blob as it arrives: an async iterator of its bytes, and a context in which it is open.

    When the connection breaks or stalls, it goes on where the bytes ended, at another place if there is one;
    its reader does not notice. The bytes are not hashed here: whoever keeps them does.

    Args:
        requests: makes requests for the blob.
        layer: the blob.
        what: the blob and its image, for messages.
        part: where the wanted bytes begin, and where they end.
        retry: tries again.
        patience: seconds of waiting within which some bytes have to come.

    Attributes:
        host: who answers for these bytes, after redirects; for messages.
        offset: where the body starts: what was asked for, or 0 if the server sends all of it.
        end: where it ends: what was asked for, or the blob's end if the server sends all of it.
        public: whether its registry sends it to anybody, since no credentials were needed.
        place: who sent it, to be avoided in order to have it from elsewhere; None if nobody else is known, or
            several did.
        answers: how many answers the bytes were put together from.
        repeated: bytes that came again, and were left out, where a server can't go on in the middle.
    """

    def __init__(
        self,
        requests: BlobRequests,
        layer: LayerSpec,
        what: str,
        part: tuple[int, int],
        retry: Retry,
        patience: float,
    ) -> None:
        self.host = ""
        self.offset, self.end = part
        self.public = True
        self.answers = 0
        self.repeated = 0
        self.place: Place | None = None
        self._requests = requests
        self._from: Place | None = None
        self._size = layer.size
        self._what = what
        self._retry = retry
        self._seen = self.offset
        self._skip = 0
        self._told = False  # what `offset` and `end` are
        self._beyond = False  # the answer does not stop at `end`
        self._etag: str | None = None
        self._ranges = True
        self._answer: Answer | None = None
        self._open = AsyncExitStack()
        self._patience = max(patience, retry.budget)
        self._watch = _Watch(self._patience)

    async def __aenter__(self) -> Self:
        await self._retry(self._connected)
        self._told = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next bytes; pieces are as large as they come, under 1 MiB.

        Raises:
            SizeMismatch: there are more than the declared size; no byte beyond it was given.
            RegistryError: the rest can't be had, although it was tried again. What was given is good to be
                kept: ask for the rest with *offset*.
        """
        clock = self._retry.clock
        since = clock.now()
        try:
            chunk = await self._retry(self._next)
        except RegistryError as exc:
            exc.args = (f"{exc}; {self._progress()}",)
            raise
        if not chunk:
            raise StopAsyncIteration
        if self._watch.too_slow(clock.now() - since, len(chunk)):
            raise RegistryError(f"{self._what}: {self.host} sends too little; {self._progress()}")
        return chunk

    async def _next(self) -> bytes:
        if self._beyond and self._seen == self.end:
            return b""
        answer = await self._connected()
        try:
            chunk = await self._skipping(answer)
            if self._beyond:
                chunk = chunk[: self.end - self._seen]
            if not chunk and self._seen < self.end:
                raise RegistryError(f"{self._what}: {self.host} ended the blob early", temporary=True)
        except RegistryError as exc:
            await self._close()
            if exc.temporary and self._seen == self.end:
                return b""  # only the end of the answer is missing
            if self._from is not None:
                self._requests.failed(self._from)
            raise
        if self._seen + len(chunk) > self.end:
            raise surplus(self._what, self.host, self._seen + len(chunk), self._size)
        self._seen += len(chunk)
        return chunk

    async def _skipping(self, answer: Answer) -> bytes:
        """Wait for the answer's next bytes after those that are to be skipped."""
        clock, watch = self._retry.clock, _Watch(self._patience)
        while True:
            since = clock.now()
            chunk = await answer.chunk()
            again = min(self._skip, len(chunk))
            self._skip -= again
            self.repeated += again
            if again < len(chunk) or not chunk:
                return chunk[again:]
            if watch.too_slow(clock.now() - since, again):
                raise RegistryError(f"{self._what}: {answer.host} sends too little of what came before")

    async def _connected(self) -> Answer:
        """Return an answer whose body goes on where we are, after what is to be skipped."""
        if self._answer is None:
            whole = self._seen == 0 and self.end == self._size
            try:
                answer = await self._part() if self._ranges and not whole else None
                self._answer = answer or await self._whole()
            except BaseException:
                await self._close()
                raise
            self._etag = self._etag or self._answer.headers.get("ETag")
            self.host = self._answer.host
            self.public = self.public and self._answer.public
            self.answers += 1
        return self._answer

    async def _part(self) -> Answer | None:
        """Ask for exactly what is missing; None if the server does not give that."""
        last = "" if self.end == self._size else str(self.end - 1)
        answer = await self._ask({"Range": f"bytes={self._seen}-{last}"})
        if answer.status == 200:
            return self._begun_again(answer)
        if answer.status in (206, 416):
            # Bytes of another version of the blob are none of this one: RFC 9110, 15.3.7.3.
            etag = answer.headers.get("ETag", self._etag)
            if (
                answer.status == 206
                and self._etag in (None, etag)
                and range_fits(answer.content_range, self._seen, self._size, answer.length, end=self.end)
            ):
                self._beyond = False
                return answer
            await self._close()
        self._ranges = False
        return None

    async def _whole(self) -> Answer:
        answer = await self._ask({})
        if answer.status != 200:
            raise await answer.error("a whole blob was asked for")
        return self._begun_again(answer)

    def _begun_again(self, answer: Answer) -> Answer:
        if not self._told:
            self._seen = self.offset = 0
            self.end = self._size
        self._skip = self._seen
        self._beyond = self.end < self._size
        return answer

    async def _ask(self, headers: Mapping[str, str]) -> Answer:
        await self._close()
        place, answer = await self._open.enter_async_context(self._requests.open(headers))
        if place != self._from:
            self._etag, self._ranges = None, True  # each place has its own
            # Who is to blame for wrong bytes can be told only where all came from one.
            alone = self._from is None and self._requests.elsewhere(place)
            self.place = place if alone else None
        self._from = place
        return answer

    async def _close(self) -> None:
        self._answer = None
        opened, self._open = self._open, AsyncExitStack()
        await opened.aclose()

    def _progress(self) -> str:
        return f"{self._seen} of {self._size} bytes came; pulling again resumes there"


class _Watch:
    """Notices a body that drips, be it on one connection or on many."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._waited = 0.0
        self._came = 0

    def too_slow(self, waited: float, came: int) -> bool:
        """Tell whether too little came, now that so many bytes came after so many seconds."""
        self._waited += waited
        self._came += came
        if self._came >= _LEAST:
            self._waited, self._came = 0.0, 0
        return self._waited > self._patience
