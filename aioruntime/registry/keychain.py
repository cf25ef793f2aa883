"""Where credentials come from (L2): those that the caller gives, and those that are on this machine."""

from __future__ import annotations

__all__ = ("DefaultKeychain", "StaticKeychain")

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.registry.auth_files import canonical, keys_for, read_auth_file, usual_places
from aioruntime.registry.clock import SYSTEM_CLOCK
from aioruntime.registry.credentials import ANONYMOUS
from aioruntime.registry.helpers import Helpers
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioruntime.registry.auth_files import Place
    from aioruntime.registry.clock import Clock
    from aioruntime.registry.credentials import Credentials, Keychain

_log = logging.getLogger("aioruntime")


class StaticKeychain:
    """Credentials that the caller gives.

    Args:
        entries: by registry, such as ``ghcr.io`` or ``127.0.0.1:5000``, or by repository or what it begins
            with, such as ``ghcr.io/org``; the most specific one counts. ``docker.io`` is Docker Hub.
        otherwise: asked where there is no entry; nobody if not given.
    """

    def __init__(self, entries: Mapping[str, Credentials], otherwise: Keychain = ANONYMOUS) -> None:
        self._entries = {canonical(key): value for key, value in entries.items()}
        self._otherwise = otherwise

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        """Return the credentials for *repository* at *host*; None if there are none.

        Args:
            host: host and port of the registry, such as ``registry-1.docker.io``.
            repository: the repository as it stands in request paths, such as ``library/ubuntu``.

        Raises:
            CredentialsError: as the keychain that is asked otherwise.
        """
        for key in keys_for(host, repository):
            if key in self._entries:
                return self._entries[key]
        return await self._otherwise.credentials(host, repository)


class DefaultKeychain:
    """The credentials that ``docker login``, ``podman login`` and their like have left on this machine.

    The first of these places that has an entry for the repository or its registry counts:
    ``$DOCKER_AUTH_CONFIG``, which holds the document itself; the files ``$REGISTRY_AUTH_FILE``,
    ``$XDG_RUNTIME_DIR/containers/auth.json`` (without the variable, ``/run/containers/UID/auth.json``),
    ``$XDG_CONFIG_HOME/containers/auth.json`` (without it, under ``~/.config``),
    ``$DOCKER_CONFIG/config.json`` and ``~/.docker/config.json``. Within one, a credential helper that it
    names for the registry comes first, then the most specific key of ``auths``. Files are read each time;
    what a helper says is kept for a minute.

    Args:
        environ: environment variables to look at; None for this process's own.
        helper_timeout: seconds that a credential helper may take before it is ended.
        clock: tells the time.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        helper_timeout: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._helpers = Helpers(self._environ, helper_timeout, clock)
        self._warned: set[str] = set()

    async def credentials(self, host: str, repository: str) -> Credentials | None:
        """Return the credentials for *repository* at *host*; None if there are none.

        Args:
            host: host and port of the registry, such as ``registry-1.docker.io``.
            repository: the repository as it stands in request paths, such as ``library/ubuntu``.

        Raises:
            CredentialsError: a file is broken, or a helper can't be run or failed.
        """
        for place in await in_thread(self._places):
            file = await in_thread(read_auth_file, place)
            if file is None:
                continue
            if file.exposed and file.name not in self._warned:
                self._warned.add(file.name)
                _log.warning("%s: other users can read the credentials in it; chmod 600 it", file.name)
            helper = file.helper_for(host)
            found = await self._helpers.ask(helper) if helper else None
            found = found or file.credentials(host, repository)
            if found is not None:
                return found
        return None

    def _places(self) -> list[Place]:
        try:
            # The user's entry, where the variable is missing, may come from a server.
            home = Path(self._environ.get("HOME") or Path.home())
        except RuntimeError:
            home = None
        return usual_places(self._environ, home)
