"""Pull into a store as a runtime does, but for the engine: documents, layers, name.

`python -m tests.support.pulls REFERENCE STORE` does it in a process of its own, and prints how it went.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import anyio

from aioruntime.assembly.catalog import keep_image
from aioruntime.assembly.fetch import FetchReport, fetch_layers
from aioruntime.errors import StoreError
from aioruntime.oci.reference import OciRef
from aioruntime.progress import NoopProgress
from aioruntime.registry.client import RegistryClient
from aioruntime.store.store import ImageStore

if TYPE_CHECKING:
    from aioruntime.progress import ProgressReporter


async def pull(
    client: RegistryClient, reference: str, store: ImageStore, progress: ProgressReporter | None = None
) -> FetchReport:
    """Pull *reference* into *store*."""
    image = await client.resolve(OciRef.parse(reference))
    report = await fetch_layers(
        image.layers,
        image=image.reference,
        source=client,
        store=store,
        progress=progress or NoopProgress(),
        connections=anyio.CapacityLimiter(16),
    )
    await keep_image(store, image)
    return report


async def _main(reference: str, store: str) -> dict[str, object]:
    async with RegistryClient() as client:
        try:
            report = await pull(client, reference, ImageStore(store))
        except StoreError as exc:
            told = {name: getattr(exc, name, None) for name in ("need", "have")}
            return {"error": type(exc).__name__, "message": str(exc), **told}
    return {"downloaded": report.downloaded_bytes}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_main(*sys.argv[1:]))))
