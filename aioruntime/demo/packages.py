"""Resolve a Debian package's dependencies from nothing, order them for sharing, and download them.

apt decides, against an empty list of installed packages, so that what this machine has installed plays
no part. Its package lists are read where they are; everything that it writes goes below the cache
directory given.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioruntime.demo.errors import DemoError
from aioruntime.demo.programs import run_program
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ("USERLAND", "Package", "download", "install_order", "parse_simulation", "parse_stanzas", "resolve")

USERLAND = ("bash", "coreutils", "dash", "perl-base", "sed")
"""The packages that give an image a shell and the everyday commands, beside the tool itself."""

_PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_INST_LINE = re.compile(r"^Inst (?P<name>[^ :]+)(?::\S+)? \((?P<version>\S+) ", re.M)


@dataclass(frozen=True, slots=True)
class Package:
    """One Debian package at one version.

    Attributes:
        name: Its name.
        version: Its full version, with the epoch if it has one.
        architecture: Debian's name for it, or "all".
        size: The size of the .deb file in bytes.
        depends: What it needs; each item lists alternatives, the first preferred.
        provides: The virtual packages that it stands for.
    """

    name: str
    version: str
    architecture: str
    size: int
    depends: tuple[tuple[str, ...], ...] = ()
    provides: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The name apt gives to the .deb file."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def parse_simulation(text: str) -> tuple[str, ...]:
    """Read which packages `apt-get --simulate install` would install.

    Args:
        text: Its standard output.

    Returns:
        Each package as "name=version", in apt's order.
    """
    return tuple(f"{found['name']}={found['version']}" for found in _INST_LINE.finditer(text))


def parse_stanzas(text: str) -> dict[str, Package]:
    """Read the packages that `apt-cache show` describes.

    Args:
        text: Its standard output: paragraphs of "Field: value" lines.

    Returns:
        The packages by name; of several paragraphs about one package the first counts.
    """
    packages: dict[str, Package] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", paragraph, re.M))
        if "Package" not in fields or fields["Package"] in packages:
            continue
        depends = (*_clauses(fields.get("Pre-Depends", "")), *_clauses(fields.get("Depends", "")))
        packages[fields["Package"]] = Package(
            name=fields["Package"],
            version=fields["Version"],
            architecture=fields["Architecture"],
            size=int(fields["Size"]),
            depends=depends,
            provides=tuple(name for clause in _clauses(fields.get("Provides", "")) for name in clause),
        )
    return packages


def _clauses(field: str) -> list[tuple[str, ...]]:
    """Split a relationship field ("a (>= 1) | b:any, c") into the names of each clause's alternatives."""
    clauses = (tuple(re.findall(r"(?:^|\|)\s*([^\s:(|]+)", clause)) for clause in field.split(","))
    return [clause for clause in clauses if clause]


def install_order(packages: Mapping[str, Package], roots: Sequence[str]) -> tuple[Package, ...]:
    """Order packages so that dependencies come first and images that share packages share them as a prefix.

    A package's dependencies are visited by falling size of their own closure: two tools over one big
    library then both begin with that library's closure, and only what is theirs alone follows.

    Args:
        packages: The closure, by name.
        roots: The packages asked for, what images have in common first.

    Returns:
        Every package that a root reaches, once.
    """
    edges = _edges(packages)
    weight = {name: len(_reachable(edges, name)) for name in edges}
    ordered: dict[str, Package] = {}
    entered: set[str] = set()

    def visit(name: str) -> None:
        if name in entered:  # also cuts the cycles that Debian has
            return
        entered.add(name)
        for dependency in sorted(edges[name], key=lambda other: (-weight[other], other)):
            visit(dependency)
        ordered[name] = packages[name]

    for root in roots:
        visit(root)
    return tuple(ordered.values())


def _edges(packages: Mapping[str, Package]) -> dict[str, tuple[str, ...]]:
    """Say which packages of the closure each one needs: per clause, the first alternative that is there."""
    providers = {name: name for name in packages}
    for package in packages.values():
        for virtual in package.provides:
            providers.setdefault(virtual, package.name)
    return {
        package.name: tuple(
            next((providers[name] for name in clause if name in providers), package.name)
            for clause in package.depends
        )
        for package in packages.values()
    }


