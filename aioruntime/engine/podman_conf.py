"""Settings that a private Podman service needs on a machine with few rights (L2).

As root, Podman asks for a million open files in each container, and more processes. Without the
capability to raise limits, the container then can't start. No drop-in directory outside ``/etc`` is read by
root's Podman 4.3, so the service gets, by ``CONTAINERS_CONF``, the user's own settings and ours in one
file.
"""

from __future__ import annotations

__all__ = ("merge", "private_settings", "read_settings", "to_toml")

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FILES = (Path("/usr/share/containers/containers.conf"), Path("/etc/containers/containers.conf"))


def read_settings(environ: Mapping[str, str], files: Iterable[Path] = _FILES) -> dict[str, Any]:
    """Read the settings that root's Podman would use, merged in its order; unreadable files are left out."""
    chosen = environ.get("CONTAINERS_CONF")
    paths: list[Path] = [Path(chosen)] if chosen else []
    for path in () if chosen else files:
        paths += [path, *sorted(Path(f"{path}.d").glob("*.conf"))]
    settings: dict[str, Any] = {}
    for path in paths:
        try:
            settings = merge(settings, tomllib.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return settings


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the settings *over* upon *base*: tables are merged, anything else is replaced.

    A list that ends with ``{append=true}`` is added to the one in *base*, as Podman does since 4.7.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = merge(below, value)
        elif isinstance(value, list) and isinstance(below, list) and {"append": True} in value:
            merged[key] = [item for item in below if not isinstance(item, dict)] + value
        else:
            merged[key] = value
    return merged


def private_settings(
    settings: Mapping[str, Any], open_files: int | None, processes: int | None
) -> dict[str, Any]:
    """Return *settings* with limits that Podman can set.

    Args:
        settings: what the user configured; limits that are named there are kept.
        open_files: the hard limit of open files that can't be raised; None for no limit.
        processes: the same for processes.
    """
    containers = settings.get("containers")
    configured = containers.get("default_ulimits") if isinstance(containers, dict) else None
    limits = [item for item in configured or () if isinstance(item, str)]
    named = {item.partition("=")[0].lower() for item in limits}
    for name, value in (("nofile", open_files), ("nproc", processes)):
        if value is not None and name not in named:
            limits.append(f"{name}={value}:{value}")
    return merge(settings, {"containers": {"default_ulimits": limits}})


def to_toml(settings: Mapping[str, Any]) -> str:
    """Write *settings* as TOML, a table a section, all below that inline."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    lines = [f"{_string(key)} = {_value(value)}" for key, value in plain.items()]
    for name, table in settings.items():
        if isinstance(table, dict):
            lines.append(f"[{_string(name)}]")
            lines += [f"{_string(key)} = {_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(key)} = {_value(item)}" for key, item in value.items()) + "}"
    # Numbers and dates are written in TOML as Python writes them.
    return str(value)


def _string(text: str) -> str:
    # TOML's basic strings are JSON's, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
