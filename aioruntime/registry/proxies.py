"""Proxies as ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` name them (L2)."""

from __future__ import annotations

__all__ = ("Proxies", "Proxy")

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment

from yarl import URL

from aioruntime.errors import InvalidSpec
from aioruntime.registry.credentials import Secret
from aioruntime.registry.origins import host_of, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Args:
        host: its host and port, for messages.
        url: its URL, which may hold a user name and a password.
        encrypted: whether it is spoken to with TLS.
    """

    host: str
    url: Secret
    encrypted: bool


class Proxies:
    """Which proxy to go through, for each host.

    Args:
        named: the proxies' URLs by scheme (``http``, ``https``, ``all``), and the exceptions as ``no``; what
            the environment has now if not given.
    """

    def __init__(self, named: Mapping[str, str] | None = None) -> None:
        found = getproxies_environment() if named is None else named
        self._named = {scheme: Secret(value) for scheme, value in found.items() if scheme != "no"}
        self._exceptions = [entry.strip().lower() for entry in found.get("no", "").split(",")]

    def find(self, url: URL) -> Proxy | None:
        """Return the proxy for the host of *url*; None to go there directly, as always on this machine.

        Raises:
            InvalidSpec: what the environment names is no proxy that can be used.
        """
        named = self._named.get(url.scheme) or self._named.get("all")
        if named is None or is_loopback(url) or any(_covers(entry, url) for entry in self._exceptions):
            return None
        return _proxy(named, f"{url.scheme.upper()}_PROXY or ALL_PROXY")


def _covers(entry: str, url: URL) -> bool:
    """Tell whether an entry of ``NO_PROXY`` is the host of *url*, a domain above it, or its network."""
    if entry == "*":
        return True
    host = url.raw_host or ""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = entry.removeprefix("*").removeprefix(".")
    return bool(name) and any(
        whole == name or whole.endswith(f".{name}") for whole in (host, host_of(url), f"{host}:{url.port}")
    )


def _proxy(named: Secret, variable: str) -> Proxy:
    text = named.reveal()
    scheme, _, rest = text.rpartition("://")
    if scheme.lower() not in ("", "http", "https"):
        shown = scheme if re.fullmatch(r"[A-Za-z0-9+.-]{1,16}", scheme, re.ASCII) else "something else"
        raise InvalidSpec(f"{variable} names a proxy of kind {shown}; only http and https are known")
    try:
        url = URL(f"{scheme.lower() or 'http'}://{rest}")
        if not url.raw_host or not url.port:
            raise ValueError
    except ValueError:
        raise InvalidSpec(f"{variable} is not the URL of a proxy, such as http://proxy:3128") from None
    return Proxy(host_of(url), Secret(str(url)), url.scheme == "https")
