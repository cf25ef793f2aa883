from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aioruntime.demo.errors import DemoError
from aioruntime.demo.packages import (
    USERLAND,
    Package,
    download,
    install_order,
    parse_simulation,
    parse_stanzas,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIMULATION = """\
Reading package lists...
Inst libc6 (2.36-9+deb12u4 Debian:12.4/stable [amd64]) [libgcc-s1:amd64 ]
Inst zlib1g:amd64 (1:1.2.13.dfsg-1 Debian:12.4/stable [amd64])
Conf libc6 (2.36-9+deb12u4 Debian:12.4/stable [amd64])
"""

STANZAS = """\
Package: zlib1g
Version: 1:1.2.13.dfsg-1
Architecture: amd64
Provides: libz1 (= 1:1.2.13)
Pre-Depends: dpkg
Depends: libc6 (>= 2.14), awk | mawk:any (>= 1)
Description: compression
 more: not a field
Size: 86700

Package: zlib1g
Version: 1:1.2.12
Architecture: amd64
Size: 1
"""


def make(name: str, *depends: str, provides: Sequence[str] = ()) -> Package:
    clauses = tuple(tuple(clause.split("|")) for clause in depends)
    return Package(name, "1", "all", 1, clauses, tuple(provides))


def order(roots: Sequence[str], *packages: Package) -> list[str]:
    return [package.name for package in install_order({p.name: p for p in packages}, roots)]


def test_simulation_gives_exact_versions() -> None:
    """Only what would be installed counts, with its full version and without an architecture in the name."""
    assert parse_simulation(SIMULATION) == ("libc6=2.36-9+deb12u4", "zlib1g=1:1.2.13.dfsg-1")


def test_stanzas_give_relationships() -> None:
    """A paragraph becomes a package with its alternatives, and the first paragraph of a name wins."""
    expected = Package(
        name="zlib1g",
        version="1:1.2.13.dfsg-1",
        architecture="amd64",
        size=86700,
        depends=(("dpkg",), ("libc6",), ("awk", "mawk")),
        provides=("libz1",),
    )

    assert parse_stanzas(STANZAS) == {"zlib1g": expected}


def test_file_name_encodes_the_epoch() -> None:
    """A colon in the version is written as apt writes it in file names."""
    assert Package("a", "1:2-3", "amd64", 1).file_name == "a_1%3a2-3_amd64.deb"


def test_dependencies_come_before_their_dependents() -> None:
    """Every package follows what it needs, the tool is the last."""
    assert order(["tool"], make("tool", "b", "a"), make("a", "c"), make("b"), make("c")) == [
        "c",
        "a",
        "b",
        "tool",
    ]


def test_tools_over_one_library_share_a_prefix() -> None:
    """What only one tool needs comes after the closure of the big library that both need."""
    library = (make("zlib", "c"), make("c"), make("big", "zlib", "c"))

    first = order(["tool1"], make("tool1", "a-small", "big"), make("a-small", "c"), *library)
    second = order(["tool2"], make("tool2", "big"), *library)

    assert first == ["c", "zlib", "big", "a-small", "tool1"]
    assert second == ["c", "zlib", "big", "tool2"]


def test_cycles_end() -> None:
    """Packages that need each other are each there once."""
    assert order(["a"], make("a", "b"), make("b", "a")) == ["b", "a"]


def test_alternatives_and_virtual_packages() -> None:
    """A clause is met by the first alternative that is in the closure, also by one that provides it."""
    mawk = make("mawk", provides=["awk"])

    assert order(["tool"], make("tool", "gawk|awk", "nowhere"), mawk) == ["mawk", "tool"]


@pytest.mark.parametrize("name", ["", "-o", "../x", "Samtools", "a b", "a=1"])
async def test_bad_names_are_refused(name: str, tmp_path: Path) -> None:
    """What is no package name never reaches apt's command line."""
    with pytest.raises(DemoError, match="not a Debian package name"):
        await resolve(name, tmp_path)


async def test_unknown_package(cache: Path) -> None:
    """An unknown package is an error that names it."""
    with pytest.raises(DemoError, match="no-such-package-there"):
        await resolve("no-such-package-there", cache)


async def test_empty_lists_say_what_to_run(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where apt-get update was never run, the error says to run it."""
    config = tmp_path / "apt.conf"
    config.write_text(f'Dir::State::lists "{tmp_path}/lists";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))

    with pytest.raises(DemoError, match="apt-get update"):
        await resolve("samtools", cache)


async def test_missing_apt_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where apt is not installed, the error says so instead of failing obscurely."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    with pytest.raises(DemoError, match=r"apt-config is not installed.* apt$"):
        await resolve("samtools", tmp_path)


async def test_sibling_tools_share_all_but_their_own(cache: Path) -> None:
    """samtools and bcftools begin with the same packages; each adds at most three of its own."""
    samtools = await resolve("samtools", cache)
    bcftools = await resolve("bcftools", cache)

    shared = set(samtools) & set(bcftools)
    assert samtools[: len(shared)] == bcftools[: len(shared)]
    assert (samtools[-1].name, bcftools[-1].name) == ("samtools", "bcftools")
    assert len(shared) >= 50
    assert len(samtools) - len(shared) <= 3
    assert len(bcftools) - len(shared) == 1


async def test_closure_is_from_nothing(cache: Path) -> None:
    """The closure holds the C library, whatever this machine has installed; without a userland it is bare."""
    full = await resolve("bwa", cache)
    bare = await resolve("bwa", cache, userland=())

    assert {"libc6", *USERLAND} <= {package.name for package in full}
    assert "libc6" in {package.name for package in bare}
    assert not set(USERLAND) & {package.name for package in bare}
    assert len(full) == len(set(full)) >= 20


async def test_resolving_twice_gives_the_same(cache: Path) -> None:
    """The order is the same each time."""
    assert await resolve("samtools", cache) == await resolve("samtools", cache)


async def test_download_keeps_and_repairs(cache: Path) -> None:
    """Files are downloaded once; one that is cut short is downloaded again."""
    package = (await resolve("hostname", cache, userland=()))[-1]
    (path,) = await download([package], cache)
    before = path.stat()

    assert await download([package], cache) == (path,)
    assert path.stat().st_mtime_ns == before.st_mtime_ns

    path.write_bytes(b"short")
    await download([package], cache)
    assert path.stat().st_size == package.size
    assert not list(path.parent.glob(".incoming-*"))
