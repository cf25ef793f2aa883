"""Agree on an API version with an engine (L2, no I/O)."""

from __future__ import annotations

__all__ = ("negotiate",)

from aioruntime.errors import EngineUnavailable, one_line

# The API versions that this library is written against.
_OLDEST = (1, 40)
_NEWEST = (1, 51)


def negotiate(newest: str, oldest: str | None) -> str:
    """Choose the API version to speak with an engine that speaks *oldest* to *newest*.

    Raises:
        EngineUnavailable: the engine is too old or too new; the message says which.
    """
    theirs = _version(newest), _version(oldest or newest)
    chosen = min(theirs[0], _NEWEST)
    if chosen < _OLDEST:
        raise EngineUnavailable(
            f"the engine speaks API {newest} at most, aioruntime needs {_dotted(_OLDEST)}: update the engine"
        )
    if chosen < theirs[1]:
        raise EngineUnavailable(
            f"the engine speaks API {oldest} at least, aioruntime {_dotted(_NEWEST)} at most: "
            "update aioruntime"
        )
    return _dotted(chosen)


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise EngineUnavailable(f"not an engine API version: {one_line(repr(text))}")
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
