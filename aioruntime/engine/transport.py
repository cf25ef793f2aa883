"""Connections to an engine: over a unix socket, TCP, TLS or ssh (L2)."""

from __future__ import annotations

__all__ = ("DockerError", "Transport", "tls_hint")

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import aiohttp

from aioruntime.engine.endpoint import context_directory
from aioruntime.engine.ssh import SshTunnel
from aioruntime.engine.tls import TlsWire
from aioruntime.engine.wire import Wire, connect_tcp, connect_unix
from aioruntime.errors import EngineUnavailable, one_line

if TYPE_CHECKING:
    from aioruntime.engine.endpoint import Endpoint

try:
    import aiodocker
except RuntimeError:  # it wants a home directory when it is imported, and does not use it then
    os.environ["HOME"] = "/nonexistent"
    import aiodocker

    del os.environ["HOME"]

DockerError = aiodocker.DockerError

_FILES = "in the directory that DOCKER_CERT_PATH names, or that of the Docker context"
# OpenSSL's names for what went wrong.
_CLIENTS = f"it takes only clients with a certificate of its authority: cert.pem and key.pem {_FILES}"
_NO_TLS = "it does not speak TLS; is DOCKER_TLS_VERIFY set, or https:// given, by mistake?"
_TLS_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": f"its certificate is not to be trusted; its authority's is ca.pem {_FILES}",
    "ALERT_CERTIFICATE_REQUIRED": _CLIENTS,
    "ALERT_BAD_CERTIFICATE": _CLIENTS,
    "ALERT_UNKNOWN_CA": _CLIENTS,
    "ALERT_CERTIFICATE_EXPIRED": f"our client certificate has expired: cert.pem {_FILES}",
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
}


@dataclass(slots=True)
class Transport:
    """How to reach one engine.

    Attributes:
        docker: the aiodocker client, whose session carries the ordinary requests.
        base_url: what request paths are appended to.
        host: value of the ``Host`` header.
    """

    docker: aiodocker.Docker
    base_url: str
    host: str
    _path: str | None = None
    _address: tuple[str, int] | None = None
    _tls: ssl.SSLContext | None = None
    _tunnel: SshTunnel | None = None

    @classmethod
    def to(cls, endpoint: Endpoint) -> Self:
        """Prepare connections to *endpoint*; none is made yet.

        Raises:
            EngineUnavailable: TLS files can't be read, or an ssh URL has a password.
        """
        # Followed streams keep their connection for hours. A pool limit (aiohttp's is 100) would let them
        # starve the control calls, and then the call that would end them: so there is none.
        try:
            if endpoint.socket is not None:
                return cls._over_unix(endpoint.socket)
            if endpoint.url.startswith("ssh://"):
                return cls._over_ssh(endpoint.url)
            return cls._over_tcp(endpoint)
        except (OSError, ValueError, DockerError) as exc:
            raise EngineUnavailable(
                f"{endpoint.source}: {endpoint.shown_url} can't be used: {one_line(str(exc))}"
            ) from exc
        except RuntimeError as exc:  # of `Path.home`
            raise EngineUnavailable(
                f"{endpoint.source}: {endpoint.shown_url} needs files from the home directory, "
                "and there is none; set HOME"
            ) from exc

    @classmethod
    def _over_unix(cls, path: str) -> Self:
        # A new connection to a local socket costs nothing, and a request can then never go out on one
        # that the engine has just closed.
        connector = aiohttp.UnixConnector(path, limit=0, force_close=True)
        return cls(_docker("unix://localhost", connector), "http://localhost", "localhost", _path=path)

    @classmethod
    def _over_ssh(cls, url: str) -> Self:
        tunnel = SshTunnel(url)
        connector = aiohttp.UnixConnector(tunnel.path, limit=0)
        docker = _docker("unix://localhost", connector)
        return cls(docker, "http://localhost", "localhost", _path=tunnel.path, _tunnel=tunnel)

    @classmethod
    def _over_tcp(cls, endpoint: Endpoint) -> Self:
        parts = urlsplit(endpoint.url)
        tls = _tls_context(endpoint, parts.scheme)
        scheme = "https" if tls else "http"
        # Docker's registered ports: 2375 in plain text, 2376 with TLS.
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme) or (2376 if tls else 2375)
        name = parts.hostname or ""
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        connector = aiohttp.TCPConnector(limit=0, ssl=tls or True)
        url = f"{scheme}://{host}"
        return cls(_docker(url, connector), url, host, _address=(name, port), _tls=tls)

    async def connect(self) -> Wire:
        """Open a connection of its own, for a protocol that takes over from HTTP.

        Raises:
            OSError: nothing answers there.
        """
        if self._path is not None:
            return Wire(await connect_unix(self._path))
        if self._address is None:
            raise OSError("this connection can't carry streams")
        connected = await connect_tcp(*self._address)
        if self._tls is None:
            return Wire(connected)
        wire = TlsWire(connected, self._tls, self._address[0])
        try:
            await wire.shake_hands()
        except BaseException:
            wire.close()
            raise
        return wire

    @property
    def failure(self) -> str | None:
        """Why the last connection did not come about, as far as its carrier knows better than aiohttp."""
        return self._tunnel.failure if self._tunnel is not None else None

    async def aclose(self) -> None:
        """Close every connection."""
        session = self.docker.session
        try:
            await self.docker.close()
            # aiodocker leaves a session and a connector alone that it was given.
            await session.close()
        finally:
            if self._tunnel is not None:
                await self._tunnel.aclose()


def tls_hint(error: Exception) -> str | None:
    """Tell what is wrong with TLS, in the user's words; None if *error* is not about that."""
    text = str(error)
    found = next((hint for name, hint in _TLS_HINTS.items() if name in text), None)
    return found and f"{found} ({one_line(text)})"


def _docker(url: str, connector: aiohttp.BaseConnector) -> aiodocker.Docker:
    session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout())
    return aiodocker.Docker(url=url, connector=connector, session=session, timeout=aiohttp.ClientTimeout())


def _tls_context(endpoint: Endpoint, scheme: str) -> ssl.SSLContext | None:
    """Return the TLS settings that Docker's own client would use; None for plain text."""
    if endpoint.context is not None:
        files = context_directory(_settings(), endpoint.context, "tls") / "docker"
        return _load_tls(files) if files.is_dir() or scheme == "https" else None
    verify = os.environ.get("DOCKER_TLS_VERIFY", "") not in ("", "0")
    if scheme != "https" and not (verify and scheme == "tcp"):
        return None
    return _load_tls(Path(os.environ.get("DOCKER_CERT_PATH") or _settings()))


def _settings() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _load_tls(files: Path) -> ssl.SSLContext:
    authority, certificate, key = (files / name for name in ("ca.pem", "cert.pem", "key.pem"))
    context = ssl.create_default_context(cafile=str(authority) if authority.exists() else None)
    if certificate.exists() and key.exists():
        context.load_cert_chain(str(certificate), str(key))
    return context
