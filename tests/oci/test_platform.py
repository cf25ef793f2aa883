"""Platforms."""

from __future__ import annotations

import platform as host

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import InvalidSpec
from aioruntime.oci.platform import Platform, matching_platforms, with_default_variant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("Linux/AArch64", Platform("linux", "arm64")),
        ("linux/arm64/v8", Platform("linux", "arm64", "v8")),
        ("linux/arm/v7", Platform("linux", "arm", "v7")),
        ("windows/amd64", Platform("windows", "amd64")),
    ],
)
def test_parse(text: str, expected: Platform) -> None:
    """Platforms are read as Docker writes them, with the kernel's names mapped."""
    assert Platform.parse(text) == expected
    assert Platform.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "linux", "linux/", "/amd64", "linux/amd64/", "linux/arm/v7/x", "li nux/amd64", "linux/a\n"]
)
def test_refused(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidSpec):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv6l", "linux/arm/v6"),
        ("armv7l", "linux/arm/v7"),
        ("i386", "linux/386"),
    ],
)
def test_host(machine: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's processor is told by its Go name."""
    monkeypatch.setattr(host, "machine", lambda: machine)

    assert str(Platform.host()) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("linux/amd64", ["linux/amd64"]),
        ("linux/amd64/v1", ["linux/amd64"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]),
        ("linux/amd64/v4", ["linux/amd64/v4", "linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]),
        ("linux/arm/v8", ["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        (
            "linux/arm64/v9",
            [
                *("linux/arm64/v9", "linux/arm64/v8"),
                *("linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"),
            ],
        ),
        ("linux/arm/v6", ["linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        (
            "linux/arm64",
            ["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
        ),
        ("linux/s390x", ["linux/s390x"]),
    ],
)
def test_matching(wanted: str, expected: list[str]) -> None:
    """A machine runs its own variant first, then older ones."""
    assert [str(platform) for platform in matching_platforms(Platform.parse(wanted))] == expected


@given(
    st.sampled_from(["amd64", "arm64", "arm", "386", "riscv64"]), st.sampled_from([None, "v6", "v7", "v8"])
)
def test_own_platform_matches_first(architecture: str, variant: str | None) -> None:
    """Every machine prefers images that are made for exactly it."""
    wanted = Platform("linux", architecture, variant)

    assert matching_platforms(wanted)[0] == with_default_variant(wanted)


@given(st.text(max_size=20))
def test_any_text(text: str) -> None:
    """Any text is a platform that is written out as one, or is refused."""
    try:
        platform = Platform.parse(text)
    except InvalidSpec:
        return
    assert Platform.parse(str(platform)) == platform
