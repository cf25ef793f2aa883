"""Parse ``WWW-Authenticate`` (L2, pure): several challenges in one value, quoted strings, token68.

Follows RFC 9110, sections 5.6 (lists, tokens, quoted strings) and 11.3 to 11.6.1 (challenges).
"""

from __future__ import annotations

__all__ = ("Challenge", "parse_challenges")

import re
from dataclasses import dataclass, field

from aioruntime.errors import Unauthorized, one_line

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_SCHEME = re.compile(_TOKEN, re.ASCII)
# RFC 9110, 11.2: token68 stands alone, so what follows it has to be the end or the next list element.
_TOKEN68 = re.compile(r"([A-Za-z0-9\-._~+/]++=*+)[ \t]*+(?=,|\Z)", re.ASCII)
_CHARACTER = r"[^\x00-\x08\x0a-\x1f\x7f]"
_PARAMETER = re.compile(
    rf'({_TOKEN})[ \t]*+=[ \t]*+(?:({_TOKEN})|"((?:(?!["\\]){_CHARACTER}|\\{_CHARACTER})*+)")',
    re.ASCII,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.ASCII)
_SPACE = re.compile(r"[ \t]*+")
_BETWEEN = re.compile(r"[ \t,]*+")
_VALUE_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a server offers.

    Args:
        scheme: the scheme in lower case, such as ``bearer``.
        parameters: its parameters, by lower-case name, without quotes.
        token68: what some schemes have instead of parameters; None if there is none.
    """

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict, hash=False)
    token68: str | None = None


def parse_challenges(value: str) -> tuple[Challenge, ...]:
    """Parse the value of ``WWW-Authenticate``; join several such fields by a comma first.

    Args:
        value: the field's value.

    Returns:
        The challenges in the order in which the server prefers them.

    Raises:
        Unauthorized: *value* is not what RFC 9110 allows, or names a parameter twice.
    """
    if len(value) > _VALUE_LIMIT:
        raise _malformed(value, "too long")
    found: list[Challenge] = []
    position = _skip(_BETWEEN, value, 0)
    while position < len(value):
        challenge, position = _challenge(value, position)
        found.append(challenge)
    return tuple(found)


def _challenge(value: str, position: int) -> tuple[Challenge, int]:
    scheme = _SCHEME.match(value, position)
    if scheme is None:
        raise _malformed(value, f"no scheme at character {position}")
    name = scheme[0].lower()
    position = _skip(_SPACE, value, scheme.end())
    if position == len(value) or value[position] == ",":
        return Challenge(name), _skip(_BETWEEN, value, position)
    if position == scheme.end():
        raise _malformed(value, f"no space after the scheme at character {position}")
    if token68 := _TOKEN68.match(value, position):
        return Challenge(name, token68=token68[1]), _skip(_BETWEEN, value, token68.end())
    parameters, position = _parameters(value, position)
    return Challenge(name, parameters), position


def _parameters(value: str, position: int) -> tuple[dict[str, str], int]:
    """Read parameters up to the end or to what can only be the next challenge."""
    found: dict[str, str] = {}
    while match := _PARAMETER.match(value, position):
        name, token, quoted = match[1].lower(), match[2], match[3]
        if name in found:
            raise _malformed(value, f"{name} is given twice")
        found[name] = token if token is not None else _QUOTED_PAIR.sub(r"\1", quoted)
        position = _skip(_SPACE, value, match.end())
        if position < len(value) and value[position] != ",":
            raise _malformed(value, f"no comma at character {position}")
        position = _skip(_BETWEEN, value, position)
    if not found:
        raise _malformed(value, f"no parameter at character {position}")
    return found, position


def _skip(what: re.Pattern[str], value: str, position: int) -> int:
    match = what.match(value, position)
    return match.end() if match else position


def _malformed(value: str, why: str) -> Unauthorized:
    return Unauthorized(f"malformed WWW-Authenticate ({why}): {one_line(value, 120)}", status=401)
