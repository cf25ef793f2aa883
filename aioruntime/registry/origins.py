"""Decide where requests may go and what they may carry (L2, pure): the one place with these rules.

Redirects, token realms and foreign layer URLs all pass `may_send`, before a byte is sent; credentials
and tokens pass `same_origin` or `may_carry_credentials` besides. An origin is scheme, host and port
(RFC 6454).
"""

from __future__ import annotations

__all__ = (
    "Rules",
    "follow",
    "host_of",
    "is_loopback",
    "is_named",
    "may_carry_credentials",
    "parse_url",
    "same_origin",
)

import ipaddress
import re
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass

from yarl import URL

from aioruntime.errors import InvalidReference, RequestRefused, one_line

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 3986 has no other characters; what a parser makes of others differs from one to the next.
_URL_TEXT = re.compile(r"[\x21-\x5b\x5d-\x7e]+", re.ASCII)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:", re.ASCII)
_URL_LIMIT = 16 * 1024
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_INTERNAL_NAMES = ("localhost", "metadata.google.internal", "metadata")
# Token servers that are neither the registry's host nor of a name above or below it.
_KNOWN_REALMS = {
    "registry-1.docker.io": "auth.docker.io",
    "docker.elastic.co": "docker-auth.elastic.co",
    "registry.digitalocean.com": "api.digitalocean.com",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user has allowed beyond the defaults.

    Args:
        plain_http: hosts, with or without port, that may be spoken to without TLS. Without a port, every
            port of that host is meant. Naming a host here also allows to be sent there, internal or not.
        trusted_realms: hosts of token servers, likewise, that may have the credentials for any registry.
        has_tls: tells that TLS is set up for a host of this machine, which otherwise is spoken to without.
    """

    plain_http: Collection[str] = ()
    trusted_realms: Collection[str] = ()
    has_tls: Callable[[URL], bool] = lambda _: False

    def registry_url(self, api_host: str) -> URL:
        """Return the root URL of the registry that the user named, with ``http`` only where it is allowed.

        Args:
            api_host: host and optional port, as in a reference.

        Raises:
            InvalidReference: the port or the address can't be.
        """
        try:
            url = URL(f"https://{api_host.lower()}", encoded=True)
            if not url.port or (":" in _host(url) and _address(_host(url)) is None):
                raise ValueError
        except ValueError:
            raise InvalidReference(f"not a registry's host and port: {one_line(api_host)}") from None
        plain = self._is_named(url) or (is_loopback(url) and not self.has_tls(url))
        return url.with_scheme("http") if plain else url

    def allows_plain(self, url: URL) -> bool:
        """Tell whether the host of *url* may be spoken to without TLS: loopback, or named by the user."""
        return is_loopback(url) or self._is_named(url)

    def may_carry_credentials(self, realm: URL, registry: URL) -> bool:
        """Tell whether the user's credentials for *registry* may be sent to a token server.

        It has to be entitled by itself (`may_carry_credentials`), or to be named by the user; then too, no
        credentials and no token for them go unencrypted over a network.
        """
        safe = all(url.scheme == "https" or is_loopback(url) for url in (realm, registry))
        return may_carry_credentials(realm, registry) or (safe and is_named(realm, self.trusted_realms))

    def may_send(self, url: URL, *, registry: URL, what: str, previous: URL | None = None) -> None:
        """Check that a request may go to a *url* that somebody else has named.

        Args:
            url: where to; made by `parse_url` or `follow`.
            registry: root of the registry that the user asked for.
            what: what *url* is, for the message, such as "redirect".
            previous: the URL that named *url*, if it came over HTTP.

        Raises:
            RequestRefused: it may not.
        """
        refused = self._refusal(url, registry, previous)
        if refused:
            raise RequestRefused(f"{host_of(registry)}: {what} to {host_of(url)} refused: {refused}")

    def _refusal(self, url: URL, registry: URL, previous: URL | None) -> str | None:
        host = _host(url)
        own = host == _host(registry) or self._is_named(url)
        if url.scheme == "http" and previous is not None and previous.scheme == "https":
            return "it leads from https to http"
        # Where a plain registry sends us to within itself is as plain as it was allowed to be.
        stays = previous is not None and same_origin(url, registry)
        if url.scheme == "http" and not (stays or self.allows_plain(url)):
            return f"it is not encrypted; if that is acceptable, name {host_of(url)!r} in plain_http="
        if is_loopback(url) and is_loopback(registry):
            return None
        if not own and _is_internal(host):
            return "it is an address of this machine or of a private network, not the registry's own"
        return None

    def _is_named(self, url: URL) -> bool:
        return is_named(url, self.plain_http)


def parse_url(text: str, what: str) -> URL:
    """Parse a URL that somebody else has named, leaving every character as it is.

    Raises:
        RequestRefused: it is not an absolute ``http`` or ``https`` URL, carries a user name or has
            characters that a URL can't have.
    """
    if len(text) > _URL_LIMIT or _URL_TEXT.fullmatch(text) is None:
        raise RequestRefused(f"{what} refused: not a URL: {_shown(text)}")
    try:
        url = URL(text, encoded=True)
        port = url.port
    except ValueError:
        raise RequestRefused(f"{what} refused: not a URL: {_shown(text)}") from None
    if url.scheme not in ("http", "https"):
        raise RequestRefused(f"{what} refused: neither http nor https: {_shown(text)}")
    if not url.raw_host or not port:
        raise RequestRefused(f"{what} refused: no host, or a port that can't be: {_shown(text)}")
    if "@" in url.raw_authority:
        raise RequestRefused(f"{what} to {host_of(url)} refused: the URL carries a user name")
    return url.with_fragment(None) if url.raw_fragment else url


def follow(previous: URL, location: str, kind: str = "redirect") -> URL:
    """Return where a redirect from *previous* leads (RFC 9110, 10.2.2), leaving every character as it is.

    What *kind* of reference it is, if not a redirect, is for the message.

    Raises:
        RequestRefused: it is no URL that may be followed.
    """
    what = f"{host_of(previous)}: {kind}"
    if len(location) > _URL_LIMIT or _URL_TEXT.fullmatch(location) is None:
        raise RequestRefused(f"{what} refused: not a URL: {_shown(location)}")
    if _ABSOLUTE.match(location):
        return parse_url(location, what)
    try:
        joined = previous.join(URL(location, encoded=True))
    except ValueError:
        raise RequestRefused(f"{what} refused: not a URL: {_shown(location)}") from None
    return parse_url(str(joined), what)


def same_origin(one: URL, other: URL) -> bool:
    """Tell whether two URLs have scheme, host and port in common."""
    return (one.scheme, _host(one), one.port) == (other.scheme, _host(other), other.port)


def may_carry_credentials(realm: URL, registry: URL) -> bool:
    """Tell whether the user's credentials for *registry* may be sent to a token server.

    Over https they may go to the registry's own host, to one whose name is above or below it
    (``registry.gitlab.com`` and ``gitlab.com``), and to the token servers of a few known registries. Without
    TLS they go to the registry's own origin alone, and only if that is on this machine.
    """
    if realm.scheme != "https" or registry.scheme != "https":
        return same_origin(realm, registry) and is_loopback(realm)
    one, other = _host(realm), _host(registry)
    if one == other or _KNOWN_REALMS.get(other) == one:
        return True
    if _address(one) is not None or _address(other) is not None:
        return False
    upper, lower = sorted((one, other), key=len)
    return "." in upper and lower.endswith("." + upper)


def host_of(url: URL) -> str:
    """Return host and port as they stand in messages and references, without a usual port."""
    return _bracketed(_host(url)) if url.is_default_port() else _with_port(url)


def is_named(url: URL, hosts: Collection[str]) -> bool:
    """Tell whether *hosts* names that of *url*, with its port or without any, in either case of letters."""
    names = {_host(url), _bracketed(_host(url)), host_of(url), _with_port(url)}
    return not names.isdisjoint(entry.lower() for entry in hosts)


def _with_port(url: URL) -> str:
    return f"{_bracketed(_host(url))}:{url.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host(url: URL) -> str:
    return (url.raw_host or "").lower().rstrip(".")


def _shown(text: str) -> str:
    """Show a URL without its query, which may hold a signature, and without a user name and password."""
    head = re.split(r"[?#]", text, maxsplit=1)[0]
    return one_line(re.sub(r"//[^/]*@", "//***@", head), 120)


def is_loopback(url: URL) -> bool:
    """Tell whether the host of *url* is this machine, by its name or address alone."""
    host = _host(url)
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback


def _is_internal(host: str) -> bool:
    address = _address(host)
    if address is None:
        # A resolver reads "127.1" or "0x7f000001" as an address, whatever a parser says.
        numeric = re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", host.rpartition(".")[2], re.ASCII) is not None
        return numeric or ":" in host or host in _INTERNAL_NAMES or host.endswith(".localhost")
    return not address.is_global or address.is_multicast


def _address(host: str) -> _Address | None:
    """Read *host* as the resolver would, and look into IPv6 forms that carry an IPv4 address."""
    try:
        address: _Address = ipaddress.ip_address(host.replace("%25", "%").partition("%")[0])
    except ValueError:
        try:
            # Reads "127.1", "2130706433" and "0x7f.1" as getaddrinfo does; asks nobody.
            return ipaddress.IPv4Address(socket.inet_aton(host)) if host[:1].isdigit() else None
        except OSError:
            return None
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64 or 1 < int(address) < 1 << 32:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address
