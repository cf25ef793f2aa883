"""What the bodies that create containers are made with, whichever the engine (L4)."""

from __future__ import annotations

__all__ = ("nanoseconds", "said")

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def said(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not given: None, False, and what is empty; a 0 was given."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and value is not False and value not in ([], {}, "")
    }


def nanoseconds(seconds: float | None) -> int | None:
    """Return *seconds* as engines count them."""
    return None if seconds is None else round(seconds * 1_000_000_000)
