"""A proxy in a process of its own that gives each connection a rate and a delay, and may cut it.

``python -m benchmarks.throttle HOST:PORT RATE DELAY CUT`` prints the port that it listens on, lives until its
standard input ends, and then prints how many bytes it has passed on. RATE is bytes a second, DELAY seconds,
CUT 1 if each connection is to be cut after 1 to 10 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from typing import Self

_PIECE = 64 * 1024


class Throttle:
    """The proxy, for as long as the `async with` block lasts.

    Args:
        target: the host and port that it leads to.
        rate: bytes a second that each connection gets.
        delay: seconds that each byte is late.
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
        told, _nothing = await self._process.communicate()
        self.passed = int(told)


class _Relay:
    def __init__(self, target: str, rate: float, delay: float, cut: bool) -> None:
        self.passed = 0
        self._host, _, self._port = target.rpartition(":")
        self._rate = rate
        self._delay = delay
        self._cut = cut

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, upstream = await asyncio.open_connection(self._host, int(self._port))
        up = asyncio.create_task(self._copy(reader, upstream))
        down = asyncio.create_task(self._pass_on(answers, writer))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for each in (writer, upstream):
                each.close()

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        left = random.randint(1 << 20, 10 << 20) if self._cut else sys.maxsize
        free_at = 0.0
        while left and (data := await reader.read(_PIECE)):
            data = data[:left]
            now = clock()
            # A connection at rest does not save up; one that is late by a tick of the loop catches up.
            begins = now + self._delay if free_at < now - 0.02 else free_at
            free_at = begins + len(data) / self._rate
            if free_at > now:
                await asyncio.sleep(free_at - now)
            writer.write(data)
            await writer.drain()
            self.passed += len(data)
            left -= len(data)


async def _main(target: str, rate: str, delay: str, cut: str) -> None:
    relay = _Relay(target, float(rate), float(delay), cut == "1")
    server = await asyncio.start_server(relay.connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    print(relay.passed, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(*sys.argv[1:]))
