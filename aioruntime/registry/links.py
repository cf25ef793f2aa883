"""Parse ``Link`` (L2, pure): where the next page is.

Follows RFC 8288, section 3, whose parameters are those of RFC 9110, section 5.6.
"""

from __future__ import annotations

__all__ = ("next_link",)

import re

from aioruntime.errors import RegistryError, one_line

_TARGET = re.compile(r"<([^<>]*+)>[ \t]*+")
_NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_PARAMETER = re.compile(
    rf'[ \t]*+;[ \t]*+(?:({_NAME})[ \t]*+(?:=[ \t]*+(?:([^\s",;]++)|"((?:[^"\\]|\\.)*+)")[ \t]*+)?)?+',
    re.ASCII | re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_BETWEEN = re.compile(r"[ \t,]*+")
_VALUE_LIMIT = 64 * 1024


def next_link(value: str) -> str | None:
    """Return the target of the first link with relation ``next``; None if there is none.

    Args:
        value: the field's value; join several such fields by a comma first.

    Raises:
        RegistryError: *value* is not what RFC 8288 allows; taken as "no more", it would cut a list short.
    """
    if len(value) > _VALUE_LIMIT:
        raise _malformed(value)
    position = _end(_BETWEEN, value, 0)
    while position < len(value):
        target = _TARGET.match(value, position)
        if target is None:
            raise _malformed(value)
        parameters, position = _parameters(value, target.end())
        if position < len(value) and value[position] != ",":
            raise _malformed(value)
        # With an anchor, the link leads on from somewhere else.
        if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:
            return target[1]
        position = _end(_BETWEEN, value, position)
    return None


def _parameters(value: str, position: int) -> tuple[dict[str, str], int]:
    found: dict[str, str] = {}
    while match := _PARAMETER.match(value, position):
        name, token, quoted = match.groups()
        if name is not None:
            text = token if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
            found.setdefault(name.lower(), text or "")  # section 3.3: the first one counts
        position = match.end()
    return found, position


def _end(what: re.Pattern[str], value: str, position: int) -> int:
    match = what.match(value, position)
    return match.end() if match else position


def _malformed(value: str) -> RegistryError:
    return RegistryError(f"malformed Link: {one_line(value.partition('?')[0], 120)}")
