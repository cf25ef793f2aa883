"""Pulls as another process would: `python -m tests.runtime.puller ENGINE STORE IMAGE`.

It prints "ready" when it is connected, and for each line that it is told then pulls and prints the digest.
"""

from __future__ import annotations

import asyncio
import sys

import aioruntime as ar


async def main(url: str, store: str, image: str) -> None:
    async with ar.connect(url, store=store) as runtime:
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            try:
                print(await runtime.pull(image), flush=True)
            except ar.AioRuntimeError as error:
                print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
