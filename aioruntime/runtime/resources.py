"""What a container may use of its machine: sizes, limits of the kernel, devices (L4)."""

from __future__ import annotations

__all__ = ("Device", "Ulimit", "byte_count")

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Self

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import absolute_path, is_whole, matches

if TYPE_CHECKING:
    import os

# docker/go-units, size.go: RAMInBytes. All units are binary, with or without their "i".
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,19})?)(?: ?(?:([kmgtp])?i?b|([kmgtp])))?", re.ASCII | re.IGNORECASE)
_MOST = (1 << 63) - 1
_PERMISSIONS = re.compile("(?=.)r?w?m?")
_SCALES = {unit: 1024**power for power, unit in enumerate("kmgtp", 1)}
# docker/go-units, ulimit.go: what the kernel has a limit for.
_ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice"),
    *("nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)


def byte_count(value: int | str, what: str) -> int:
    """Return the bytes that *value* says: a number, or text such as ``512m``, ``1.5g`` or ``64 KiB``.

    Units are powers of 1024, as the engines' command lines read them.

    Raises:
        InvalidSpec: it says no size above 0; *what* is said to be wrong.
    """
    count = 0
    if not isinstance(value, str):
        count = value
    elif found := _SIZE.fullmatch(value):
        unit = (found[2] or found[3] or "").lower()
        count = int(Fraction(found[1]) * _SCALES.get(unit, 1))
    if not is_whole(count, 1, _MOST):
        raise InvalidSpec(
            f"{what} {one_line(repr(value))} is not a size above 0; give bytes, or such as '512m' or '1g'"
        )
    return count


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A limit that the kernel keeps for each process of a container (``setrlimit``).

    Args:
        name: what is limited, such as ``nofile``.
        soft: the limit; -1 for none.
        hard: how far a process can raise it; None for the same, -1 for no end.

    Raises:
        InvalidSpec: the kernel has no such limit, or *soft* is more than *hard*.
    """

    name: str
    soft: int
    hard: int | None = None

    def __post_init__(self) -> None:
        hard = self.soft if self.hard is None else self.hard
        object.__setattr__(self, "hard", hard)
        if self.name not in _ULIMITS:
            known = ", ".join(_ULIMITS)
            raise InvalidSpec(f"ulimit {one_line(repr(self.name))} is not known; give one of {known}")
        for value in (self.soft, hard):
            if not is_whole(value, -1, _MOST):
                raise InvalidSpec(f"ulimit {self.name}: {one_line(repr(value))} is no limit; -1 is for none")
        if hard != -1 and not -1 < self.soft <= hard:
            raise InvalidSpec(f"ulimit {self.name}: its soft limit {self.soft} is more than its hard {hard}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``name=soft`` or ``name=soft:hard``.

        Raises:
            InvalidSpec: *text* has another form.
        """
        found = re.fullmatch(r"(\w+)=(-1|\d{1,19})(?::(-1|\d{1,19}))?", text, re.ASCII)
        if found is None:
            raise InvalidSpec(f"ulimit {one_line(repr(text))}: expected name=soft:hard, as nofile=1024:2048")
        return cls(found[1], int(found[2]), None if found[3] is None else int(found[3]))


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the engine's machine that a container can use.

    Args:
        path: absolute path on the machine.
        container_path: absolute path in the container; None for the same.
        permissions: letters of what it may do: ``r`` read, ``w`` write, ``m`` make the node.

    Raises:
        InvalidSpec: a path is not absolute, or the permissions have other letters.
    """

    path: PurePosixPath
    container_path: PurePosixPath | None = None
    permissions: str = "rwm"

    if TYPE_CHECKING:

        def __init__(
            self,
            path: str | os.PathLike[str],
            container_path: str | os.PathLike[str] | None = None,
            permissions: str = "rwm",
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("path", "container_path"):
            path = absolute_path(PurePosixPath, f"device: {name}", getattr(self, name) or self.path)
            if ":" in str(path):  # Podman reads the three parts from one string
                told = one_line(repr(str(path)))
                raise InvalidSpec(f"device: {name} {told} is not an absolute path without ':'")
            object.__setattr__(self, name, path)
        if not matches(_PERMISSIONS, self.permissions):
            told = one_line(repr(self.permissions))
            raise InvalidSpec(
                f"device {self.path}: permissions {told} are none; give some of 'rwm', in order"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``path``, ``path:container_path``, ``path:permissions`` or all three.

        Raises:
            InvalidSpec: *text* has another form.
        """
        path, *others = text.split(":")
        permissions = others.pop() if others and not others[-1].startswith("/") else "rwm"
        if len(others) > 1:
            raise InvalidSpec(f"device {one_line(repr(text))}: expected path:container_path:permissions")
        return cls(path, others[0] if others else None, permissions)
