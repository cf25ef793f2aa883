"""End a stream in exactly the wanted way: after its last byte has left, and by FIN or by RST."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import StreamWriter

_SIOCOUTQ = termios.TIOCOUTQ


async def sent_all(writer: StreamWriter, seconds: float = 5.0) -> None:
    """Wait until the peer's kernel has all bytes (at most `seconds`): a reset would throw the rest away."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await writer.drain()
    # The kernel tells the queue's length only to those who ask.
    while sock is not None and _queued(sock) and loop.time() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def reset(writer: StreamWriter) -> None:
    """Close the connection so that the peer sees a reset; on a unix socket, just at once."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # the other side may have ended it a moment ago
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _queued(sock: socket.socket) -> int:
    if sock.fileno() < 0:
        return 0
    found: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0" * 4))[0]
    return found
