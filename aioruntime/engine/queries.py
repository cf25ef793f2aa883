"""What calls choose by: moments and filters (L2, no I/O)."""

from __future__ import annotations

__all__ = ("filter_values", "moment_ns", "moment_text")

from datetime import UTC, datetime, timedelta

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import is_number, is_text, items, mapping

_SECOND = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Engines count nanoseconds in 63 bits.
_END_SECONDS = (1 << 63) // _SECOND


def moment_ns(name: str, when: object) -> int:
    """Return a moment, given as an aware datetime or in seconds since 1970, in nanoseconds since then.

    Raises:
        InvalidSpec: it is neither; *name* is said to be wrong.
    """
    told = one_line(repr(when))
    if isinstance(when, datetime):
        if when.utcoffset() is None:
            raise InvalidSpec(f"{name} {told} tells no time zone; give such as datetime.now(UTC)")
        when = (when - _EPOCH) // timedelta(microseconds=1) * 1000
        if 0 <= when < _END_SECONDS * _SECOND:
            return when
    elif is_number(when, 0, _END_SECONDS):
        return int(when * _SECOND)
    raise InvalidSpec(f"{name} {told} is not a moment; give a datetime, or seconds since 1970 as a number")


def moment_text(time_ns: int) -> str:
    """Return a moment as engines take it."""
    return f"{time_ns // _SECOND}.{time_ns % _SECOND:09d}"


def filter_values(filters: object) -> dict[str, list[str]]:
    """Return *filters*, values by name such as ``{"label": "a=b"}``, each as a list of values.

    Raises:
        InvalidSpec: they are not that.
    """
    faults: list[str] = []
    given = {} if filters is None else mapping("filters", filters, faults)
    wanted = {
        name: [values] if isinstance(values, str) else list(items(f"filter {name}", values, faults))
        for name, values in given.items()
    }
    faults += [
        f"filter {one_line(str(name))}: {one_line(repr(value))} is not text"
        for name, values in wanted.items()
        for value in (name, *values)
        if not is_text(value)
    ]
    if faults:
        raise InvalidSpec("; ".join(faults))
    return wanted
