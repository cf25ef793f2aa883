"""TLS for each host (L2): whose certificates are believed there, and which one of ours is shown.

Reads the directories of Docker and of containers-certs.d(5): ``certs.d/HOST[:PORT]`` with ``*.crt``, the
authorities to believe besides the system's, and ``X.cert`` with ``X.key``, the client's certificate.
"""

from __future__ import annotations

__all__ = ("Certificates", "Tls")

import asyncio
import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.errors import InvalidSpec
from aioruntime.registry.origins import host_of, is_named
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Collection

    from yarl import URL

# The first that has a directory for a host decides alone.
_PARENTS = (
    "~/.config/containers/certs.d",
    "~/.docker/certs.d",
    "/etc/containers/certs.d",
    "/etc/docker/certs.d",
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS to a host.

    Args:
        context: what aiohttp takes for ``ssl``: a context, or True for the system's authorities.
        personal: whether the host may learn who we are by it, so that it may give us what others don't get.
    """

    context: ssl.SSLContext | bool = True
    personal: bool = False


class Certificates:
    """The TLS settings of each host, read once.

    Args:
        ssl_context: used for every host in place of the system's authorities and of what lies in ``certs.d``.
        insecure: hosts, with or without port, whose certificates are not verified.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None, insecure: Collection[str] = ()) -> None:
        self._given = ssl_context
        self._insecure = tuple(insecure)
        self._directories: dict[str, Path] = {}
        # Whoever made a context may have put a client's certificate into it; that can't be asked.
        self._usual = Tls() if ssl_context is None else Tls(ssl_context, personal=True)
        self._known: dict[str, Tls] = {}
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        """Find out which hosts have a directory of their own; what is in it is read when it is needed."""
        if self._given is None:
            self._directories = await in_thread(_directories)

    def has_tls(self, url: URL) -> bool:
        """Tell whether the user has set up TLS for the host of *url*."""
        return self._given is not None or self._is_special(url)

    async def tls_for(self, url: URL) -> Tls:
        """Return how to speak TLS to the host of *url*.

        Raises:
            InvalidSpec: a file of its directory can't be used.
        """
        if url.scheme != "https":
            return replace(self._usual, personal=False)
        if not self._is_special(url):
            return self._usual
        key = _names(url)[0]
        async with self._reading:
            if key not in self._known:
                directory = next(filter(None, map(self._directories.get, _names(url))), None)
                self._known[key] = await in_thread(_read, directory, not is_named(url, self._insecure))
            return self._known[key]

    def is_usual(self, tls: Tls) -> bool:
        """Tell whether *tls* is what hosts have that nothing is set up for."""
        return tls.context is self._usual.context

    def _is_special(self, url: URL) -> bool:
        return not self._directories.keys().isdisjoint(_names(url)) or is_named(url, self._insecure)


def _names(url: URL) -> tuple[str, ...]:
    host = host_of(url)
    return (host, f"{host}:{url.port}") if url.is_default_port() else (host,)


def _directories() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for parent in _PARENTS:
        try:
            entries = sorted(Path(os.path.expanduser(parent)).iterdir())
        except OSError:
            continue  # not there, or not for us to read: nothing is trusted because of it
        for entry in entries:
            found.setdefault(entry.name.lower(), entry)
    return found


def _read(directory: Path | None, verified: bool) -> Tls:
    """Make the context of one host; it verifies nothing if not *verified*."""
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    files = _files(directory) if directory else []
    for path in files:
        try:
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            elif path.suffix == ".cert":
                # Without a password of ours, OpenSSL would ask for one on the terminal.
                context.load_cert_chain(path, path.with_suffix(".key"), password="")
        except OSError as exc:
            key = f" with {path.stem}.key" if path.suffix == ".cert" else ""
            why = getattr(exc, "reason", None) or exc.strerror
            raise InvalidSpec(
                f"{path}{key}: can't be used: {why}; it has to be there in PEM form, a key without password"
            ) from exc
    return Tls(context, personal=any(path.suffix == ".cert" for path in files))


def _files(directory: Path) -> list[Path]:
    files: list[Path] = []
    try:
        files = sorted(directory.iterdir())
    except OSError as exc:
        raise InvalidSpec(f"{directory}: can't be read: {exc.strerror}; mend or remove it") from exc
    for key in files:
        if key.suffix == ".key" and key.with_suffix(".cert") not in files:
            raise InvalidSpec(f"{key}: there is no {key.stem}.cert beside it; add it or remove the key")
    return files
