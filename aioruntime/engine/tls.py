"""TLS connections of which one direction can be ended, as asyncio's own can't (L2).

TLS ends each direction by a farewell of its own (``close_notify``), and engines take it as the end of the
input. Here `ssl.SSLObject` stands between the bytes of a `Wire` and who reads and writes.
"""

from __future__ import annotations

__all__ = ("TlsWire",)

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from aioruntime.engine.wire import Wire

if TYPE_CHECKING:
    import socket

_RECORD = 16 * 1024


class TlsWire(Wire):
    """A connection with TLS; an end without TLS's farewell is an error of who reads, no end.

    Args:
        connected: a connected socket that does not block; it is closed with this.
        context: what is trusted, and the client's certificate.
        host: the name or address that the certificate must be for.
    """

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(connected)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._arrived = bytearray()
        self._ended = False

    async def shake_hands(self) -> None:
        """Begin the session; to be called once, first.

        Raises:
            OSError: each does not trust the other (`ssl.SSLError`), or the connection was cut.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.drain()
                await self._take_in()
            except ssl.SSLError:
                with suppress(OSError):
                    await self.drain()  # tells the other side why
                raise
            else:
                return await self.drain()

    async def receive(self) -> bytes:
        """See `Wire.receive`."""
        while True:
            self._decrypt()
            if self._arrived or self._ended:
                arrived = bytes(self._arrived)
                self._arrived.clear()
                return arrived
            self._collect()
            with suppress(OSError):  # that nothing can be sent any more is told to who writes
                self._send()  # a word of TLS itself; if it can't go now, it goes with what is written next
            await self._take_in()

    def write(self, data: bytes) -> None:
        """See `Wire.write`."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]

    async def drain(self) -> None:
        """See `Wire.drain`."""
        self._collect()
        await super().drain()

    async def end(self) -> None:
        """See `Wire.end`."""
        # It also looks for the farewell of the other side, and data there would be its end: so there must
        # be none.
        self._decrypt()
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        await self.drain()

    def _collect(self) -> None:
        super().write(self._outgoing.read())

    def _decrypt(self) -> None:
        """Take all that has arrived out of the session."""
        with suppress(ssl.SSLWantReadError):
            while not self._ended:
                try:
                    data = self._tls.read(_RECORD)
                except ssl.SSLZeroReturnError:
                    data = b""  # the same as no data, once our own direction was ended
                self._arrived += data
                self._ended = not data

    async def _take_in(self) -> None:
        data = await super().receive()
        if not data:
            raise ConnectionAbortedError("the connection was cut: it ended without TLS's farewell")
        self._incoming.write(data)
