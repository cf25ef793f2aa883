"""The error raised when a demonstration image or its registry cannot be made."""

from __future__ import annotations

from aioruntime.errors import AioRuntimeError

__all__ = ("DemoError",)


class DemoError(AioRuntimeError):
    """A demonstration image or its registry could not be made; the message says what to do."""
