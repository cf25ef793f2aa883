from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioruntime.demo.errors import DemoError
from aioruntime.demo.layers import MTIME, base_layer, deb_layer, files_layer, package_layers
from aioruntime.demo.paths import MOVED, Rewriter, merged_link, merged_path

if TYPE_CHECKING:
    from aioruntime.demo.blobs import Compression, Layer

COMPRESSIONS: tuple[Compression, ...] = ("gzip", "zstd", "none")


def inner(layer: Layer) -> bytes:
    """Inflate with the programs of others."""
    content = layer.content if isinstance(layer.content, bytes) else layer.content.read_bytes()
    if layer.compression == "none":
        return content
    return subprocess.run(
        [layer.compression, "-dc"], input=content, stdout=subprocess.PIPE, check=True
    ).stdout


def entries(layer: Layer) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(inner(layer))) as tar:
        return tar.getmembers()


@pytest.fixture
def deb(debian: None, tmp_path: Path) -> Path:
    """A package with the old layout: /bin, /lib, links between them, and both /lib and /usr/lib."""
    tree = tmp_path / "tree"
    for directory in ("DEBIAN", "bin", "lib/sub", "usr/bin", "usr/lib", "etc"):
        (tree / directory).mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: old\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b>\nDescription: x\n"
    )
    (tree / "bin/tool").write_text("#!/bin/sh\n")
    (tree / "bin/tool").chmod(0o4755)
    (tree / "bin/twin").hardlink_to(tree / "bin/tool")
    (tree / "usr/bin/tool").symlink_to("/bin/tool")
    (tree / "lib/sub/up").symlink_to("../../etc/conf")
    (tree / "lib/sub/near").symlink_to("../near")
    (tree / ("etc/" + "long" * 40)).write_text("y")
    path = tmp_path / "old_1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, path], check=True, capture_output=True)
    return path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("./", ""),
        ("./bin/ls", "usr/bin/ls"),
        ("./lib64/ld.so", "usr/lib64/ld.so"),
        ("lib", "usr/lib"),
        ("./usr/bin/ls", "usr/bin/ls"),
        ("./library/x", "library/x"),
        ("./etc/bin/x", "etc/bin/x"),
    ],
)
def test_paths_move_below_usr(path: str, expected: str) -> None:
    """Only the leading component decides whether a path moves."""
    assert merged_path(path) == expected


def test_paths_stay_inside() -> None:
    """A path that leads out of the package is refused."""
    with pytest.raises(ValueError, match="leads out"):
        merged_path("./usr/../../etc/passwd")


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("./lib/a/x", "../../etc/y", "/etc/y"),
        ("./lib/a/x", "../b/y", "../b/y"),
        ("./bin/x", "y", "y"),
        ("./bin/x", "/etc/y", "/etc/y"),
        ("./usr/bin/x", "../../etc/y", "../../etc/y"),
        ("./lib/x", "..", "/"),
    ],
)
def test_links_still_meet_their_target(path: str, target: str, expected: str) -> None:
    """A relative symlink that would miss after its move becomes absolute; others stay as they are."""
    assert merged_link(path, target) == expected


