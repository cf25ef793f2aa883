"""A progress reporter that keeps what is told at the end."""

from __future__ import annotations

import re

import aioruntime as ar


class Said(ar.NoopProgress):
    """Keeps the last words of each piece of work."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def finish(self, message: str) -> None:
        """Keep *message*."""
        self.messages.append(message)

    @property
    def last(self) -> str:
        """What was said last."""
        return self.messages[-1]

    @property
    def sent_bytes(self) -> int:
        """Bytes that went to the engine, as it was said last."""
        told = re.search(r", (\d+) bytes sent to", self.last)
        assert told is not None, self.last
        return int(told[1])
