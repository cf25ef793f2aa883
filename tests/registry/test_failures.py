"""The errors that answers amount to."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import NotFound, RateLimited, RegistryError, Unauthorized
from aioruntime.registry.failures import error_for, retry_after_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def told(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> RegistryError:
    return error_for(status, headers or {}, body, what="h/x:1", host="h", hint="check the tag")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (429, RateLimited),
        (500, RegistryError),
        (416, RegistryError),
        (299, RegistryError),
        (999, RegistryError),
    ],
)
def test_kinds(status: int, kind: type[RegistryError]) -> None:
    """Each status has its own kind of error, with the status, the image and the host in it."""
    error = told(status)

    assert type(error) is kind
    assert error.status == status
    assert str(error).startswith("h/x:1: ")


def test_registry_code() -> None:
    """The registry's own code and words are in the error."""
    body = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such tag", "detail": {}}]})

    error = told(404, body.encode())

    assert error.code == "MANIFEST_UNKNOWN"
    assert "check the tag (MANIFEST_UNKNOWN: no such tag)" in str(error)


def test_token_servers_words() -> None:
    """What token servers say in a form of their own is in the error too."""
    assert "bad user" in str(told(401, b'{"details": "bad user"}'))


@pytest.mark.parametrize(
    "message", ["\x1b[2J\x1b]0;owned\x07", "a\nERROR forged line\r\n", "\u202egnp.exe", "x" * 1_000_000]
)
def test_foreign_text_is_tamed(message: str) -> None:
    """No answer can move the cursor, forge a log line or flood the log."""
    error = told(500, json.dumps({"errors": [{"code": message, "message": message}]}).encode())

    assert str(error).isprintable()
    assert error.code is None or error.code.isprintable()
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    "body", [b"<html>\x1b[31mBad gateway</html>", b"", b"[]", b'{"errors": [3]}', b"\xff"]
)
def test_other_bodies(body: bytes) -> None:
    """A body that is not the specification's is left out."""
    assert str(told(502, body)) == "h/x:1: h answered 502 Bad Gateway"


@given(st.binary(max_size=200))
def test_any_body(body: bytes) -> None:
    """No body at all fails in another way."""
    assert told(500, body).status == 500


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "9" * 5000}, 3600.0),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:30 GMT"}, 0.0),
        ({"Retry-After": "Fri, 01 Jan 2100 00:00:30 GMT"}, 3600.0),
        (
            {"Retry-After": "Thu, 01 Jan 2015 00:00:30 GMT", "Date": "Thu, 01 Jan 2015 00:00:10 GMT"},
            20.0,
        ),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Retry-After is read as seconds or as a date by the server's own clock, within 0 to 3600 seconds."""
    assert retry_after_of(headers, NOW) == expected


@given(st.text(max_size=40))
def test_any_retry_after(value: str) -> None:
    """No Retry-After at all fails, or asks for more than an hour."""
    wait = retry_after_of({"Retry-After": value, "Date": value}, NOW)

    assert wait is None or 0 <= wait <= 3600


def test_rate_limited() -> None:
    """The wait that was asked for is an attribute, and in words."""
    error = told(429, headers={"Retry-After": "42"})

    assert isinstance(error, RateLimited)
    assert error.retry_after == 42
    assert "try again in 42 s" in str(error)
