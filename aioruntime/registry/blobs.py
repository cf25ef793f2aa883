"""Stream a blob: what its range and its length have to be, and how much of it came (L2).

Follows "Pulling blobs" of the OCI distribution specification, and RFC 9110, 14.4 and 15.3.7, for ranges.
"""

from __future__ import annotations

__all__ = ("BlobStream", "range_fits")

import re
from typing import TYPE_CHECKING

from aioruntime.errors import RegistryError, SizeMismatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aioruntime.oci.image import LayerSpec
    from aioruntime.registry.answer import Answer

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII | re.IGNORECASE)


def range_fits(content_range: str, offset: int, size: int, length: int | None = None) -> bool:
    """Tell whether an answer is exactly the rest of a blob of *size* bytes from *offset* on.

    Args:
        content_range: value of ``Content-Range``.
        offset: where the rest was asked to start.
        size: bytes of the whole blob.
        length: value of ``Content-Length``; None if there is none.
    """
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if match is None or length not in (None, size - offset):
        return False
    return tuple(map(int, match.groups())) == (offset, size - 1, size)


class BlobStream:
    """The body of a blob as it arrives: an async iterator of its bytes.

    The bytes are not hashed here: whoever keeps them does.

    Attributes:
        host: who answers for these bytes, after redirects; for messages.
        offset: where the body starts: what was asked for, or 0 if the server sends all of it.
        public: whether anybody would be sent it, since no credentials were needed.
    """

    def __init__(self, answer: Answer, layer: LayerSpec, what: str, offset: int) -> None:
        self.host = answer.host
        self.offset = offset
        self.public = answer.public
        self._answer = answer
        self._size = layer.size
        self._what = what
        self._seen = offset
        answer.check_encoding()
        if answer.length is not None and offset + answer.length > layer.size:
            raise self._surplus(offset + answer.length)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next bytes; pieces are as large as they come, under 1 MiB.

        Raises:
            SizeMismatch: there are more than the declared size; no byte beyond it was given.
            RegistryError: there are fewer, or the connection broke or stalled. What was given is good to
                be kept: ask for the rest with *offset*.
        """
        try:
            chunk = await self._answer.chunk()
        except RegistryError as exc:
            raise RegistryError(f"{exc}; {self._progress()}") from exc.__cause__
        if not chunk:
            if self._seen < self._size:
                raise RegistryError(f"{self._what}: {self.host} ended the blob early; {self._progress()}")
            raise StopAsyncIteration
        self._seen += len(chunk)
        if self._seen > self._size:
            raise self._surplus(self._seen)
        return chunk

    def _progress(self) -> str:
        return f"{self._seen} of {self._size} bytes came; pulling again resumes there"

    def _surplus(self, seen: int) -> SizeMismatch:
        return SizeMismatch(
            f"{self._what}: {self.host} sends at least {seen} bytes where {self._size} were declared",
            expected=self._size,
            actual=seen,
        )
