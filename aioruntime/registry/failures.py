"""Turn an answer that is not the wanted one into the error to raise (L2, pure).

Follows "Error Codes" of the OCI distribution specification, and RFC 9110, 10.2.3, for ``Retry-After``.
"""

from __future__ import annotations

__all__ = ("CHECK_BLOB", "CHECK_NAME", "ERROR_BODY_LIMIT", "error_for", "http_date", "retry_after_of")

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from aioruntime.errors import NotFound, RateLimited, RegistryError, Unauthorized, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECK_NAME = "check the repository's name, and the tag or digest"
"""What to check where a manifest is not found."""

CHECK_BLOB = "the registry may have deleted it; resolve the image again"
"""What to do where a blob is not found."""

ERROR_BODY_LIMIT = 64 * 1024
"""Bytes of an error's body that are looked at."""

_RETRY_LIMIT = 3600.0
_SECONDS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)


class _Detail(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _Errors(msgspec.Struct):
    errors: list[_Detail] | None = None
    # Token servers have forms of their own.
    details: str | None = None
    error_description: str | None = None


def error_for(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    what: str,
    host: str,
    hint: str,
    given: bool = False,
) -> RegistryError:
    """Make the error that an answer amounts to.

    Args:
        status: the answer's status.
        headers: its header fields.
        body: its first bytes; only JSON is understood, anything else is left out.
        what: the image or blob concerned, for the message.
        host: who answered.
        hint: what to check if the answer is 404.
        given: whether the request had credentials, or a token that took them.
    """
    code, words = _told(body)
    told = f" ({': '.join(part for part in (code, words) if part)})" if code or words else ""
    if status == 401 and given:
        message = (
            f"{what}: {host} did not take the credentials that it was given; they are wrong, "
            f"have expired, or are for other repositories{told}"
        )
        return Unauthorized(message, status=status, code=code)
    if status == 401:
        message = f"{what}: {host} wants credentials; the repository is private or does not exist{told}"
        return Unauthorized(message, status=status, code=code)
    if status == 403:
        return Unauthorized(f"{what}: {host} denies access{told}", status=status, code=code)
    if status == 404:
        return NotFound(f"{what}: not found at {host}; {hint}{told}", status=status, code=code)
    if status == 429:
        wait = retry_after_of(headers)
        when = "later" if wait is None else f"in {wait:.0f} s"
        message = f"{what}: {host} asks for fewer requests; try again {when}{told}"
        return RateLimited(message, status=status, code=code, retry_after=wait)
    return RegistryError(f"{what}: {host} answered {_status_text(status)}{told}", status=status, code=code)


def retry_after_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that ``Retry-After`` asks to wait, 0 to 3600; None if it says nothing usable.

    Args:
        headers: the answer's header fields. A date is compared with the ``Date`` field, so that this
            machine's clock does not matter, or with *now* if there is none.
        now: the time to use then; the present if not given.
    """
    value = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    elif (until := http_date(value)) is not None:
        since = http_date(headers.get("Date", "")) or now or datetime.now(UTC)
        seconds = (until - since).total_seconds()
    else:
        return None
    return min(max(seconds, 0.0), _RETRY_LIMIT)


def http_date(value: str) -> datetime | None:
    """Parse an HTTP date (RFC 9110, 5.6.7); None if it is none."""
    try:
        parsed = parsedate_to_datetime(value[:64])
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _told(body: bytes) -> tuple[str | None, str | None]:
    """Return code and message of the first error that the body tells of."""
    try:
        told = msgspec.json.decode(body, type=_Errors)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, None
    first = told.errors[0] if told.errors else _Detail(message=told.details or told.error_description)
    return (one_line(first.code, 64) if first.code else None), (
        one_line(first.message) if first.message else None
    )


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
