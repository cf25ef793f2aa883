"""Questions that the values of a specification ask of what they were given (L4)."""

from __future__ import annotations

__all__ = ("is_ip", "is_number", "is_whole", "matches")

import ipaddress
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re


def is_whole(value: object, least: int, most: int = (1 << 31) - 1) -> bool:
    """Tell whether *value* is a whole number, no truth value, from *least* to *most*."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object, least: float, below: float = math.inf) -> bool:
    """Tell whether *value* is a number from *least* to *below*, without the latter."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < below


def matches(pattern: re.Pattern[str], value: object) -> bool:
    """Tell whether *value* is text that the whole of *pattern* fits."""
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def is_ip(value: object) -> bool:
    """Tell whether *value* is the text of an IP address."""
    if not isinstance(value, str):
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
