"""Questions that values ask of what they were given when they are made (L1)."""

from __future__ import annotations

__all__ = (
    "absolute_path",
    "is_ip",
    "is_name",
    "is_number",
    "is_text",
    "is_whole",
    "items",
    "mapping",
    "matches",
)

import ipaddress
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, TypeGuard, TypeVar

from aioruntime.errors import InvalidSpec, one_line

_P = TypeVar("_P", bound=PurePath)

# What both engines call containers, volumes and networks by.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_ZONE = re.compile(r"[0-9A-Za-z_.-]+")


def is_whole(value: object, least: int, most: int = (1 << 31) - 1) -> bool:
    """Tell whether *value* is a whole number, no truth value, from *least* to *most*."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object, least: float, below: float = math.inf) -> TypeGuard[float]:
    """Tell whether *value* is a number from *least* to *below*, without the latter."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < below


def is_text(value: object) -> TypeGuard[str]:
    """Tell whether *value* is text that can be told to an engine: without NUL, and all of it Unicode."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8, as `os.fsdecode` gives them: no engine gets them
        return False
    return True


def matches(pattern: re.Pattern[str], value: object) -> bool:
    """Tell whether *value* is text that the whole of *pattern* fits."""
    return is_text(value) and pattern.fullmatch(value) is not None


def is_name(value: object) -> TypeGuard[str]:
    """Tell whether *value* can be the name of a container, a volume or a network."""
    return matches(_NAME, value)


def is_ip(value: object) -> bool:
    """Tell whether *value* is the text of an IP address."""
    if not isinstance(value, str):
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    _, percent, zone = value.partition("%")  # Python takes any text for a zone
    return not percent or matches(_ZONE, zone)


def items(name: str, value: object, faults: list[str]) -> tuple[Any, ...]:
    """Return what *value*, a list or whatever else can be iterated, has; a fault of *name* if it is none."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, Mapping)):
        return tuple(value)
    told = one_line(repr(value))
    faults.append(f"{name} {told} is not a list; give " + ("one" if value is None else f"such as [{told}]"))
    return ()


def mapping(name: str, value: object, faults: list[str]) -> Mapping[Any, Any]:
    """Return a copy of *value* that can't be changed; a fault of *name* if it is no mapping."""
    if isinstance(value, Mapping):
        return MappingProxyType(dict(value))
    # What it has is not told: environment variables and labels can be secret.
    faults.append(f"{name} is not a mapping but {type(value).__name__}; give such as {{'NAME': 'value'}}")
    return MappingProxyType({})


def absolute_path(kind: type[_P], what: str, value: object) -> _P:
    """Return *value*, text or a path, as an absolute path of *kind*.

    Raises:
        InvalidSpec: it is none; *what* is said to be wrong.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if is_text(text) and (path := kind(text)).is_absolute():
        return path
    raise InvalidSpec(f"{what} {one_line(repr(text))} is not an absolute path; give such as '/data'")
