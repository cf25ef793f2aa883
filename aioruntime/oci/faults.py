"""What is wrong with the values that tell how a container starts: pure checks (L1)."""

from __future__ import annotations

__all__ = ("command_faults", "env_faults", "label_faults", "user_faults", "working_dir")

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec, one_line
from aioruntime.oci.checks import absolute_path, is_text

if TYPE_CHECKING:
    from collections.abc import Mapping


def command_faults(command: tuple[str, ...] | str, what: str = "command") -> list[str]:
    """List the faults of a program's arguments, which are called *what*."""
    if isinstance(command, str):
        return [f'{what} is one string; give a list of arguments, such as ["sh", "-c", {command!r}]']
    return [f"argument {one_line(repr(arg))} is not text without NUL" for arg in command if not is_text(arg)]


def env_faults(env: Mapping[str, str]) -> list[str]:
    """List the faults of environment variables."""
    faults = [f"env name {one_line(repr(name))} is not valid" for name in env if not _name(name)]
    return faults + [
        f"env value of {one_line(str(name))} is not text without NUL"
        for name, value in env.items()
        if not is_text(value)
    ]


def label_faults(labels: Mapping[str, str]) -> list[str]:
    """List the faults of labels."""
    return [
        f"label {one_line(repr(name))}={one_line(repr(value))} is not text without NUL"
        for name, value in labels.items()
        if not is_text(name) or not name or not is_text(value)
    ]


def working_dir(value: object, faults: list[str]) -> PurePosixPath | None:
    """Return a working directory as a path; what is wrong with it is added to *faults*."""
    try:
        return absolute_path(PurePosixPath, "working_dir", value)
    except InvalidSpec as exc:
        faults.append(str(exc))
        return None


def user_faults(user: str) -> list[str]:
    """List the faults of a user's name or number."""
    if user == "":
        return ["user is empty; leave it None for the image's own"]
    if is_text(user):
        return []
    return [f"user {one_line(repr(user))} is not text without NUL; give such as '1000'"]


def _name(value: object) -> bool:
    return is_text(value) and value != "" and "=" not in str(value)
