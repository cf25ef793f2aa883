"""Engines of the tester's own, which keep every image that they had."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from aioruntime.runtime.connect import connect

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from aioruntime.runtime.engine_runtime import EngineRuntime

__all__ = ("GIVEN", "GivenEngine", "kept_images", "look_at")

GIVEN = tuple(url for url in os.environ.get("AIORUNTIME_TEST_ENGINES", "").split(",") if url)
"""URLs of engines, parted by commas, that the contract is tested on besides those that are started here."""

_kept: dict[str, frozenset[str]] = {}


@dataclass(frozen=True, slots=True)
class GivenEngine:
    """An engine that runs already."""

    kind: Literal["docker", "podman"]
    url: str
    release: str

    def version(self) -> dict[str, Any]:
        """What the engine says on /version, as far as tests look at it."""
        return {"Version": self.release}


def look_at(url: str, store: Path) -> GivenEngine:
    """Describe the engine at *url*, and note the images that it has."""
    return asyncio.run(_look_at(url, store))


async def _look_at(url: str, store: Path) -> GivenEngine:
    async with connect(url, store=store) as runtime:
        images = await runtime._client.json("GET", "/images/json")
        _kept.setdefault(url, frozenset(image["Id"] for image in images))
        return GivenEngine(runtime.kind, url, (await runtime.health_check()).version)


def kept_images(runtime: EngineRuntime) -> Collection[str]:
    """Return the IDs of the images that are the tester's."""
    return _kept.get(runtime._client.endpoint.shown_url, ())