def test_rewriter_drops_what_the_merge_makes_double() -> None:
    """A path is there once, and no symlink points to itself."""
    rewriter = Rewriter(mtime=1)

    def rewrite(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> str | None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, link
        result = rewriter.rewrite(entry)
        return None if result is None else result.name

    assert rewrite("./lib", tarfile.DIRTYPE) == "usr/lib"
    assert rewrite("./usr/lib", tarfile.DIRTYPE) is None
    assert rewrite("./bin/x", tarfile.SYMTYPE, "/usr/bin/x") is None
    assert rewrite("./usr/bin/x") == "usr/bin/x"
    assert rewrite("./usr/bin/y", tarfile.SYMTYPE, "../../bin/y") is None


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_hashes_and_size_are_those_of_the_bytes(deb: Path, tmp_path: Path, compression: Compression) -> None:
    """Digest and size are of the compressed bytes, the diff ID is of what others inflate from them."""
    layer = deb_layer(deb, tmp_path, compression)
    assert isinstance(layer.content, Path)
    content = layer.content.read_bytes()

    assert layer.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert layer.size == len(content)
    assert layer.diff_id == f"sha256:{hashlib.sha256(inner(layer)).hexdigest()}"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_layers_are_reproducible(deb: Path, tmp_path: Path, compression: Compression) -> None:
    """The same package gives the same digest in another cache; the tar does not depend on the compression."""
    one, two = (deb_layer(deb, tmp_path / name, compression) for name in ("one", "two"))

    assert (one.digest, one.diff_id) == (two.digest, two.diff_id)
    assert one.diff_id == deb_layer(deb, tmp_path, "none").diff_id


def test_old_package_is_merged(deb: Path, tmp_path: Path) -> None:
    """Nothing is left at a moved place, links follow, modes stay, times and names of owners are fixed."""
    found = {entry.name: entry for entry in entries(deb_layer(deb, tmp_path, "gzip"))}

    assert not {name.partition("/")[0] for name in found} & MOVED
    assert len(found) == len(entries(deb_layer(deb, tmp_path, "none")))
    assert {entry.mtime for entry in found.values()} == {MTIME}
    assert {entry.uname + entry.gname for entry in found.values()} == {""}
    assert found["usr/bin/tool"].isreg()
    assert found["usr/bin/tool"].mode == 0o4755
    assert found["usr/bin/twin"].linkname == "usr/bin/tool"
    assert found["usr/lib/sub/up"].linkname == "/etc/conf"
    assert found["usr/lib/sub/near"].linkname == "../near"
    assert found["etc/" + "long" * 40].size == 1


def test_cache_is_used_and_mended(deb: Path, tmp_path: Path) -> None:
    """A layer that was made is not made again, unless its file was cut short."""
    layer = deb_layer(deb, tmp_path, "gzip")
    assert isinstance(layer.content, Path)
    deb.rename(deb.with_suffix(".away"))

    assert deb_layer(deb, tmp_path, "gzip") == layer

    layer.content.write_bytes(b"")
    with pytest.raises(DemoError):
        deb_layer(deb, tmp_path, "gzip")
    deb.with_suffix(".away").rename(deb)
    assert deb_layer(deb, tmp_path, "gzip") == layer
    assert layer.content.stat().st_size == layer.size


@pytest.mark.parametrize("keep", [0, 200, 0.9])
def test_broken_packages_are_refused(deb: Path, tmp_path: Path, keep: float) -> None:
    """A damaged file is an error that names it and leaves nothing in the cache."""
    content = deb.read_bytes()
    broken = tmp_path / "broken_1_all.deb"
    broken.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])

    with pytest.raises(DemoError, match=r"broken_1_all\.deb"):
        deb_layer(broken, tmp_path / "cache", "gzip")
    assert not list((tmp_path / "cache/layers/2/gzip").iterdir())


async def test_missing_dpkg_is_a_plain_error(
    deb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first failure of the parallel work comes out as itself, not inside a group."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    with pytest.raises(DemoError, match="dpkg-deb is not installed"):
        await package_layers([deb, deb], tmp_path, "gzip")


def _copy(deb: Path, name: str) -> Path:
    return Path(shutil.copy(deb, deb.with_name(name)))


async def test_layers_keep_the_order_of_packages(deb: Path, tmp_path: Path) -> None:
    """The first layer comes first, then the packages as given, whichever is ready first."""
    other = _copy(deb, "other_1_all.deb")

    layers = await package_layers([deb, other], tmp_path, "zstd")

    names = [layer.content.name if isinstance(layer.content, Path) else "" for layer in layers]
    assert names == ["", "old_1_all.deb.layer", "other_1_all.deb.layer"]
    assert layers[0] == base_layer("zstd")


def test_base_layer_has_the_merged_usr() -> None:
    """Each moved directory is a symlink into /usr whose target is there, /tmp is for all, root is known."""
    found = {entry.name: entry for entry in entries(base_layer("gzip"))}

    assert {found[name].linkname for name in MOVED} == {f"usr/{name}" for name in MOVED}
    assert all(found[f"usr/{name}"].isdir() for name in MOVED)
    assert found["tmp"].mode == 0o1777
    assert found["etc/passwd"].isreg()


def test_files_layer_takes_bytes_and_entries() -> None:
    """Bytes become files, programs executable ones; a TarInfo stands for a link or a directory."""
    link = tarfile.TarInfo()
    link.type, link.linkname = tarfile.SYMTYPE, "a"

    found = {e.name: e for e in entries(files_layer({"a": b"x", "b": b"#!/bin/sh", "c": link, ".wh.d": b""}))}

    assert [found["a"].mode, found["b"].mode] == [0o644, 0o755]
    assert found["c"].linkname == "a"
    assert found[".wh.d"].size == 0
