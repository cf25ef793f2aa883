from __future__ import annotations

import asyncio
import io
import os
import stat
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.errors import ArchiveRefused, StreamTruncated
from aioruntime.runtime.files import tar_of
from aioruntime.runtime.unpack import unpack
from tests.support.leaks import assert_settles, snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Entry = tuple[str, bytes, dict[str, Any]]


def entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> Entry:
    return name, content, {"type": kind, "mode": 0o644, **fields}


def tar(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content, fields in entries:
            info = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(info, field, value)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def everything(root: Path) -> dict[str, object]:
    """Every path below *root*, with its kind, rights and content."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (stat.filemode(status.st_mode), content)
    return found


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """A directory to unpack in, beside what must not be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (tmp_path / "into").mkdir()
    (tmp_path / "into/kept").write_text("kept")
    return tmp_path / "into"


async def test_nothing_in_it(into: Path) -> None:
    """Podman's archive of a file that it can't read, as of /proc, has nothing in it: no copy is claimed."""
    with pytest.raises(ArchiveRefused, match="is empty"):
        await unpack(pieces(tar()), into, under="cmdline")


async def test_there_and_back(tmp_path: Path, into: Path) -> None:
    """A directory comes back from its archive as it was: content, rights, times, links, any names."""
    source = tmp_path / "BZh9"
    (source / "deep/er").mkdir(parents=True)
    (source / "deep/er/big").write_bytes(bytes(range(256)) * 5000)
    (source / "deep/program").write_bytes(b"#!")
    (source / "deep/program").chmod(0o755)
    (source / "empty").touch()
    (source / ("long" * 40)).write_bytes(b"long name")
    (source / os.fsdecode(b"\xff\xfe")).write_bytes(b"no text")
    (source / "link").symlink_to("deep/program")
    (source / "back").symlink_to("deep/er")
    (source / "deep/er/up").symlink_to("../program")
    os.link(source / "empty", source / "twin")
    os.utime(source / "empty", (1_000_000_000, 1_000_000_000))

    await unpack(tar_of(source), into, under="BZh9")

    assert everything(into / "BZh9") == everything(source)
    assert (into / "BZh9/empty").stat().st_mtime == 1_000_000_000
    assert (into / "BZh9/twin").stat().st_ino == (into / "BZh9/empty").stat().st_ino
    await unpack(tar_of(source), into, under="BZh9")
    assert everything(into / "BZh9") == everything(source)
    await unpack(tar_of(source / "deep", name="."), into, under=".")
    assert (into / "program").exists()


async def test_rights(into: Path) -> None:
    """THREATS E11: set-user-ID, set-group-ID, sticky bits and write rights for others are dropped."""
    data = tar(entry("a/f", content=b"x", mode=0o7777), entry("a", tarfile.DIRTYPE, mode=0o7777))
    await unpack(pieces(data), into, under="a")
    assert stat.S_IMODE((into / "a/f").stat().st_mode) == 0o755
    assert stat.S_IMODE((into / "a").stat().st_mode) == 0o755


HOSTILE: dict[str, list[Entry]] = {
    "absolute name": [entry("/a/x", content=b"x")],
    "parent": [entry("../outside/secret", content=b"x")],
    "parent below": [entry("a/../../outside/secret", content=b"x")],
    "parent at the end": [entry("a/..", tarfile.DIRTYPE)],
    "another name": [entry("kept", content=b"x")],
    "a name that begins alike": [entry("ab", content=b"x")],
    "the directory itself": [entry("./", content=b"x")],
    "absolute link": [entry("a/x", tarfile.SYMTYPE, linkname="/etc")],
    "link up": [entry("a/x", tarfile.SYMTYPE, linkname="../../outside")],
    "link to a neighbour": [entry("a/x", tarfile.SYMTYPE, linkname="../kept")],
    "link up behind a link": [
        entry("a/b", tarfile.DIRTYPE),
        entry("a/s/d", tarfile.SYMTYPE, linkname="../b"),
        entry("a/s/x", tarfile.SYMTYPE, linkname="d/../../outside"),
    ],
    "through a link": [
        entry("a/x", tarfile.SYMTYPE, linkname="y"),
        entry("a/x/f", content=b"x"),
    ],
    "through a link to a directory": [
        entry("a/y", tarfile.DIRTYPE),
        entry("a/x", tarfile.SYMTYPE, linkname="y"),
        entry("a/x/f", content=b"x"),
    ],
    "a directory where a link is": [
        entry("a/y", tarfile.DIRTYPE),
        entry("a/x", tarfile.SYMTYPE, linkname="y"),
        entry("a/x", tarfile.DIRTYPE),
    ],
    "hard link outside": [entry("a/x", tarfile.LNKTYPE, linkname="../outside/secret")],
    "absolute hard link": [entry("a/x", tarfile.LNKTYPE, linkname="/etc/passwd")],
    "hard link to a neighbour": [entry("a/x", tarfile.LNKTYPE, linkname="kept")],
    "hard link to nothing": [entry("a/x", tarfile.LNKTYPE, linkname="a/nothing")],
    "hard link to a link": [
        entry("a/x", tarfile.SYMTYPE, linkname="y"),
        entry("a/z", tarfile.LNKTYPE, linkname="a/x"),
    ],
    "hard link through a link": [
        entry("a/y/f", content=b"x"),
        entry("a/x", tarfile.SYMTYPE, linkname="y"),
        entry("a/z", tarfile.LNKTYPE, linkname="a/x/f"),
    ],
    "hard link to a directory": [
        entry("a/d", tarfile.DIRTYPE),
        entry("a/z", tarfile.LNKTYPE, linkname="a/d"),
    ],
    "device": [entry("a/x", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "disk": [entry("a/x", tarfile.BLKTYPE)],
    "pipe": [entry("a/x", tarfile.FIFOTYPE)],
    "file for a directory": [entry("a/d/f", content=b"x"), entry("a/d", content=b"x")],
    "directory for a file": [entry("a/d", content=b"x"), entry("a/d", tarfile.DIRTYPE)],
    "below a file": [entry("a/d", content=b"x"), entry("a/d/e", content=b"x")],
    "very deep": [entry("a/" + "d/" * 3000 + "f", content=b"x")],
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_archives(tmp_path: Path, into: Path, case: str) -> None:
    """THREATS E11: an archive that would touch anything but what was asked for is refused, and does not."""
    before = {name: kept for name, kept in everything(tmp_path).items() if not name.startswith("into/a")}
    outside = os.stat(tmp_path / "outside/secret")
    with pytest.raises(ArchiveRefused):
        await unpack(pieces(tar(*HOSTILE[case])), into, under="a")
    after = {name: kept for name, kept in everything(tmp_path).items() if not name.startswith("into/a")}
    assert after == before
    assert os.stat(tmp_path / "outside/secret").st_nlink == outside.st_nlink
    assert not (into / "ab").exists()


async def test_links_of_the_user(tmp_path: Path, into: Path) -> None:
    """THREATS E11: a symbolic link that is in the way is replaced as such, and never followed."""
    (into / "a").mkdir()
    (into / "a/f").symlink_to(tmp_path / "outside/secret")
    (into / "a/d").symlink_to(tmp_path / "outside")
    await unpack(pieces(tar(entry("a/f", content=b"new"))), into, under="a")
    assert (into / "a/f").read_bytes() == b"new"
    assert not (into / "a/f").is_symlink()
    with pytest.raises(ArchiveRefused, match="no directory"):
        await unpack(pieces(tar(entry("a/d/secret", content=b"new"))), into, under="a")
    assert (tmp_path / "outside/secret").read_text() == "secret"


@pytest.mark.parametrize("data", [b"no tar" * 200, tar(entry("a/f", content=bytes(5000)))[:3000]])
async def test_broken_archives(into: Path, data: bytes) -> None:
    """What is no archive, or ends within a file, is refused."""
    with pytest.raises(ArchiveRefused, match="broken"):
        await unpack(pieces(data), into, under="a")


async def test_a_cut_behind_the_last_file(into: Path) -> None:
    """A cut is told even if every file has come."""

    async def cut() -> AsyncIterator[bytes]:
        yield tar(entry("a/f", content=b"x"))
        raise StreamTruncated("cut")

    with pytest.raises(StreamTruncated):
        await unpack(cut(), into, under="a")


async def test_cancelled(into: Path) -> None:
    """An unpacking that is cancelled while it waits for more ends at once; no thread or file stays."""
    before = snapshot()
    waiting = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield tar(entry("a/f", content=bytes(100_000)))[:50_000]
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(unpack(stalled(), into, under="a"))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await assert_settles(before)


async def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """A file that becomes shorter while it is read is an error, not an archive that is out of step."""
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    stream = tar_of(tmp_path / "big")
    await anext(stream)
    os.truncate(tmp_path / "big", 1000)
    with pytest.raises(OSError, match="shorter"):
        async for _ in stream:
            pass
