"""Where images are asked for: the decision alone."""

from __future__ import annotations

import pytest

from aioruntime.errors import InvalidConfiguration, RequestRefused
from aioruntime.oci.reference import OciRef
from aioruntime.registry.mirrors import places_of
from aioruntime.registry.origins import Rules
from aioruntime.registry.registries_conf import decode_registries, explicit_rules

PIN = "@sha256:" + "0" * 64


def places(text: str, image: str, *, by_digest: bool = False, plain_http: tuple[str, ...] = ()) -> list[str]:
    """List the places as URLs; those that are not what the name means are marked."""
    found = places_of(
        OciRef.parse(image), decode_registries(text.encode(), "file"), Rules(plain_http), by_digest=by_digest
    )
    return [
        f"{'' if place.own else 'for '}{place.endpoint.root.origin()}/{place.endpoint.repository}"
        for place in found
        if place.endpoint
    ]


HUB = "https://registry-1.docker.io/library/tool"
WILD = "[[registry]]\nprefix='*.example.com'\n[[registry.mirror]]\nlocation='m.example'"
BOTH = f"{WILD}\n[[registry]]\nlocation='a.example.com'\n[[registry.mirror]]\nlocation='exact.example'"
INSECURE = (
    "[[registry]]\nlocation='a.example'\ninsecure=true\n"
    "[[registry.mirror]]\nlocation='m.example:80'\ninsecure=true"
)


@pytest.mark.parametrize(
    ("text", "image", "expected"),
    [
        ("", "tool", [HUB]),
        (
            "[[registry]]\nlocation='docker.io'\n[[registry.mirror]]\nlocation='m.example:5000'\n"
            "[[registry.mirror]]\nlocation='n.example/hub'",
            "tool",
            ["for https://m.example:5000/library/tool", "for https://n.example/hub/library/tool", HUB],
        ),
        (
            "[[registry]]\nlocation='docker.io'\n[[registry.mirror]]\nlocation='m.example'",
            "index.docker.io/org/tool",
            ["for https://m.example/org/tool", "https://registry-1.docker.io/org/tool"],
        ),
        (
            "[[registry]]\nprefix='a.example'\nlocation='docker.io'",
            "a.example/tool",
            ["for https://registry-1.docker.io/library/tool"],
        ),
        (
            "[[registry]]\nprefix='A.example'\nlocation='b.example'",
            "A.Example/tool",
            ["for https://b.example/tool"],
        ),
        (
            WILD,
            "x.y.example.com:5000/tool",
            ["for https://m.example:5000/tool", "https://x.y.example.com:5000/tool"],
        ),
        (WILD, "example.com/tool", ["https://example.com/tool"]),
        (WILD, "a.example.com.evil.example/tool", ["https://a.example.com.evil.example/tool"]),
        (WILD, "evil.example/a.example.com", ["https://evil.example/a.example.com"]),
        (WILD, "notexample.com/tool", ["https://notexample.com/tool"]),
        (BOTH, "a.example.com/tool", ["for https://exact.example/tool", "https://a.example.com/tool"]),
        (BOTH, "b.example.com/tool", ["for https://m.example/tool", "https://b.example.com/tool"]),
        (
            "[[registry]]\nlocation='a.example'\n[[registry.mirror]]\nlocation='m.example'",
            "a.example:5000/tool",
            ["https://a.example:5000/tool"],
        ),
        (
            "[[registry]]\nlocation='a.example/org'\n[[registry.mirror]]\nlocation='m.example'",
            "a.example/organ/tool",
            ["https://a.example/organ/tool"],
        ),
        (
            "[[registry]]\nlocation='a.example/org/tool'\n[[registry.mirror]]\nlocation='m.example/x'",
            f"a.example/org/tool{PIN}",
            ["for https://m.example/x", "https://a.example/org/tool"],
        ),
        (
            INSECURE,
            "a.example/tool",
            [
                "for https://m.example:80/tool",
                "for http://m.example/tool",
                "https://a.example/tool",
                "http://a.example/tool",
            ],
        ),
        (
            "[[registry]]\nlocation='a.example'\n"
            "[[registry.mirror]]\nlocation='a.example'\n[[registry.mirror]]\nlocation='localhost:5000'",
            "a.example/tool",
            ["https://a.example/tool", "for http://localhost:5000/tool"],
        ),
    ],
    ids=str,
)
def test_places(text: str, image: str, expected: list[str]) -> None:
    """Mirrors come first, in their order; the longest prefix of whole parts of the name decides."""
    assert places(text, image) == expected


def test_plain_by_name() -> None:
    """A host that the caller has named is asked without TLS alone, as ever."""
    assert places(INSECURE, "a.example/tool", plain_http=("a.example", "m.example")) == [
        "for http://m.example/tool",
        "http://a.example/tool",
    ]


OWN = "[[registry]]\nlocation='a.example'\n"
MIRROR = "[[registry.mirror]]\nlocation='m.example'\n"
TAGS = f"{OWN}{MIRROR}pull-from-mirror='tag-only'"
DIGESTS = f"{OWN}mirror-by-digest-only=true\n{MIRROR}"


@pytest.mark.parametrize(
    ("text", "image", "by_digest", "mirrored"),
    [
        (TAGS, "a.example/tool:1", False, True),
        (TAGS, "a.example/tool:1", True, True),
        (TAGS, f"a.example/tool{PIN}", True, False),
        (DIGESTS, "a.example/tool:1", False, False),
        (DIGESTS, "a.example/tool:1", True, True),
        (DIGESTS, f"a.example/tool{PIN}", True, True),
    ],
)
def test_tags_and_digests(text: str, image: str, by_digest: bool, mirrored: bool) -> None:
    """A digest-only mirror is asked for what a digest names; a tag-only one for images named by tag."""
    assert len(places(text, image, by_digest=by_digest)) == (2 if mirrored else 1)


@pytest.mark.parametrize(
    ("blocked", "image"),
    [
        ("a.example", "a.example/tool"),
        ("*.a.example", "b.a.example:5000/tool"),
        ("a.example/tool:1", "a.example/tool:1"),
        ("docker.io/library", "tool"),
    ],
)
def test_blocked(blocked: str, image: str) -> None:
    """What is blocked is refused with the file's name, also under a shorter prefix that is not."""
    text = f"[[registry]]\nprefix='{blocked}'\nlocation='x.example'\nblocked=true\n{OWN}"
    with pytest.raises(RequestRefused, match=r"blocked by file; no request"):
        places(text, image)

    assert places(text, "a.example/other:2" if blocked != "a.example" else "b.example/other")


def test_no_name() -> None:
    """A rule that makes no name of the image's is told as what is wrong."""
    with pytest.raises(InvalidConfiguration, match=r"file puts m\.example in the place of a\.example/tool"):
        places("[[registry]]\nprefix='a.example/tool'\nlocation='m.example'", "a.example/tool:1")


def test_in_code() -> None:
    """Mirrors given in code are found as those of a file are."""
    found = places_of(
        OciRef.parse("tool"), explicit_rules({"docker.io": ["m.example"]}), Rules(), by_digest=True
    )

    assert [place.endpoint.host for place in found if place.endpoint] == ["m.example", "registry-1.docker.io"]
