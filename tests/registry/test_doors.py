"""Docker-registry behind each kind of door: what may come in pulls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient

if TYPE_CHECKING:
    from tests.support.registries import Guarded


async def test_pull(guarded: Guarded, pushed_layers: list[bytes]) -> None:
    """An image is resolved and its blobs are read, whatever the registry wants of its callers."""
    image = OciRef.parse(f"{guarded.host}/org/tool:1")
    async with RegistryClient(**guarded.options) as client:
        found = await client.resolve(image)
        for layer, data in zip(found.layers, pushed_layers, strict=True):
            async with client.blob(image, layer) as stream:
                assert b"".join([chunk async for chunk in stream]) == data
