"""Removals that hold, and what else volumes and networks have in common (L2)."""

from __future__ import annotations

__all__ = (
    "Pruned",
    "checked_name",
    "explained",
    "filter_params",
    "own_name",
    "read",
    "removing",
    "until_gone",
)

import json
import logging
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import anyio
import msgspec

from aioruntime.engine.queries import filter_values
from aioruntime.errors import EngineError, EngineUnavailable, InvalidSpec, StreamTruncated, one_line
from aioruntime.oci.checks import is_name
from aioruntime.tasks import to_completion

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence

    from aioruntime.engine.client import EngineClient

T = TypeVar("T")

_log = logging.getLogger(__name__)

_REMOVE_SECONDS = 10.0
_UNREACHABLE_SECONDS = 2.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed since nothing used it.

    Attributes:
        names: names of what is gone.
        freed_bytes: bytes on the engine's disk that are free now, as it says.
    """

    names: tuple[str, ...]
    freed_bytes: int = 0


def read(document: object, kind: type[T]) -> T:
    """Decode what the engine tells of a volume or network.

    Raises:
        EngineError: it lacks what every one has.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as exc:
        raise EngineError(f"the engine answers in an unknown way: {one_line(str(exc))}") from exc


def own_name() -> str:
    """Return a name that nothing else has."""
    return f"aioruntime-{secrets.token_hex(8)}"


def checked_name(kind: str, name: object) -> str:
    """Return *name* if it can be that of a *kind*: a container, a volume or a network.

    Raises:
        InvalidSpec: it can't.
    """
    if is_name(name):
        return name
    told = one_line(repr(name))
    raise InvalidSpec(f"{kind} {told} is not a {kind}'s name; give letters, digits, '_', '.' and '-'")


def filter_params(filters: Mapping[str, str | Sequence[str]] | None) -> dict[str, str]:
    """Return the query that chooses by *filters*: values by name, such as ``{"label": "a=b"}``.

    Raises:
        InvalidSpec: they are not that.
    """
    wanted = filter_values(filters)
    return {"filters": json.dumps(wanted)} if wanted else {}


async def explained(client: EngineClient, error: EngineError, kind: str, name: str) -> EngineError:
    """Return *error*, on the removal of a volume or network, with what can be done about it.

    Engines tell in different ways, some by a mere status 500, that something is in use; here it is 409.
    """
    shown = one_line(name)
    if error.status == 404:
        return EngineError(
            f"{error.message}: there is no {kind} {shown}; `await runtime.{kind}s.list()` tells which are",
            status=404,
        )
    if error.status not in (403, 409, 500):
        return error
    params = {"all": "1", **filter_params({kind: name})}
    try:
        found = await client.json("GET", "/containers/json", params=params)
        users = ", ".join(sorted(one_line(str(each["Names"][0]).lstrip("/")) for each in found))
    except (EngineError, LookupError, TypeError):
        return error
    if not users:
        return error
    return EngineError(f"{error.message}; used by {users}: remove these containers first", status=409)


@asynccontextmanager
async def removing(remove: Callable[[], Awaitable[None]], what: str) -> AsyncGenerator[None]:
    """Remove *what* at the end of the context, however that comes, also if this task is cancelled.

    While it is in use, it is tried again for 10 seconds.

    Raises:
        EngineError: it could not be removed; if another error is on its way, that gets a note instead.
    """
    try:
        yield
    except BaseException as exc:
        if (failure := await to_completion(_remove(remove))) is not None:
            exc.add_note(f"{what} could not be removed: {failure.message}")
            _log.warning("%s could not be removed: %s", what, failure.message)
        raise
    if (failure := await to_completion(_remove(remove))) is not None:
        raise failure


async def _remove(remove: Callable[[], Awaitable[None]]) -> EngineError | None:
    async def ask(seconds: float) -> None:
        with anyio.fail_after(seconds):
            await remove()

    try:
        await until_gone(ask, _REMOVE_SECONDS, passing={409, 500})
    except TimeoutError:
        return EngineError(f"the engine did not answer within {_REMOVE_SECONDS:g} s")
    except EngineError as exc:
        return exc
    return None


async def until_gone(
    ask: Callable[[float], Awaitable[None]], seconds: float, *, passing: Collection[int]
) -> None:
    """Have something removed, again and again until it is gone; one that is already gone is fine.

    Args:
        ask: asks the engine for it; gets the seconds that this may take.
        seconds: for how long it is tried.
        passing: statuses of the engine's answers that may yet pass; unreachable, it is given 2 seconds.

    Raises:
        EngineError: it could not be removed.
    """
    end = anyio.current_time() + seconds
    reachable = anyio.current_time() + _UNREACHABLE_SECONDS
    pause = _FIRST_PAUSE
    while True:
        try:
            return await ask(max(1.0, end - anyio.current_time()))
        except EngineError as exc:
            if exc.status == 404:
                return None
            away = isinstance(exc, EngineUnavailable | StreamTruncated)
            if not away and exc.status not in passing:
                raise
            if anyio.current_time() + pause > (reachable if away else end):
                raise
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
