"""The parser of WWW-Authenticate."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import Unauthorized
from aioruntime.registry.challenge import Challenge, parse_challenges
from tests.support.timing import cpu_seconds

REALM = "https://auth.docker.io/token"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        (" , ,", ()),
        ("Negotiate", (Challenge("negotiate"),)),
        ('Basic realm="x"', (Challenge("basic", {"realm": "x"}),)),
        ("Basic realm=x", (Challenge("basic", {"realm": "x"}),)),
        ('BASIC REALM = "x"', (Challenge("basic", {"realm": "x"}),)),
        (
            f'Bearer realm="{REALM}",service="registry.docker.io",scope="repository:a/b:pull,push"',
            (
                Challenge(
                    "bearer",
                    {"realm": REALM, "service": "registry.docker.io", "scope": "repository:a/b:pull,push"},
                ),
            ),
        ),
        (
            'Basic realm="one, two=\\"2\\"" , Bearer realm=r , , service=s',
            (
                Challenge("basic", {"realm": 'one, two="2"'}),
                Challenge("bearer", {"realm": "r", "service": "s"}),
            ),
        ),
        (
            "Negotiate YWJj==, Basic realm=x",
            (Challenge("negotiate", token68="YWJj=="), Challenge("basic", {"realm": "x"})),
        ),
        (
            "Negotiate, Basic realm=x",
            (Challenge("negotiate"), Challenge("basic", {"realm": "x"})),
        ),
        (
            'Digest realm="a", nonce="b", Foo abc=, Bar',
            (
                Challenge("digest", {"realm": "a", "nonce": "b"}),
                Challenge("foo", token68="abc="),
                Challenge("bar"),
            ),
        ),
        ('Bearer realm=""', (Challenge("bearer", {"realm": ""}),)),
        ('Bearer realm="caf\u00e9"', (Challenge("bearer", {"realm": "caf\u00e9"}),)),
    ],
)
def test_forms(value: str, expected: tuple[Challenge, ...]) -> None:
    """Every form that RFC 9110 allows is read, several challenges in one value included."""
    assert parse_challenges(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        '"',
        "=",
        'realm="x"',
        'Bearer realm="x',
        'Bearer realm="x\\',
        'Bearer realm="x" service="y"',
        'Bearer realm="x", realm="y"',
        'Bearer realm="x", REALM="y"',
        "Bearer realm=x y",
        'Bearer realm="a\x00b"',
        "Bearer (x)",
        "Bearer a" * 20_000,
    ],
)
def test_malformed(value: str) -> None:
    """Anything else is refused with one short line, never guessed at."""
    with pytest.raises(Unauthorized) as caught:
        parse_challenges(value)

    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@given(st.text(max_size=200) | st.text(alphabet='Bb =,"\\\t/x', max_size=60))
def test_any_text(value: str) -> None:
    """No text at all makes the parser fail in another way than its own."""
    try:
        found = parse_challenges(value)
    except Unauthorized:
        return
    assert all(challenge.scheme for challenge in found)


_TOKEN = st.text(alphabet="abcdefgh-_.!0189", min_size=1, max_size=8)
_VALUES = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(_TOKEN, st.dictionaries(_TOKEN, _VALUES, min_size=1, max_size=4)), max_size=4))
def test_round_trip(challenges: list[tuple[str, dict[str, str]]]) -> None:
    """What is written by the grammar is read back the same."""

    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = ", ".join(
        f"{scheme} {', '.join(f'{name}={quoted(value)}' for name, value in parameters.items())}"
        for scheme, parameters in challenges
    )

    assert parse_challenges(text) == tuple(Challenge(scheme, pairs) for scheme, pairs in challenges)


@pytest.mark.parametrize("piece", [" ", ",", '\\"', "a", "a=", 'a="', "a=b,", "\t,"])
def test_linear_time(piece: str) -> None:
    """A value made to keep the parser busy is dealt with at once."""

    def parse() -> None:
        for value in (f'Bearer x="{piece * 8000}', f"Bearer {piece * 8000}"):
            with contextlib.suppress(Unauthorized):
                parse_challenges(value)

    assert cpu_seconds(parse, enough=1.0) <= 1.0
