"""The parser of Link."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import RegistryError
from aioruntime.registry.links import next_link
from tests.support.timing import cpu_seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", None),
        (" , ,", None),
        ('</v2/a/tags/list?last=b&n=2>; rel="next"', "/v2/a/tags/list?last=b&n=2"),
        ("<a>;rel=next", "a"),
        ("<a> ; REL = Next ;", "a"),
        ('<a>; rel="prev up next"', "a"),
        ("<>; rel=next", ""),
        ("<a>", None),
        ("<a>; rel=prev", None),
        ("<a>; rel=nextish", None),
        ("<a>; rel=prev, <b>; rel=next, <c>; rel=next", "b"),
        ("<a>; rel=prev; rel=next", None),
        ('<a,b;c>; title="x, <y>; rel=next"; rel=next', "a,b;c"),
        ('<a>; title="x \\" y"; rel="n\\ext"', "a"),
        ('<a>; rel=next; anchor="#x", <b>; rel=next', "b"),
        ("<a>; x; rel=next", "a"),
    ],
)
def test_next(value: str, expected: str | None) -> None:
    """The first link to the next page is found among others, whatever the form that RFC 8288 allows."""
    assert next_link(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "x",
        "a; rel=next",
        "<a",
        "<a>; rel=next x",
        '<a>; rel="next',
        "<a> <b>",
        "<a>; x=; rel=next",
        "<" * 70_000,
    ],
)
def test_malformed(value: str) -> None:
    """What is no Link is refused, since a list that ends there would look whole."""
    with pytest.raises(RegistryError, match="malformed Link"):
        next_link(value)


def test_query_is_not_shown() -> None:
    """A signature in what is malformed is not told."""
    with pytest.raises(RegistryError) as caught:
        next_link("<a?sig=canary>; rel=next x")

    assert "canary" not in str(caught.value)


def parsed_or_refused(value: str) -> None:
    with contextlib.suppress(RegistryError):
        next_link(value)


@given(st.text(alphabet=st.sampled_from('<>;,="\\ \tarelnxt?é\n'), max_size=200) | st.text(max_size=200))
def test_anything(value: str) -> None:
    """Any text is parsed or refused, in no time."""
    assert cpu_seconds(lambda: parsed_or_refused(value), enough=0.5) <= 0.5


TARGETS = st.text(alphabet=st.characters(exclude_characters="<>"), max_size=30)
VALUES = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(TARGETS, st.lists(st.tuples(st.sampled_from(["title", "type", "x"]), VALUES), max_size=4))
def test_what_is_written_is_read(target: str, others: list[tuple[str, str]]) -> None:
    """A link is found whatever it names and whatever else is said of it."""
    quoted = [(name, text.replace("\\", "\\\\").replace('"', '\\"')) for name, text in others]
    more = "".join(f'; {name}="{text}"' for name, text in quoted)

    assert next_link(f"<other>; rel=first{more}, <{target}>{more}; rel=next") == target


@pytest.mark.parametrize(
    "value", ["<a>" + ";" * 60_000, "<a>; x=" + '"' * 60_000, "," * 60_000, "<a>" * 20_000]
)
def test_long(value: str) -> None:
    """What is made to be slow to parse is not."""
    assert cpu_seconds(lambda: parsed_or_refused(value), enough=0.5) <= 0.5
