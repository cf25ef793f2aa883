"""Read containers' ``registries.conf``: where registries really are, and their mirrors (L2, blocking).

Follows ``containers-registries.conf(5)``, version 2. Short names and search registries are not ours.
"""

from __future__ import annotations

__all__ = ("Location", "RegistryRule", "Use", "decode_registries", "explicit_rules", "read_registries")

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from aioruntime.errors import InvalidConfiguration, InvalidReference, InvalidSpec, one_line
from aioruntime.oci.reference import OciRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Use: TypeAlias = Literal["all", "digest-only", "tag-only"]

_VARIABLE = "CONTAINERS_REGISTRIES_CONF"
_NAME = "containers/registries.conf"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a registry or a mirror is.

    Args:
        name: host and optional port, with the repository or the part of it that takes the prefix's place.
        insecure: whether it may be spoken to without TLS.
        use: which pulls a mirror is for.
    """

    name: str
    insecure: bool = False
    use: Use = "all"


@dataclass(frozen=True, slots=True)
class RegistryRule:
    """What holds for the images under a prefix.

    Args:
        prefix: the start of their names in full, up to a ``/``, or ``*.`` and a domain.
        source: who says so, for messages.
        location: where they are; None for where their names say.
        insecure: whether the registry may be spoken to without TLS.
        blocked: whether they may not be pulled.
        mirrors: who is asked first, in this order.
    """

    prefix: str
    source: str
    location: Location | None = None
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Location, ...] = ()


class _Mirror(msgspec.Struct, rename="kebab"):
    location: str
    insecure: bool = False
    pull_from_mirror: Literal["", "all", "digest-only", "tag-only"] = ""


class _Registry(msgspec.Struct, rename="kebab"):
    prefix: str = ""
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirror_by_digest_only: bool = False
    mirror: tuple[_Mirror, ...] = ()


class _File(msgspec.Struct):
    registry: tuple[_Registry, ...] = ()


def explicit_rules(mirrors: Mapping[str, Sequence[str]]) -> tuple[RegistryRule, ...]:
    """Make the rules that a caller gives in code: mirrors, in order, by prefix.

    Raises:
        InvalidSpec: a prefix or a mirror is no name that can be one.
    """
    for prefix, names in mirrors.items():
        if isinstance(names, str):
            raise InvalidSpec(f"mirrors={{{prefix!r}: …}}: give a list of mirrors, such as [{names!r}]")
    try:
        return tuple(
            RegistryRule(
                _prefix(prefix), "mirrors=", mirrors=tuple(Location(_mirror(name)) for name in names)
            )
            for prefix, names in mirrors.items()
        )
    except ValueError as exc:
        raise InvalidSpec(f"mirrors={{…}}: {exc}") from None


def decode_registries(raw: bytes, source: str) -> tuple[RegistryRule, ...]:
    """Decode the bytes of a ``registries.conf``; keys that we don't know are passed over.

    Args:
        raw: the file's content.
        source: the file's name.

    Raises:
        InvalidConfiguration: it is no TOML, of version 1, or says what can't be; the message tells where.
    """
    try:
        fields = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as exc:
        raise InvalidConfiguration(f"{source}: not valid TOML: {one_line(str(exc))}") from None
    if "registries" in fields:
        raise InvalidConfiguration(
            f"{source}: [registries.*] tables are of version 1 of the format, which is not supported; "
            "write [[registry]] tables (containers-registries.conf(5))"
        )
    try:
        file = msgspec.convert(fields, _File)
    except msgspec.ValidationError as exc:
        raise InvalidConfiguration(f"{source}: {one_line(str(exc))}") from None
    rules: dict[str, RegistryRule] = {}
    for position, registry in enumerate(file.registry):
        try:
            rule = _rule(registry, source)
        except ValueError as exc:
            raise InvalidConfiguration(f"{source}: registry[{position}]: {exc}") from None
        rules.setdefault(rule.prefix, rule)
    return tuple(rules.values())


def _rule(registry: _Registry, source: str) -> RegistryRule:
    if not registry.prefix and not registry.location:
        raise ValueError("it has neither prefix nor location")
    prefix = _prefix(registry.prefix or registry.location)
    location = _location(registry.location) if registry.location else None
    if location is None and not prefix.startswith("*."):
        raise ValueError(f"prefix {prefix} has no location")
    if location is not None and location != prefix and _is_exact(location):
        raise ValueError(f"location {location} has a tag or a digest; only that of its prefix is supported")
    mirrors = []
    for mirror in registry.mirror:
        if registry.mirror_by_digest_only and mirror.pull_from_mirror:
            raise ValueError("mirror-by-digest-only and pull-from-mirror can't be together")
        use: Use = "digest-only" if registry.mirror_by_digest_only else mirror.pull_from_mirror or "all"
        mirrors.append(Location(_mirror(mirror.location), mirror.insecure, use))
    return RegistryRule(
        prefix,
        source,
        Location(location, registry.insecure) if location and location != prefix else None,
        registry.insecure,
        registry.blocked,
        tuple(mirrors),
    )


def _prefix(text: str) -> str:
    if not text.startswith("*."):
        return _location(text)
    if "/" in text or ":" in text or "@" in text:
        raise ValueError(f"prefix {one_line(repr(text))} has a wildcard, and more than a domain after it")
    return "*." + _location(text[2:])


def _location(text: str) -> str:
    """Check a host, with a port or without, and a path or a part of one, and return it.

    Raises:
        ValueError: it is something else.
    """
    name = text.rstrip("/")
    if "://" in name:
        raise ValueError(f"{one_line(repr(text))} is a URL; leave the scheme out")
    host, slash, path = name.partition("/")
    try:
        if slash:
            # Given no registry, a reference's first part would be taken for one of Docker Hub's names.
            OciRef.parse(f"localhost/{path}")
        OciRef(host, "x")
    except InvalidReference:
        raise ValueError(f"{one_line(repr(text))} is no registry's host, with or without a path") from None
    return host.lower() + slash + path


def _mirror(text: str) -> str:
    name = _location(text)
    if _is_exact(name):
        raise ValueError(f"mirror {one_line(repr(text))} has a tag or a digest")
    return name


def _is_exact(name: str) -> bool:
    _, _, path = name.partition("/")
    return ":" in path or "@" in path


def read_registries(environ: Mapping[str, str], system: Path = Path("/etc")) -> tuple[RegistryRule, ...]:
    """Read the files that say so on this machine (blocking).

    ``$CONTAINERS_REGISTRIES_CONF`` names the only one. Else it is the user's (``~/.config/containers``),
    or the system's if there is none, and then the ``registries.conf.d/*.conf`` of the system and of the user:
    what a later file says of a prefix replaces what an earlier one said.

    Args:
        environ: the environment.
        system: where the system's files are.

    Raises:
        InvalidConfiguration: a file is broken or can't be read; the message names it, and the place.
    """
    named = environ.get(_VARIABLE)
    if named:
        return decode_registries(_read(Path(named)), f"{named} (${_VARIABLE})")
    user = Path(environ.get("HOME") or Path.home()) / ".config" / _NAME
    of_system = system / _NAME
    main = user if user.exists() else of_system
    rules: dict[str, RegistryRule] = {}
    for path in (*((main,) if main.exists() else ()), *_drop_ins(of_system), *_drop_ins(user)):
        rules.update((rule.prefix, rule) for rule in decode_registries(_read(path), str(path)))
    return tuple(rules.values())


def _drop_ins(beside: Path) -> list[Path]:
    return sorted(beside.with_name(beside.name + ".d").glob("*.conf"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidConfiguration(f"{path}: can't be read: {exc.strerror}") from exc
