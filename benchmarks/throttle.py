"""A proxy in a process of its own that gives each connection a rate and a delay, and may cut it.

``python -m benchmarks.throttle HOST:PORT RATE DELAY CUT`` prints the port that it listens on, lives until its
standard input ends, and then prints how many bytes it has passed on. RATE is bytes a second, DELAY seconds,
CUT 1 if each connection is to be cut after 1 to 10 MiB. The bytes go from socket to socket within the kernel:
a proxy that is busy itself would be what is measured.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Self

_PIECE = 64 * 1024


class Throttle:
    """The proxy, for as long as the `async with` block lasts.

    Args:
        target: the host and port that it leads to.
        rate: bytes a second that each connection gets.
        delay: seconds that the first byte after a rest is late.
        cut: whether connections are cut.
    """

    def __init__(self, target: str, *, rate: float, delay: float, cut: bool = False) -> None:
        self.host = ""
        self.passed = 0
        self._arguments = (target, str(rate), str(delay), str(int(cut)))

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.throttle", *self._arguments, stdin=pipe, stdout=pipe
        )
        assert self._process.stdout is not None
        self.host = f"127.0.0.1:{int(await self._process.stdout.readline())}"
        return self

    async def __aexit__(self, *_: object) -> None:
        told, _nothing = await self._process.communicate(b"")
        self.passed = int(told)


class _Relay:
    def __init__(self, target: str, rate: float, delay: float, cut: bool) -> None:
        self.passed = 0
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._rate = rate
        self._delay = delay
        self._cut = cut
        self._lock = threading.Lock()

    def serve(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._connected, args=(client,), daemon=True).start()

    def _connected(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as upstream:
            threading.Thread(target=_copy, args=(client, upstream), daemon=True).start()
            read_end, write_end = os.pipe()
            try:
                self._pass_on(upstream, client, read_end, write_end)
            finally:
                os.close(read_end)
                os.close(write_end)
                for each in (client, upstream):
                    with suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, source: socket.socket, target: socket.socket, read_end: int, write_end: int) -> None:
        left = random.randint(1 << 20, 10 << 20) if self._cut else sys.maxsize
        free_at = 0.0
        while left and (came := os.splice(source.fileno(), write_end, min(_PIECE, left))):
            now = time.monotonic()
            # A connection at rest does not save up; one whose thread woke late catches up.
            free_at = (now + self._delay if free_at < now - 0.02 else free_at) + came / self._rate
            if free_at > now:
                time.sleep(free_at - now)
            left -= came
            with self._lock:
                self.passed += came
            while came:
                came -= os.splice(read_end, target.fileno(), came)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _main(target: str, rate: str, delay: str, cut: str) -> None:
    threading.excepthook = lambda _: None  # clients and servers end connections as they like
    relay = _Relay(target, float(rate), float(delay), cut == "1")
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    threading.Thread(target=relay.serve, args=(listener,), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
    print(relay.passed, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
