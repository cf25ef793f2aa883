"""Fixtures for the command line: where it finds its engine and store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.engines import Engine


@pytest.fixture
async def where(engine: Engine, tmp_path: Path) -> AsyncIterator[tuple[str, ...]]:
    """The options that name each engine in turn and an empty store; its images are removed afterwards."""
    yield "--url", engine.url, "--store", str(tmp_path / "store")
    async with ar.connect(engine.url, store=tmp_path / "store") as runtime:
        await remove_images(runtime)
