"""Make image layers: one from each Debian package, and the first one, which carries the merged /usr.

A layer is the same, byte for byte, whenever the same package goes in. Packages may still ship /bin or
/lib although these are symlinks into /usr today; a layer with a directory there would hide the symlink,
so such paths move.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aioruntime.demo.blobs import CHUNK, Compression, Layer, LayerWriter
from aioruntime.demo.errors import DemoError
from aioruntime.demo.paths import MOVED, Rewriter
from aioruntime.demo.programs import find_program
from aioruntime.errors import one_line
from aioruntime.tasks import in_thread, task_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ("MTIME", "base_layer", "deb_layer", "files_layer", "package_layers")

MTIME = 1_672_531_200
"""The time that every entry carries: the first second of 2023."""

_RECIPE = "2"  # part of the cache's path: raise it when the same package gives a different layer
_USERS = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"


def files_layer(files: Mapping[str, bytes | tarfile.TarInfo], compression: Compression = "gzip") -> Layer:
    """Make a small layer in memory.

    Args:
        files: What is in it, by path, in this order. Bytes become a file (an executable one if they begin
            like a script or an ELF program); a `TarInfo` stands for anything else: a directory, a link.
        compression: How to compress it.

    Returns:
        The layer, its bytes in memory.
    """
    out = io.BytesIO()
    writer = LayerWriter(out, compression)
    with writer.open_tar() as tar:
        for path, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                entry = content.replace(name=path, mtime=MTIME, deep=False)
                tar.addfile(entry)
            else:
                entry = tarfile.TarInfo(path)
                entry.size, entry.mtime = len(content), MTIME
                entry.mode = 0o755 if content.startswith((b"#!", b"\x7fELF")) else 0o644
                tar.addfile(entry, io.BytesIO(content))
    layer = writer.finish(b"")
    return Layer(layer.digest, layer.size, layer.diff_id, layer.compression, out.getvalue())


def _link(target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    return entry


def _directory(mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry


def base_layer(compression: Compression) -> Layer:
    """Make the first layer of every image: the merged /usr with its symlinks, /tmp, and who root is.

    Args:
        compression: How to compress it.

    Returns:
        The layer, its bytes in memory.
    """
    moved = sorted(MOVED)
    return files_layer(
        {
            "etc": _directory(0o755),
            "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
            "etc/passwd": _USERS,
            "root": _directory(0o700),
            "tmp": _directory(0o1777),
            "usr": _directory(0o755),
            **{f"usr/{name}": _directory(0o755) for name in moved},
            **{name: _link(f"usr/{name}") for name in moved},
            "var": _directory(0o755),
            "var/tmp": _directory(0o1777),
        },
        compression,
    )


def deb_layer(deb: Path, cache: Path, compression: Compression) -> Layer:
    """Make the layer of one Debian package, or take it from the cache. Blocks: call it in a worker thread.

    Args:
        deb: The package's file; its name is what the cache knows it by.
        cache: The directory that keeps layers, below "layers".
        compression: How to compress it.

    Returns:
        The layer, in a file of the cache.

    Raises:
        DemoError: dpkg-deb is not there, or cannot read the file.
    """
    home = cache / "layers" / _RECIPE / compression
    record, content = home / f"{deb.name}.json", home / f"{deb.name}.layer"
    cached = _recall(record, content, compression)
    if cached is not None:
        return cached
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".building-") as building:
        fresh, note = Path(building, "layer"), Path(building, "record")
        with fresh.open("wb") as out:
            layer = _convert(deb, LayerWriter(out, compression), content)
        note.write_text(json.dumps({"digest": layer.digest, "size": layer.size, "diff_id": layer.diff_id}))
        os.replace(fresh, content)
        os.replace(note, record)  # last: a record vouches for a complete layer
    return layer


def _recall(record: Path, content: Path, compression: Compression) -> Layer | None:
    try:
        known = json.loads(record.read_text())
        layer = Layer(known["digest"], known["size"], known["diff_id"], compression, content)
        return layer if content.stat().st_size == layer.size else None
    except (OSError, ValueError, KeyError):
        return None


def _convert(deb: Path, writer: LayerWriter, content: Path) -> Layer:
    """Stream a package's files through the path rewriter into a layer."""
    argv = [find_program("dpkg-deb", debian_package="dpkg"), "--fsys-tarfile", str(deb)]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            with (
                tarfile.open(fileobj=child.stdout, mode="r|", bufsize=CHUNK) as source,
                writer.open_tar() as target,
            ):
                rewriter = Rewriter(mtime=MTIME)
                for member in source:
                    entry = rewriter.rewrite(member)
                    if entry is not None:
                        target.addfile(entry, source.extractfile(member) if member.isreg() else None)
                while child.stdout.read(CHUNK):  # the padding: dpkg-deb fails if nobody takes it
                    pass
        except (tarfile.TarError, ValueError) as error:
            complaint = child.stderr.read().decode(errors="replace").strip()
            raise DemoError(
                f"cannot make a layer of {deb.name}: {one_line(complaint or str(error))}"
            ) from error
        complaint = child.stderr.read().decode(errors="replace").strip()
    if child.returncode != 0:
        raise DemoError(f"dpkg-deb cannot read {deb.name}: {one_line(complaint)}")
    return writer.finish(content)


async def package_layers(
    debs: Sequence[Path], cache: Path, compression: Compression, *, threads: int = 2
) -> tuple[Layer, ...]:
    """Make the layers of a factored image: the first one, then one for each package.

    Args:
        debs: The packages' files, in the order of the layers.
        cache: The directory that keeps layers, so that a second image takes what it shares from the first.
        compression: How to compress them.
        threads: How many to make at the same time.

    Returns:
        The layers, in order; there is one more than packages.

    Raises:
        DemoError: dpkg-deb is not there, or cannot read a file.
    """
    layers: list[Layer | None] = [None] * len(debs)
    limiter = anyio.CapacityLimiter(threads)

    async def make(index: int, deb: Path) -> None:
        layers[index] = await in_thread(deb_layer, deb, cache, compression, limiter=limiter)

    async with task_group() as group:
        for index, deb in enumerate(debs):
            group.start_soon(make, index, deb)
    return (base_layer(compression), *(layer for layer in layers if layer is not None))
