"""What a pull of a large image needs of memory; ``benchmarks/memory.py`` measures it at its full size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioruntime.tasks import in_thread
from benchmarks.memory import GROWTH_LIMIT, measure, write_large_image

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.assembly.plan import Layering
    from aioruntime.demo.registry import LocalRegistry
    from tests.support.engines import Engine

SIZE = 144 << 20


@pytest.mark.slow
@pytest.mark.parametrize("layering", ["keep", "merge"])
async def test_memory_does_not_grow_with_the_image(
    engine: Engine, registry: LocalRegistry, tmp_path: Path, layering: Layering
) -> None:
    """An image more than twice as large as what our memory may grow by is pulled within that."""
    await in_thread(write_large_image, tmp_path / "layout", "large", SIZE, "none")
    reference = await registry.push(tmp_path / "layout", "large", "large:1")

    found = await measure(engine.url, reference, tmp_path / "store", layering)

    assert found.growth < GROWTH_LIMIT < SIZE // 2
