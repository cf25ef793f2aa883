"""Read the files in which tools keep credentials for registries (L2): which there are, and who is in them.

Follows containers-auth.json(5), and ``config.json`` of the Docker CLI.
"""

from __future__ import annotations

__all__ = ("AuthFile", "HelperCall", "Place", "canonical", "keys_for", "read_auth_file", "usual_places")

import binascii
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from aioruntime.errors import CredentialsError, one_line
from aioruntime.registry.credentials import Credentials, Secret

_FILE_LIMIT = 1024 * 1024
_OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_BEARER = re.compile(r"[\x21-\x7e]{1,65536}", re.ASCII)
_HUB = "docker.io"
_HUB_NAMES = frozenset({_HUB, "index.docker.io", "registry-1.docker.io"})
# What `docker login` writes for Docker Hub, and under which helpers keep its credentials.
_HUB_KEY = "https://index.docker.io/v1/"
_MEND = "mend or remove it"


@dataclass(frozen=True, slots=True)
class Place:
    """Where credentials may be.

    Args:
        name: what to call it in messages.
        content: a file, or the text itself.
    """

    name: str
    content: Path | Secret


@dataclass(frozen=True, slots=True)
class HelperCall:
    """What to ask a credential helper.

    Args:
        name: the helper's, without ``docker-credential-``.
        server: what the helper knows the registry by.
        place: file and place that name the helper, for messages.
    """

    name: str
    server: str
    place: str


class _Document(msgspec.Struct, rename="camel"):
    # Raw: an entry that is broken is nobody's business but that of the registry it is for.
    auths: dict[str, msgspec.Raw] | None = None
    cred_helpers: dict[str, str] | None = None
    creds_store: str | None = None


class _Entry(msgspec.Struct):
    auth: str | None = None
    username: str | None = None
    password: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


@dataclass(frozen=True, slots=True)
class AuthFile:
    """What one file says.

    Args:
        name: what to call it in messages.
        entries: ``auths`` by their keys, not yet decoded.
        helpers: ``credHelpers``: names of helpers by registry.
        store: ``credsStore``: the helper for all other registries; None if there is none.
        exposed: whether it holds secrets that other users of this machine can read.
    """

    name: str
    entries: Mapping[str, Secret]
    helpers: Mapping[str, str]
    store: str | None
    exposed: bool = False
    _keys: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key in self.entries:
            self._keys.setdefault(canonical(key), []).append(key)

    def helper_for(self, host: str) -> HelperCall | None:
        """Return what has to be asked for *host*; None if no helper is named for it."""
        wanted = canonical(host)
        for key, name in self.helpers.items():
            if name and canonical(key) == wanted:
                return HelperCall(name, key, f'{self.name}: $.credHelpers["{one_line(key, 80)}"]')
        if self.store:
            server = _HUB_KEY if wanted == _HUB else host
            return HelperCall(self.store, server, f"{self.name}: $.credsStore")
        return None

    def credentials(self, host: str, repository: str) -> Credentials | None:
        """Return what the most specific entry for the repository has; None if there is none.

        Raises:
            CredentialsError: that entry is broken; the message names it.
        """
        for wanted in keys_for(host, repository):
            # Written just so is nearer than written in one of the old ways.
            for key in sorted(self._keys.get(wanted, ()), key=lambda key: key != wanted):
                found = _decode_entry(self.entries[key])
                if isinstance(found, str):
                    place = f'{self.name}: $.auths["{one_line(key, 80)}"]{found}'
                    raise CredentialsError(f"{place}; {_MEND}, or log in again")
                if found is not None:
                    return found
        return None


def usual_places(environ: Mapping[str, str], home: Path | None) -> list[Place]:
    """List where credentials may be, the first to be asked first.

    Args:
        environ: environment variables.
        home: the user's home directory; None if there is none.
    """
    # Where Podman has it without a session, as for root.
    runtime = environ.get("XDG_RUNTIME_DIR")
    sessionless = Path(f"/run/containers/{os.getuid()}/auth.json")
    config = environ.get("XDG_CONFIG_HOME") or (home and home / ".config")
    docker = environ.get("DOCKER_CONFIG")
    files = [
        environ.get("REGISTRY_AUTH_FILE"),
        Path(runtime, "containers/auth.json") if runtime else sessionless,
        config and Path(config, "containers/auth.json"),
        docker and Path(docker, "config.json"),
        home and home / ".docker/config.json",
    ]
    text = environ.get("DOCKER_AUTH_CONFIG")
    given = [Place("$DOCKER_AUTH_CONFIG", Secret(text))] if text else []
    return given + [Place(str(path), Path(path)) for path in dict.fromkeys(map(str, filter(None, files)))]


