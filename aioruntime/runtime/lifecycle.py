"""What an engine does to a running container: ask for its health, start it again, signal it (L4)."""

from __future__ import annotations

__all__ = ("HealthCheck", "RestartPolicy", "signal_name", "signal_number")

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, get_args

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import is_number, is_whole, items
from aioruntime.oci.faults import command_faults

if TYPE_CHECKING:
    from collections.abc import Iterable

_Policy: TypeAlias = Literal["no", "always", "unless-stopped", "on-failure"]

# Containers are Linux's, also if this program runs where the numbers are others: signal(7).
_SIGNALS = (
    *("HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE"),
    *("ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ"),
    *("VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS"),
)
_NUMBERS = {f"SIG{name}": number for number, name in enumerate(_SIGNALS, 1)}
# The C library keeps 32 and 33 for itself.
_NUMBERS |= {"SIGRTMIN" + (f"+{n}" if n else ""): 34 + n for n in range(31)}
_NAMES = {number: name for name, number in _NUMBERS.items()}


def signal_name(signal: str | int) -> str:
    """Return the name, such as ``SIGTERM``, of a signal given as ``SIGTERM``, ``TERM`` or 15.

    Raises:
        InvalidSpec: Linux has no such signal.
    """
    text = str(signal).upper()
    name = (
        _NAMES.get(int(text))
        if re.fullmatch(r"\d{1,3}", text, re.ASCII)
        else f"SIG{text.removeprefix('SIG')}"
    )
    if name not in _NUMBERS:
        raise InvalidSpec(f"signal {one_line(repr(signal))} is not one of Linux; give such as 'SIGTERM'")
    return name


def signal_number(name: str) -> int:
    """Return the number that Linux gives the signal called *name*, as `signal_name` returns it."""
    return _NUMBERS[name]


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A program that tells, run in the container now and then, whether it is well.

    Args:
        test: the program and its arguments, or a string for the container's shell. What begins with ``CMD``,
            ``CMD-SHELL`` or ``NONE`` is taken as a Dockerfile does; ``["NONE"]`` drops the image's own check.
        interval: seconds from one time to the next; None for the engine's 30, as for those below.
        timeout: seconds that it may take; None for 30.
        retries: how often in a row it has to fail until the container is said to be unhealthy; None for 3.
        start_period: seconds at the start in which a failure does not count; None for 0.

    Raises:
        InvalidSpec: a value is not of its kind.
    """

    test: tuple[str, ...]
    interval: float | None = None
    timeout: float | None = None
    retries: int | None = None
    start_period: float | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            test: str | Iterable[str],
            interval: float | None = None,
            timeout: float | None = None,
            retries: int | None = None,
            start_period: float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        given: Any = self.test
        faults: list[str] = []
        test = ("CMD-SHELL", given) if isinstance(given, str) else items("test", given, faults)
        if not faults and test[:1] not in (("CMD",), ("CMD-SHELL",), ("NONE",)):
            test = ("CMD", *test)
        object.__setattr__(self, "test", test)
        faults += command_faults(test, "test")
        if test in (("CMD",), ("CMD-SHELL",)):
            faults.append("test is empty")
        for name in ("interval", "timeout", "start_period"):
            value = getattr(self, name)
            # Both engines count nanoseconds in 63 bits; what is under a millisecond Docker refuses.
            least = 0 if name == "start_period" else 0.001
            if value is not None and not is_number(value, least, 1 << 33):
                faults.append(f"{name} {one_line(repr(value))} is not a number of seconds, {least} or more")
        if self.retries is not None and not is_whole(self.retries, 1):
            faults.append(f"retries {one_line(repr(self.retries))} is not a count above 0")
        if faults:
            raise InvalidSpec("health_check: " + "; ".join(faults))


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When the engine starts a container again that has ended.

    Args:
        name: ``no``, ``always``, ``unless-stopped`` or ``on-failure``.
        max_retries: how often, for ``on-failure`` alone; None for no limit.

    Raises:
        InvalidSpec: no such policy, or it does not count.
    """

    name: _Policy
    max_retries: int | None = None

    def __post_init__(self) -> None:
        if self.name not in get_args(_Policy):
            raise InvalidSpec(
                f"restart {one_line(repr(self.name))} is not one of {', '.join(get_args(_Policy))}"
            )
        if self.max_retries is None:
            return
        if self.name != "on-failure":
            raise InvalidSpec(f"restart {self.name} does not count; leave max_retries out, or use on-failure")
        if not is_whole(self.max_retries, 1):
            raise InvalidSpec(
                f"restart: max_retries {one_line(repr(self.max_retries))} is not a count above 0"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a policy's name, or ``on-failure:5``.

        Raises:
            InvalidSpec: *text* has another form.
        """
        name, colon, count = text.partition(":")
        if colon and not re.fullmatch("[0-9]{1,10}", count):
            raise InvalidSpec(f"restart {one_line(repr(text))}: expected a count, as on-failure:5")
        return cls(name, int(count) if colon else None)  # type: ignore[arg-type]  # checked when it is made

    def __str__(self) -> str:
        return self.name if self.max_retries is None else f"{self.name}:{self.max_retries}"
