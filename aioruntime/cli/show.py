"""How the commands show what they found: tables on a terminal, JSON in a pipe (L5)."""

from __future__ import annotations

__all__ = ("as_json", "bytes_of", "show", "table_of_images", "table_of_usage", "time_of", "told")

import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from aioruntime.errors import InvalidSpec, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioruntime.store.values import PruneReport, StoredImage, StoreUsage

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHORT_DIGEST = 19
_FOLDED = 24
_ANY_WIDTH = 1000


def bytes_of(text: str | None) -> int | None:
    """Return the bytes that a size stands for, such as ``500M``, ``2.5GB`` or ``10GiB``.

    Raises:
        InvalidSpec: it is not a size.
    """
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidSpec(f"--max-size {text}: expected bytes, or a size such as 500M, 2.5GB or 10GiB")
    try:
        return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].lower()])
    except OverflowError:
        raise InvalidSpec("--max-size is more than any disk has") from None


def time_of(text: str | None) -> timedelta | None:
    """Return the time that a text stands for, such as ``90m``, ``12h`` or ``30d``.

    Raises:
        InvalidSpec: it is not a time.
    """
    if text is None:
        return None
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise InvalidSpec(f"--older-than {text}: expected a time such as 90m, 12h, 30d or 8w")
    try:
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    except OverflowError:
        raise InvalidSpec(f"--older-than {text}: that is longer than any time") from None


def show(value: Any, draw: Callable[[], Table | str], *, json: bool) -> None:
    """Print *value* as JSON if that is wanted or nobody reads a terminal, else what *draw* makes of it."""
    if json or not sys.stdout.isatty():
        print(msgspec.json.encode(as_json(value), enc_hook=str).decode())
    else:
        drawn = draw()
        console = Console(highlight=False, markup=False, emoji=False)
        if isinstance(drawn, Table):
            # Better lines that a narrow terminal wraps than numbers that lost their end.
            console.width = max(console.width, _least_width(console, drawn))
        console.print(drawn, soft_wrap=True)


def _least_width(console: Console, table: Table) -> int:
    """Return how wide a table is at least: names may be folded to some width, all else is whole."""
    name = table.columns[0]
    name.width = _FOLDED
    width = console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum
    name.width = None
    return width


def as_json(value: Any) -> Any:
    """Return *value* as JSON has it, with what images add up to."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    images = value if isinstance(value, list) else getattr(value, "images", ())
    described = plain if isinstance(plain, list) else plain.get("images", ())
    for image, members in zip(images, described, strict=True):
        if isinstance(members, dict):
            members["size_bytes"] = image.size_bytes
    if hasattr(value, "total"):
        plain["total"] = value.total
    return plain


def table_of_images(images: Sequence[StoredImage]) -> Table:
    """Draw images as a table."""
    table = _table("IMAGE", "DIGEST", "LAST USED", "SIZE", "STATE")
    for image in images:
        used = image.last_used.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(
            one_line(image.name), image.digest[:_SHORT_DIGEST], used, decimal(image.size_bytes), _state(image)
        )
    return table


def _state(image: StoredImage) -> str:
    states = {"pinned": image.pinned, "in use": image.in_use, f"{len(image.missing)} missing": image.missing}
    return ", ".join(state for state, holds in states.items() if holds)


def table_of_usage(usage: StoreUsage) -> Table:
    """Draw the room that a store takes as a table."""
    table = _table("IMAGE", "OWN", "SHARED", "SIZE")
    for image in sorted(usage.images, key=lambda image: image.own_bytes, reverse=True):
        sizes = (image.own_bytes, image.shared_bytes, image.size_bytes)
        table.add_row(one_line(image.name), *(decimal(size) for size in sizes))
    table.add_section()
    rest = {
        "not in any image": usage.unnamed,
        "unfinished downloads": usage.partial,
        "put aside": usage.damaged,
        "total": usage.total,
        "free on that disk": usage.free,
    }
    for name, size in rest.items():
        table.add_row(f"({name})", "", "", decimal(size))
    return table


def told(report: PruneReport, *, dry_run: bool) -> str:
    """Tell what was pruned in some lines."""
    lines = [f"image {one_line(name)}" for name in report.images]
    verb = "would be freed" if dry_run else "freed"
    lines.append(
        f"{len(report.blobs)} blobs, {decimal(report.freed_bytes)} {verb}, {decimal(report.kept_bytes)} kept"
    )
    lines += [f"not removed: {failure}" for failure in report.failed]
    if report.unclear:
        lines.append("no blob may go: the manifests of these are damaged or gone; pull or import the images")
        lines.append("again, or remove them:")
        lines += [f"image {one_line(name)}" for name in report.unclear]
    return "\n".join(lines)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        right = column in ("SIZE", "OWN", "SHARED")
        folds = column == "IMAGE"  # a name that lost its end can't be used
        table.add_column(
            column,
            justify="right" if right else "left",
            overflow="fold" if folds else "ellipsis",
            no_wrap=not folds,
        )
    return table