def read_auth_file(place: Place) -> AuthFile | None:
    """Read what is at *place*; None if there is no such file.

    Raises:
        CredentialsError: it can't be read or is no such document; the message names file and place.
    """
    text, exposed = (place.content, False) if isinstance(place.content, Secret) else _read(place.content)
    if text is None:
        return None
    # Not raised where the text is at hand: captured locals would show it.
    found = _decode_file(text, place.name, exposed)
    if isinstance(found, str):
        raise CredentialsError(f"{place.name}: {found}; {_MEND}")
    return found


def canonical(key: str) -> str:
    """Return the one form of a key: ``host``, ``host:port`` or ``host:port/path``.

    A key with a scheme is for all of its host, whatever its path. Docker Hub's names count as one.
    """
    scheme = _SCHEME.match(key)
    bare = key[scheme.end() :] if scheme else key
    host, _, path = bare.partition("/")
    host = host.lower().removesuffix(":443")
    host = _HUB if host in _HUB_NAMES else host
    path = path.rstrip("/")
    if bare != key or (host == _HUB and path in ("v1", "v2")):
        path = ""
    return f"{host}/{path}" if path else host


def keys_for(host: str, repository: str) -> list[str]:
    """List the keys that are for a repository, in their one form, the most specific first."""
    key = f"{canonical(host)}/{repository}"
    keys = [key]
    while "/" in key:
        key = key.rpartition("/")[0]
        keys.append(key)
    return keys


def _read(path: Path) -> tuple[Secret | None, bool]:
    try:
        # Not to wait for whoever might write into a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise CredentialsError(f"{path}: is not a file; {_MEND}")
            if found.st_size > _FILE_LIMIT:
                raise CredentialsError(f"{path}: has {found.st_size} bytes, which is too long; {_MEND}")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                text = Secret(str(file.read(_FILE_LIMIT), "utf-8", "surrogateescape"))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None, False
    except OSError as exc:
        raise CredentialsError(f"{path}: can't be read: {exc.strerror}; {_MEND}") from exc
    return text, bool(found.st_mode & _OTHERS_MAY_READ)


def _decode_file(text: Secret, name: str, exposed: bool) -> AuthFile | str:
    """Return the document, or what is wrong with it."""
    try:
        document = msgspec.json.decode(text.reveal(), type=_Document)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        return _reason(exc)
    entries = {key: Secret(str(bytes(raw), "utf-8")) for key, raw in (document.auths or {}).items()}
    exposed = exposed and any(_decode_entry(entry) is not None for entry in entries.values())
    return AuthFile(name, entries, document.cred_helpers or {}, document.creds_store, exposed)


def _decode_entry(text: Secret) -> Credentials | str | None:
    """Return what an entry has, None if nothing, or the place within it and what is wrong there."""
    if text.reveal() == "{}":  # what a helper keeps is listed so
        return None
    try:
        entry = msgspec.json.decode(text.reveal(), type=_Entry | None)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        words, _, place = _reason(exc).partition(" - at `$")
        return f"{place.rstrip('`')}: {words}"
    if entry is None:
        return None
    username, password = entry.username or "", entry.password or ""
    if entry.auth:
        try:
            pair = str(binascii.a2b_base64("".join(entry.auth.split()), strict_mode=True), "utf-8")
        except ValueError:
            return ".auth: is not base64 of USER:PASSWORD"
        username, colon, password = pair.partition(":")
        if not colon:
            return ".auth: is not base64 of USER:PASSWORD"
        password = password.rstrip("\0")
    if entry.registrytoken and _BEARER.fullmatch(entry.registrytoken) is None:
        return ".registrytoken: has characters that can't be sent"
    if not (username or password or entry.identitytoken or entry.registrytoken):
        return None
    return Credentials(
        username,
        Secret(password),
        Secret(entry.identitytoken) if entry.identitytoken else None,
        Secret(entry.registrytoken) if entry.registrytoken else None,
    )


def _reason(exc: Exception) -> str:
    if isinstance(exc, UnicodeError):
        return "is not UTF-8"
    # msgspec names the place, never the value.
    return "is nested too deep" if isinstance(exc, RecursionError) else one_line(str(exc))
