"""Bytes both ways over a socket, each way for itself (L2).

asyncio's own streams are one thing: where a write fails they read no more, and drop what has arrived. But
the output of a program that ended before it read its input is whole.
"""

from __future__ import annotations

__all__ = ("Wire", "connect_tcp", "connect_unix")

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PIECE = 64 * 1024


class Wire:
    """A connection that is read by one task and written by one.

    Args:
        connected: a connected socket that does not block; it is closed with this.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._unsent: deque[memoryview] = deque()

    async def receive(self) -> bytes:
        """Return what arrives next, nothing at the end; if it is cancelled, nothing is lost.

        Raises:
            OSError: the connection was cut, or closed on this side.
        """
        await asyncio.sleep(0)  # where there is always something, others have their turn
        if self._socket.fileno() < 0:
            raise ConnectionAbortedError("it was closed on this side")
        while True:
            try:
                return self._socket.recv(_PIECE)
            except BlockingIOError:
                await self._until(anyio.wait_readable)
            except ConnectionResetError:
                if self._socket.family != socket.AF_UNIX:
                    raise
                return b""  # the other side had not read all when it closed; what it sent came first

    def write(self, data: bytes) -> None:
        """Have *data* sent by the next `drain`."""
        if data:
            self._unsent.append(memoryview(data))

    async def drain(self) -> None:
        """Return once all that was written is sent; if it is cancelled, the next one goes on.

        Raises:
            OSError: the other side takes no more.
        """
        await asyncio.sleep(0)
        while not self._send():
            await self._until(anyio.wait_writable)

    async def end(self) -> None:
        """Send what was written and end this direction; the other goes on.

        Raises:
            OSError: the other side takes no more.
        """
        await self.drain()
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection; who waits for it gets an error."""
        anyio.notify_closing(self._socket)
        self._socket.close()

    def _send(self) -> bool:
        """Send what can be sent at once; tell whether that was all."""
        try:
            while self._unsent:
                if rest := self._unsent[0][self._socket.send(self._unsent[0]) :]:
                    self._unsent[0] = rest
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            return False
        except OSError:
            self._unsent.clear()
            raise
        return True

    async def _until(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        try:
            await ready(self._socket)
        except anyio.ClosedResourceError as exc:
            raise ConnectionAbortedError("it was closed on this side") from exc


async def connect_unix(path: str) -> socket.socket:
    """Return a socket that is connected to that of *path*.

    Raises:
        OSError: nothing answers there.
    """
    return await _connected(socket.AF_UNIX, path)


async def connect_tcp(host: str, port: int) -> socket.socket:
    """Return a socket that is connected to *host*, by the first of its addresses that answers.

    Raises:
        OSError: nothing answers there.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failures: list[OSError] = []
    for family, *_, address in found:
        try:
            connected = await _connected(family, address)
        except OSError as exc:
            failures.append(exc)
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise failures[0]


async def _connected(family: int, address: str | tuple[str | int | bytes, ...]) -> socket.socket:
    connecting = socket.socket(family)
    try:
        connecting.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connecting, address)
    except BaseException:
        connecting.close()
        raise
    return connecting
