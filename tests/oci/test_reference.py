"""Image references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import InvalidReference
from aioruntime.oci.reference import OciRef

HEX = "0123456789abcdef" * 4
PIN = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("ubuntu", "docker.io", "ubuntu", None, None),
        ("ubuntu:22.04", "docker.io", "ubuntu", "22.04", None),
        ("org/tool", "docker.io", "org/tool", None, None),
        ("docker.io/ubuntu", "docker.io", "ubuntu", None, None),
        ("docker.io/library/ubuntu", "docker.io", "library/ubuntu", None, None),
        ("index.docker.io/ubuntu", "index.docker.io", "ubuntu", None, None),
        ("ghcr.io/org/tool:1.21", "ghcr.io", "org/tool", "1.21", None),
        ("docker://ghcr.io/org/tool:1", "ghcr.io", "org/tool", "1", None),
        ("oci://ghcr.io/org/tool:1", "ghcr.io", "org/tool", "1", None),
        (f"ghcr.io/org/tool@{PIN}", "ghcr.io", "org/tool", None, PIN),
        (f"ghcr.io/org/tool:1@{PIN}", "ghcr.io", "org/tool", "1", PIN),
        ("ghcr.io/org/tool@sha256:abcd", "ghcr.io", "org/tool", None, "sha256:abcd"),
        ("localhost/tool", "localhost", "tool", None, None),
        ("localhost:5000/tool", "localhost:5000", "tool", None, None),
        ("host:5000/a/b/c:T_1.x-", "host:5000", "a/b/c", "T_1.x-", None),
        ("127.0.0.1:5000/tool", "127.0.0.1:5000", "tool", None, None),
        ("[::1]:5000/tool", "[::1]:5000", "tool", None, None),
        ("[fe80::1]/tool", "[fe80::1]", "tool", None, None),
        ("Host/tool", "Host", "tool", None, None),
        ("a-b.example/a__b/c.d/e---f", "a-b.example", "a__b/c.d/e---f", None, None),
    ],
)
def test_parse(text: str, registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    """A reference is taken apart as Docker does, and keeps what was written."""
    assert OciRef.parse(text) == OciRef(registry, repository, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "/",
        ":tag",
        "/tool",
        "tool/",
        "ghcr.io/",
        "a//b",
        "tool:",
        "tool@",
        "tool:@",
        "tool:a b",
        "tool:-x",
        "tool:.x",
        "tool:" + "x" * 129,
        "Tool",
        "org/Tool",
        "a___b",
        "a._b",
        "-a",
        "a-",
        "a..b",
        "host:port/tool",
        "host:123456/tool",
        "-host.io/tool",
        "host-.io/tool",
        "[::1/tool",
        "[::g]/tool",
        "user@host.io/tool",
        "tool@sha256",
        "tool@sha256:xyz",
        "tool@sha256:",
        f"tool@{PIN}@{PIN}",
        f"tool@{PIN}:1",
        "../../etc/passwd",
        "tool\n",
        "tool:1\n",
        "tool\0",
        " tool",
        "t\u00f6\u00f6l",
        "tool:\u0661",
        "https://ghcr.io/org/tool",
        "a/" * 140 + "b",
    ],
)
def test_refused(text: str) -> None:
    """What the reference grammar rejects is rejected, in one printable line."""
    with pytest.raises(InvalidReference) as caught:
        OciRef.parse(text)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_upper_case_hint() -> None:
    """The usual slips are explained."""
    with pytest.raises(InvalidReference, match="lower case"):
        OciRef.parse("ghcr.io/Org/tool")
    with pytest.raises(InvalidReference, match="leave http:// out"):
        OciRef.parse("http://ghcr.io/org/tool")


@pytest.mark.parametrize(
    ("text", "host", "repository", "docker", "canonical"),
    [
        ("ubuntu", "registry-1.docker.io", "library/ubuntu", "ubuntu", "docker.io/library/ubuntu:latest"),
        (
            "docker.io/library/ubuntu:1",
            "registry-1.docker.io",
            "library/ubuntu",
            "library/ubuntu:1",
            "docker.io/library/ubuntu:1",
        ),
        ("index.docker.io/a/b:1", "registry-1.docker.io", "a/b", "index.docker.io/a/b:1", "docker.io/a/b:1"),
        ("ghcr.io/tool", "ghcr.io", "tool", "ghcr.io/tool", "ghcr.io/tool:latest"),
        (f"ghcr.io/t:1@{PIN}", "ghcr.io", "t", f"ghcr.io/t:1@{PIN}", f"ghcr.io/t@{PIN}"),
    ],
)
def test_names(text: str, host: str, repository: str, docker: str, canonical: str) -> None:
    """Where an image is requested, and what Docker calls it, are derived from what was written."""
    image = OciRef.parse(text)

    assert (image.api_host, image.api_repository) == (host, repository)
    assert (image.docker_arg(), image.canonical) == (docker, canonical)


@pytest.mark.parametrize("name", ["localhost/x:1", "a.b/x", "a/x", "x"])
def test_docker_arg_means_the_same(name: str) -> None:
    """`docker_arg` leaves the registry out only where it is then understood."""
    image = OciRef.parse(f"docker.io/{name}")

    assert OciRef.parse(image.docker_arg()) == image


def test_selector() -> None:
    """The digest decides, then the tag, then latest."""
    assert OciRef.parse(f"t:1@{PIN}").selector == PIN
    assert OciRef.parse("t:1").selector == "1"
    assert OciRef.parse("t").selector == "latest"


@pytest.mark.parametrize("digest", ["sha256:abcd", f"sha256:{HEX.upper()}", f"blake3:{HEX}", "md5:00"])
def test_unusable_digest(digest: str) -> None:
    """A digest that passes the grammar but can't be verified is refused once it is used."""
    image = OciRef.parse(f"ghcr.io/tool@{digest}")

    for use in (lambda: image.pinned, lambda: image.selector, lambda: image.canonical):
        with pytest.raises(InvalidReference, match="can't be fetched"):
            use()


@given(
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,8}){1,2}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,5})?(/[a-z0-9]{1,9}){0,3}", fullmatch=True),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    st.sampled_from([None, PIN]),
)
def test_round_trip(registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    """A reference written out is parsed back the same."""
    image = OciRef(registry, repository, tag, digest)

    assert OciRef.parse(str(image)) == image
    assert OciRef.parse(image.canonical).canonical == image.canonical


@given(st.text(max_size=60) | st.text(alphabet="aA0.:/@-_[]sh256", max_size=40))
def test_any_text(text: str) -> None:
    """Any text is a reference that is written out as one, or is refused."""
    try:
        image = OciRef.parse(text)
    except InvalidReference:
        return
    assert OciRef.parse(str(image)) == image
    assert ".." not in image.repository
