"""Digests."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import InvalidReference
from aioruntime.oci.digest import ImageDigest

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("value", [f"sha256:{HEX}", f"sha512:{HEX}{HEX}"])
def test_digests(value: str) -> None:
    """A digest of a registered algorithm and full length is taken, and knows its parts."""
    digest = ImageDigest(value)

    assert digest == value
    assert f"{digest.algorithm}:{digest.hex}" == value
    assert digest.hasher().name == digest.algorithm


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha256:",
        "sha256",
        HEX,
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"SHA256:{HEX}",
        f"sha512:{HEX}",
        f"sha256:{HEX}{HEX}",
        f"md5:{HEX[:32]}",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        f"sha256:{HEX[:-1]}\0",
        "sha256:../../etc/passwd",
        f"sha256:{HEX[:-1]}\u0661",
        f"sha256:../{HEX[3:]}",
    ],
)
def test_not_digests(value: str) -> None:
    """Nothing else can become part of a path or a URL."""
    with pytest.raises(InvalidReference):
        ImageDigest(value)


@given(st.text(max_size=80) | st.from_regex(r"sha(256|512):[0-9a-fA-F]{0,130}\n?"))
def test_any_text(value: str) -> None:
    """Any text is a digest as written, or is refused in one line."""
    try:
        shown: str = ImageDigest(value)
    except InvalidReference as refused:
        shown = str(refused)
    else:
        assert shown == value
    assert shown.isprintable()


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_matches(data: bytes, other: bytes) -> None:
    """A digest matches what it was made of, and nothing else."""
    digest = ImageDigest.of(data)

    assert digest.matches(data)
    assert digest.matches(other) is (data == other)
    assert ImageDigest("sha512:" + hashlib.sha512(data).hexdigest()).matches(data)
