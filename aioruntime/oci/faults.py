"""What is wrong with the values that tell how a container starts: pure checks (L1)."""

from __future__ import annotations

__all__ = ("command_faults", "env_faults", "label_faults", "user_faults", "working_dir_faults")

from typing import TYPE_CHECKING

from aioruntime.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import PurePosixPath


def command_faults(command: tuple[str, ...] | str, what: str = "command") -> list[str]:
    """List the faults of a program's arguments, which are called *what*."""
    if isinstance(command, str):
        return [f'{what} is one string; give a list of arguments, such as ["sh", "-c", {command!r}]']
    return [f"argument {one_line(repr(arg))} is not text without NUL" for arg in command if not _text(arg)]


def env_faults(env: Mapping[str, str]) -> list[str]:
    """List the faults of environment variables."""
    faults = [f"env name {one_line(repr(name))} is not valid" for name in env if not _name(name)]
    return faults + [
        f"env value of {one_line(str(name))} is not text without NUL"
        for name, value in env.items()
        if not _text(value)
    ]


def label_faults(labels: Mapping[str, str]) -> list[str]:
    """List the faults of labels."""
    return [
        f"label {one_line(repr(name))}={one_line(repr(value))} is not text without NUL"
        for name, value in labels.items()
        if not _text(name) or not name or not _text(value)
    ]


def working_dir_faults(path: PurePosixPath) -> list[str]:
    """List the faults of a working directory."""
    if path.is_absolute() and _text(str(path)):
        return []
    return [f"working_dir {one_line(repr(str(path)))} is not an absolute path"]


def user_faults(user: str) -> list[str]:
    """List the faults of a user's name or number."""
    if not user:
        return ["user is empty; leave it None for the image's own"]
    return [] if _text(user) else [f"user {one_line(repr(user))} is not text without NUL"]


def _text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8, as `os.fsdecode` gives them: no engine gets them
        return False
    return True


def _name(value: object) -> bool:
    return _text(value) and value != "" and "=" not in str(value)
