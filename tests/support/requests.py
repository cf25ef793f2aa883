"""Read HTTP/1.1 requests from a stream into values, with every header as it came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_TLS_HELLO = b"\x16"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    connection: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(default=b"", repr=False)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        """The header's value, several joined by a comma; None if absent."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(found) if found else None


async def read_request(connection: int, reader: asyncio.StreamReader) -> Request | None:
    """Read one request with its body; None at the end of the connection."""
    first_byte = await reader.read(1)
    # A client that tries TLS first would wait for an answer to its hello.
    if first_byte in (b"", _TLS_HELLO):
        return None
    head = first_byte + await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ", 2)
    pairs = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    request = Request(connection, method, target, pairs)
    if (request.header("Transfer-Encoding") or "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(request.header("Content-Length") or 0))
    return Request(connection, method, target, pairs, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():
        pass
    return b"".join(parts)