def _reachable(edges: Mapping[str, Iterable[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(edges[name])
    return seen


async def resolve(package: str, cache: Path, *, userland: Sequence[str] = USERLAND) -> tuple[Package, ...]:
    """Find every package that an image of one Debian package needs, in the order of its layers.

    Args:
        package: The Debian package's name.
        cache: A directory for what apt itself caches.
        userland: Further packages to put in, before those of the tool; () for the bare closure.

    Returns:
        The packages, dependencies first and *package* last.

    Raises:
        DemoError: apt is not there, has no package lists yet, or does not know the package.
    """
    for name in (package, *userland):
        if not _PACKAGE_NAME.fullmatch(name):
            raise DemoError(f"not a Debian package name: {name!r}")
    options = await in_thread(_private_apt, cache)
    await _require_lists(options)
    simulated = await run_program(
        ["apt-get", *options, "--simulate", "install", *userland, package], debian_package="apt"
    )
    pinned = parse_simulation(simulated)
    stanzas = parse_stanzas(await run_program(["apt-cache", *options, "show", *pinned], debian_package="apt"))
    if package not in stanzas:
        raise DemoError(f"apt has no package of the name {package!r}, only others that provide it")
    roots = (*(name for name in userland if name in stanzas), package)
    return install_order(stanzas, roots)


async def download(packages: Sequence[Package], cache: Path) -> tuple[Path, ...]:
    """Have each package's .deb file in the cache, fetching with apt (which verifies it) what is not there
    yet.

    Args:
        packages: What to download.
        cache: The directory that keeps the files, below "debs".

    Returns:
        The files, in the order of *packages*.

    Raises:
        DemoError: apt could not download a package.
    """
    options = await in_thread(_private_apt, cache)
    debs = cache / "debs"
    missing = await in_thread(_missing, packages, debs)
    if missing:
        pinned = [f"{package.name}={package.version}" for package in missing]
        # A directory of its own per call: a file appears under its name only when it is complete.
        with tempfile.TemporaryDirectory(dir=debs, prefix=".incoming-") as incoming:
            await run_program(
                ["apt-get", *options, "-qq", "download", *pinned], debian_package="apt", cwd=Path(incoming)
            )
            await in_thread(_keep, missing, Path(incoming), debs)
    return tuple(debs / package.file_name for package in packages)


def _missing(packages: Sequence[Package], debs: Path) -> list[Package]:
    debs.mkdir(parents=True, exist_ok=True)
    wanted = {package.file_name: package for package in packages}
    present = {path.name: path.stat().st_size for path in debs.glob("*.deb")}
    return [package for name, package in wanted.items() if present.get(name) != package.size]


def _keep(packages: Iterable[Package], incoming: Path, debs: Path) -> None:
    for package in packages:
        source = incoming / package.file_name
        if not source.is_file() or source.stat().st_size != package.size:
            raise DemoError(f"apt did not download {package.file_name} at the size its lists say")
        source.replace(debs / package.file_name)


def _private_apt(cache: Path) -> list[str]:
    """Give apt an empty list of installed packages, and a place below *cache* for all that it writes."""
    home = cache.absolute() / "apt"
    (home / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    status = home / "status"
    status.touch()
    settings = {
        "Dir::State::status": status,
        "Dir::State::extended_states": home / "extended_states",
        "Dir::Cache": home,
        # One process's half-written package cache must not be read by another.
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Debug::NoLocking": "1",
        "APT::Install-Recommends": "false",
        "APT::Install-Suggests": "false",
        "APT::Sandbox::User": "root",
        "APT::Get::Show-User-Simulation-Note": "false",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


async def _require_lists(options: Sequence[str]) -> None:
    shell = await run_program(
        ["apt-config", *options, "shell", "LISTS", "Dir::State::lists/d"], debian_package="apt"
    )
    directory = shell.partition("=")[2].strip().strip("'")
    names = await in_thread(_names, directory)
    if not any("_Packages" in name for name in names):
        raise DemoError("apt has no package lists yet; run once, as root: apt-get update")


def _names(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []
