"""Where requests may go, and what they may carry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from aioruntime.errors import InvalidReference, RequestRefused
from aioruntime.registry.origins import (
    Rules,
    follow,
    host_of,
    may_carry_credentials,
    parse_url,
    same_origin,
)

RULES = Rules()
NAMED = Rules(["harbor.lab:8080", "10.0.0.5", "PLAIN.lab"])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("ghcr.io", "https://ghcr.io"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("127.8.9.1:5000", "http://127.8.9.1:5000"),
        ("localhost:5000", "http://localhost:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("10.0.0.5:5000", "https://10.0.0.5:5000"),
        ("localhost.evil.io", "https://localhost.evil.io"),
        ("127.0.0.1.evil.io", "https://127.0.0.1.evil.io"),
    ],
)
def test_plain_http_for_loopback_only(host: str, url: str) -> None:
    """Without being told, only this machine's own loopback is spoken to without TLS."""
    assert str(RULES.registry_url(host)).rstrip("/") == url


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("harbor.lab:8080", "http"),
        ("Harbor.LAB:8080", "http"),
        ("harbor.lab:8081", "https"),
        ("harbor.lab", "https"),
        ("10.0.0.5", "http"),
        ("10.0.0.5:9", "http"),
        ("plain.lab:1", "http"),
        ("plain.lab.evil.io", "https"),
    ],
)
def test_plain_http_as_named(host: str, scheme: str) -> None:
    """A host named with a port is named for that port, one without for all; nothing else is meant."""
    assert NAMED.registry_url(host).scheme == scheme


@pytest.mark.parametrize("host", ["h.io:0", "h.io:99999", "[1:2]:5"])
def test_impossible_registry(host: str) -> None:
    """A port or an address that can't be is told to be the reference's fault."""
    with pytest.raises(InvalidReference):
        RULES.registry_url(host)


PUBLIC = "https://registry.example"
ALLOWED = [
    (PUBLIC, "https://cdn.example/x", "redirect"),
    (PUBLIC, "https://registry.example:8443/x", "redirect"),
    (PUBLIC, "https://8.8.8.8/x", "redirect"),
    (PUBLIC, "https://[2606:4700::1]/x", "redirect"),
    (PUBLIC, "https://1password.example/x", "redirect"),
    ("http://127.0.0.1:5000", "http://127.0.0.1:6000/x", "redirect"),
    ("http://127.0.0.1:5000", "http://localhost:6000/x", "redirect"),
    ("http://127.0.0.1:5000", "https://cdn.example/x", "redirect"),
    ("https://10.1.1.1", "https://10.1.1.1:8443/x", "redirect"),
]
REFUSED = [
    (PUBLIC, "http://registry.example/x", "https to http"),
    (PUBLIC, "http://127.0.0.1/x", "https to http"),
    (PUBLIC, "https://127.0.0.1/x", "private network"),
    (PUBLIC, "https://localhost/x", "private network"),
    (PUBLIC, "https://LOCALHOST./x", "private network"),
    (PUBLIC, "https://a.localhost/x", "private network"),
    (PUBLIC, "https://127.1/x", "private network"),
    (PUBLIC, "https://2130706433/x", "private network"),
    (PUBLIC, "https://0x7f.1/x", "private network"),
    (PUBLIC, "https://0177.0.0.1/x", "private network"),
    (PUBLIC, "https://127.0.0.1./x", "private network"),
    (PUBLIC, "https://1.2.3.4.5/x", "private network"),
    (PUBLIC, "https://a.0x7f/x", "private network"),
    (PUBLIC, "https://0.0.0.0/x", "private network"),
    (PUBLIC, "https://10.0.0.1/x", "private network"),
    (PUBLIC, "https://172.16.0.1/x", "private network"),
    (PUBLIC, "https://192.168.1.1/x", "private network"),
    (PUBLIC, "https://100.64.0.1/x", "private network"),
    (PUBLIC, "https://169.254.169.254/latest", "private network"),
    (PUBLIC, "https://224.0.0.1/x", "private network"),
    (PUBLIC, "https://metadata.google.internal/x", "private network"),
    (PUBLIC, "https://[::1]/x", "private network"),
    (PUBLIC, "https://[1:2]/x", "private network"),
    (PUBLIC, "https://[::]/x", "private network"),
    (PUBLIC, "https://[fe80::1]/x", "private network"),
    (PUBLIC, "https://[fe80::1%25eth0]/x", "private network"),
    (PUBLIC, "https://[fd00:ec2::254]/x", "private network"),
    (PUBLIC, "https://[::ffff:127.0.0.1]/x", "private network"),
    (PUBLIC, "https://[::ffff:10.0.0.1]/x", "private network"),
    (PUBLIC, "https://[::127.0.0.1]/x", "private network"),
    (PUBLIC, "https://[64:ff9b::10.0.0.1]/x", "private network"),
    (PUBLIC, "https://[2002:7f00:1::]/x", "private network"),
    ("https://10.1.1.1", "https://10.1.1.2/x", "private network"),
    ("http://127.0.0.1:5000", "https://10.1.1.2/x", "private network"),
    ("http://127.0.0.1:5000", "http://registry.example/x", "plain_http="),
]


@pytest.mark.parametrize(("registry", "target", "_what"), ALLOWED)
def test_allowed(registry: str, target: str, _what: str) -> None:
    """A redirect may lead to any public host by https, and within what the user has already named."""
    root = URL(registry)

    RULES.may_send(parse_url(target, "redirect"), registry=root, what="redirect", previous=root)


@pytest.mark.parametrize(("registry", "target", "why"), REFUSED)
def test_refused(registry: str, target: str, why: str) -> None:
    """No registry can send us to this machine, to a private network or away from TLS, however it is spelt."""
    root = URL(registry)

    with pytest.raises(RequestRefused, match=why) as caught:
        RULES.may_send(parse_url(target, "redirect"), registry=root, what="redirect", previous=root)

    assert host_of(root) in str(caught.value)


@pytest.mark.parametrize("target", ["http://harbor.lab:8080/x", "http://10.0.0.5/x", "https://10.0.0.5:9/x"])
def test_named_hosts_are_trusted(target: str) -> None:
    """A host that the user has named may be redirected to, though internal; but never from https to http."""
    plain = URL("http://harbor.lab:8080")
    NAMED.may_send(URL(target), registry=plain, what="redirect", previous=plain)
    if target.startswith("http:"):
        with pytest.raises(RequestRefused, match="https to http"):
            NAMED.may_send(URL(target), registry=URL(PUBLIC), what="redirect", previous=URL(PUBLIC))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/relative",
        "//host/path",
        "ftp://host/",
        "file:///etc/passwd",
        "unix:/run/docker.sock",
        "https://",
        "https:///path",
        "https://user:pw@host/",
        "https://user@host/",
        "https://@host/",
        "https://host:0/",
        "https://host:99999/",
        "https://host:x/",
        "https://a b/",
        "https://host/\r\nX: y",
        "https://host\\@evil.example/",
        "https://h\u00f6st/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://[::1/",
        "https://host/" + "a" * 20_000,
    ],
)
def test_not_a_url(text: str) -> None:
    """What is not plainly an http or https URL is refused, and no password in it is shown."""
    with pytest.raises(RequestRefused) as caught:
        parse_url(text, "realm")

    assert "pw" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_signed_url_unaltered() -> None:
    """Escapes in paths and queries stay as they were signed."""
    signed = "https://cdn.example/a%2Fb%2fc?X-Sig=%41%2b+~&y=a%3Db"

    assert str(follow(URL(PUBLIC), signed)) == signed
    assert str(follow(URL("https://cdn.example/d/e"), "../a%2Fb?x=%41")) == "https://cdn.example/a%2Fb?x=%41"


def test_refusal_hides_the_query() -> None:
    """The signature in a refused URL is not shown."""
    with pytest.raises(RequestRefused) as caught:
        follow(URL(PUBLIC), "ftp://cdn.example/x?X-Sig=canary")

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.io", "https://A.io:443/x", True),
        ("https://a.io", "https://a.io./x", True),
        ("https://a.io", "http://a.io", False),
        ("https://a.io", "https://a.io:444", False),
        ("https://a.io", "https://b.a.io", False),
    ],
)
def test_origin(one: str, other: str, same: bool) -> None:
    """An origin is scheme, host and port, each of them."""
    assert same_origin(URL(one), URL(other, encoded=True)) is same


@pytest.mark.parametrize(
    ("realm", "registry", "allowed"),
    [
        ("https://ghcr.io/token", "https://ghcr.io", True),
        ("https://ghcr.io:8443/token", "https://ghcr.io", True),
        ("https://auth.docker.io/token", "https://registry-1.docker.io", True),
        ("https://docker-auth.elastic.co/auth", "https://docker.elastic.co", True),
        ("https://docker-auth.elastic.co/auth", "https://ghcr.io", False),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", True),
        ("https://auth.harbor.example/t", "https://harbor.example", True),
        ("http://127.0.0.1:5000/t", "http://127.0.0.1:5000", True),
        ("http://127.0.0.1:5001/t", "http://127.0.0.1:5000", False),
        ("http://harbor.lab:8080/t", "http://harbor.lab:8080", False),
        ("https://evil.example/t", "https://ghcr.io", False),
        ("https://evilghcr.io/t", "https://ghcr.io", False),
        ("https://ghcr.io.evil.example/t", "https://ghcr.io", False),
        ("https://io/t", "https://ghcr.io", False),
        ("https://auth.docker.io/t", "https://ghcr.io", False),
        ("https://2.10.0.0.1/t", "https://10.0.0.1", False),
        ("https://0.0.1/t", "https://10.0.0.1", False),
        ("http://ghcr.io/t", "https://ghcr.io", False),
    ],
)
def test_who_may_have_credentials(realm: str, registry: str, allowed: bool) -> None:
    """R1: a user's password goes to the registry's own people, encrypted, and to nobody else."""
    assert may_carry_credentials(URL(realm), URL(registry)) is allowed


TRUSTED = Rules(trusted_realms=["AUTH.example", "127.0.0.1:5001"])


@pytest.mark.parametrize(
    ("realm", "registry", "allowed"),
    [
        ("https://auth.example:8443/t", "https://registry.example", True),
        ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", True),
        ("http://127.0.0.1:5001/t", "http://127.0.0.1:5000", True),
        ("http://127.0.0.1:5002/t", "http://127.0.0.1:5000", False),
        ("http://auth.example/t", "https://registry.example", False),
        ("https://auth.example/t", "http://registry.example", False),
        ("https://evil.example/t", "https://registry.example", False),
    ],
)
def test_trusted_realms(realm: str, registry: str, allowed: bool) -> None:
    """R1: a token server that the user has named may have credentials, but nothing goes unencrypted."""
    assert TRUSTED.may_carry_credentials(URL(realm), URL(registry)) is allowed


@given(st.text(max_size=60) | st.text(alphabet="htps:/@[]%.0127x?#", max_size=40))
def test_any_location(text: str) -> None:
    """No Location at all fails in another way than as a refusal, or leads to other than http and https."""
    try:
        url = follow(URL(PUBLIC), text)
        RULES.may_send(url, registry=URL(PUBLIC), what="redirect", previous=URL(PUBLIC))
    except RequestRefused:
        return
    assert url.scheme == "https"
    assert not url.user
