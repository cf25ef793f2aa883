"""Act at a certain point of a load, as its progress tells it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import aioruntime as ar

if TYPE_CHECKING:
    from collections.abc import Callable


class Watch(ar.NoopProgress):
    """Notes how much of an image was sent and when the last byte went; acts once at so many bytes."""

    def __init__(self, act: Callable[[], object] | None = None, after: float = 0.0) -> None:
        self.sent = 0
        self.last = 0.0
        self._act = act
        self._after = after

    def update(self, message: str, current: int | None = None, total: int | None = None) -> None:
        if not message.startswith("loading") or current is None:
            return
        self.sent = current
        self.last = time.monotonic()
        if self._act is not None and current >= self._after:
            act, self._act = self._act, None
            act()
