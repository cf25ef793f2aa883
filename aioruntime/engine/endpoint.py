"""Where an engine may be: the addresses to try, in order (L2).

The order is: ``DOCKER_HOST``, ``CONTAINER_HOST``, ``DOCKER_CONTEXT``, the current Docker context, the
usual sockets of Docker, Docker Desktop and Colima, and those of Podman.
"""

from __future__ import annotations

__all__ = ("Endpoint", "candidate_endpoints", "check_url", "context_directory", "usual_sockets")

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aioruntime.errors import EngineUnavailable, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SCHEMES = ("tcp", "http", "https", "ssh")
_FORMS = "unix:///path, tcp://host:port, http(s)://host:port or ssh://user@host"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of an engine.

    Args:
        url: such as ``unix:///var/run/docker.sock``.
        source: how it was found, such as ``DOCKER_HOST``; used in messages.
        context: name of the Docker context that it comes from, whose TLS files are used; None if from none.
        explicit: whether somebody configured it, so that it must answer; False for sockets just looked for.
    """

    url: str
    source: str
    context: str | None = None
    explicit: bool = True

    @property
    def socket(self) -> str | None:
        """Path of the unix socket; None for other schemes."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else None

    @property
    def shown_url(self) -> str:
        """The URL without user and password, for messages."""
        head, _, rest = self.url.partition("://")
        return self.url if head == "unix" else one_line(f"{head}://{rest.rpartition('@')[2]}")


def check_url(url: str, source: str) -> str:
    """Return *url* if it is an engine's address.

    Raises:
        EngineUnavailable: it has another form; the message shows the forms that are understood.
    """
    try:
        parts = urlsplit(url)
        well_formed = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        well_formed = False
    if url.startswith("unix:///") and len(url) > len("unix:///") and "\0" not in url:
        return url
    if well_formed:
        return url
    # What stands before an @ may be a password.
    shown = one_line(url.rpartition("@")[2])
    raise EngineUnavailable(f"{source}: not an engine's address: {shown!r}; expected {_FORMS}")


def candidate_endpoints(
    environ: Mapping[str, str], home: Path, is_socket: Callable[[str], bool]
) -> list[Endpoint]:
    """List the engine addresses to try, best first.

    Args:
        environ: the environment variables.
        home: the user's home directory; Docker's settings are read from ``.docker`` in it.
        is_socket: tells whether a path is a socket.

    Raises:
        EngineUnavailable: a configured address is malformed, or its Docker context can't be read.
    """
    present = [e for e in usual_sockets(environ, home) if e.socket is not None and is_socket(e.socket)]
    return [*_configured(environ, home), *present]


def _configured(environ: Mapping[str, str], home: Path) -> list[Endpoint]:
    found = [
        Endpoint(check_url(url, name), name)
        for name in ("DOCKER_HOST", "CONTAINER_HOST")
        if (url := environ.get(name))
    ]
    # A configured address that does not answer is an error, so what would come after it is not looked at.
    if found:
        return found
    settings = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    source = "DOCKER_CONTEXT"
    name = environ.get("DOCKER_CONTEXT")
    if not name:
        source = "current Docker context"
        name = _current_context(settings / "config.json")
    # "default" is the name of having no context.
    if not name or name == "default":
        return []
    url = _context_host(settings, name, source)
    return [Endpoint(check_url(url, f"{source} {name}"), f"{source} {one_line(name)}", context=name)]


def _current_context(path: Path) -> str | None:
    try:
        settings = json.loads(path.read_bytes())
    except OSError:
        return None
    except ValueError as exc:
        raise EngineUnavailable(f"{path} is not valid JSON: {one_line(str(exc))}") from exc
    name = settings.get("currentContext") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def context_directory(settings: Path, name: str, kind: str) -> Path:
    """Return where Docker keeps the *kind* (``meta`` or ``tls``) of context *name* below *settings*."""
    return settings / "contexts" / kind / hashlib.sha256(name.encode()).hexdigest()


def _context_host(settings: Path, name: str, source: str) -> str:
    path = context_directory(settings, name, "meta") / "meta.json"
    try:
        document: Any = json.loads(path.read_bytes())
        host = document["Endpoints"]["docker"]["Host"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise EngineUnavailable(
            f"{source}: Docker context {one_line(repr(name))} can't be read from {path}: "
            f"{one_line(repr(exc))}; see docker context ls"
        ) from exc
    return str(host)


def usual_sockets(environ: Mapping[str, str], home: Path) -> list[Endpoint]:
    """List the sockets that engines usually have, whether they are there or not, best first."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    places = [
        (f"{runtime}/docker.sock" if runtime else None, "rootless Docker's socket"),
        ("/var/run/docker.sock", "Docker's socket"),
        (f"{home}/.docker/run/docker.sock", "Docker Desktop's socket"),
        (f"{home}/.docker/desktop/docker.sock", "Docker Desktop's socket"),
        (f"{home}/.colima/default/docker.sock", "Colima's socket"),
        (f"{runtime}/podman/podman.sock" if runtime else None, "rootless Podman's socket"),
        ("/run/podman/podman.sock", "Podman's socket"),
    ]
    return [Endpoint(f"unix://{path}", source, explicit=False) for path, source in places if path]
