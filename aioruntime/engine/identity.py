"""Who a container is: its ID, name and labels (L2)."""

from __future__ import annotations

__all__ = ("Identity", "identity")

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from aioruntime.engine.client import path_part
from aioruntime.errors import EngineError, one_line

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a container from all others, and whose it is.

    Attributes:
        id: the engine's ID of it.
        name: its name, without the slash that Docker puts before it.
        labels: its labels; those of its image are among them, so they prove nothing by themselves.
    """

    id: str
    name: str
    labels: Mapping[str, str]


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None


class _Container(msgspec.Struct, rename="pascal"):
    id: str
    name: str
    config: _Config


async def identity(client: EngineClient, container: str) -> Identity | None:
    """Return who a container is; None if the engine has none of that ID or name.

    Raises:
        EngineError: the engine could not tell.
    """
    try:
        document = await client.json("GET", f"/containers/{path_part(container)}/json")
        found = msgspec.convert(document, _Container)
    except EngineError as exc:
        if exc.status == 404:
            return None
        raise
    except msgspec.ValidationError as exc:
        reason = one_line(str(exc))
        raise EngineError(f"the engine describes a container in an unknown way: {reason}") from exc
    return Identity(found.id, found.name.lstrip("/"), found.config.labels or {})
