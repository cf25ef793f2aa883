"""Random stacks of layers, and an independent judge of what they unpack to: `umoci unpack`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

Entry = tuple[tarfile.TarInfo, bytes]
_NAMES = ("a", "b", "c")
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> Entry:
    """An entry of a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def packed(entries: Sequence[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    """The layer's archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def add_stack(rng: random.Random, top: str, layers: Sequence[list[Entry]]) -> None:
    """Add to each of *layers* what a layer of a random image might have, all of it below *top*.

    Layers are such that umoci, which unpacks each into what was there before, and engines, which give each
    a directory of its own, agree: no path leads through what a lower layer has as a file or a link.
    """
    implied = rng.random() < 0.5  # then there are no opaque directories: umoci judges by the entries' order
    never_directory: set[str] = set()
    for layer in layers:
        seen: dict[str, str] = {}
        for _ in range(rng.randint(1, 7)):
            path = "/".join(rng.choice(_NAMES) for _ in range(rng.randint(1, 3)))
            kind = rng.choice("ffdddllhww" if implied else "ffdddllhwwo")
            if _fits(path, kind, seen):
                _add_parents(rng, top, path, kind, layer, seen, never_directory if implied else None)
                if kind not in "do":
                    never_directory.add(path)
                layer.append(_made(rng, top, path, kind, seen))
                seen[path] = "d" if kind == "o" else kind


def _fits(path: str, kind: str, seen: dict[str, str]) -> bool:
    parts = path.split("/")
    if any(seen.get("/".join(parts[:i]), "d") != "d" for i in range(1, len(parts))):
        return False
    if kind == "o":
        return seen.get(path, "d") == "d"
    if path in seen:
        return kind == "d" == seen[path]
    has_children = any(other.startswith(f"{path}/") for other in seen)
    return (kind == "d" or not has_children) and (kind != "h" or any(k in "fh" for k in seen.values()))


def _add_parents(
    rng: random.Random,
    top: str,
    path: str,
    kind: str,
    layer: list[Entry],
    seen: dict[str, str],
    never_directory: set[str] | None,
) -> None:
    parts = path.split("/")
    for end in range(1, len(parts) + (kind == "o")):
        parent = "/".join(parts[:end])
        if parent in seen:
            continue
        seen[parent] = "d"
        may_imply = never_directory is not None and parent not in never_directory and kind not in "wo"
        if not (may_imply and rng.random() < 0.5):
            layer.append(entry(f"{top}/{parent}", tarfile.DIRTYPE))


def _made(rng: random.Random, top: str, path: str, kind: str, seen: dict[str, str]) -> Entry:
    full = f"{top}/{path}"
    fields: dict[str, Any] = {"mode": rng.choice([0o644, 0o755, 0o700]), "uid": rng.randint(0, 3)}
    match kind:
        case "d":
            return entry(full, tarfile.DIRTYPE, **fields | {"mode": fields["mode"] | 0o700})
        case "l":
            return entry(full, tarfile.SYMTYPE, linkname=rng.choice(["a", "b/c", "../x", "/nowhere"]))
        case "h":
            targets = [other for other, what in seen.items() if what in "fh"]
            return entry(full, tarfile.LNKTYPE, linkname=f"{top}/{rng.choice(targets)}", **fields)
        case "w":
            parent, _, name = full.rpartition("/")
            return entry(f"{parent}/.wh.{name}")
        case "o":
            return entry(f"{full}/.wh..wh..opq")
    if rng.random() < 0.3:
        fields["pax_headers"] = {"SCHILY.xattr.user.x": f"v{rng.randint(0, 9)}"}
    fields["mtime"] = rng.randint(1000, 1005)
    return entry(full, tarfile.REGTYPE, bytes([rng.randint(65, 90)]) * rng.randint(0, 700), **fields)


def unpacked(directory: Path, layers: Sequence[bytes]) -> dict[str, tuple[object, ...]]:
    """What `umoci unpack` makes of an image of these layers, by path: all that can be seen of each entry."""
    layout = directory / "layout"
    write_layout(layout, layers)
    command = ["umoci", "unpack", "--image", f"{layout}:x", str(directory / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-600:]
    return _seen(directory / "bundle/rootfs")


def write_layout(layout: Path, layers: Sequence[bytes], name: str = "x") -> None:
    """Write an image layout with one image of these layers, of that name."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    described = [put(layer, _LAYER) for layer in layers]
    rootfs = {"type": "layers", "diff_ids": [each["digest"] for each in described]}
    fields = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    config = put(json.dumps(fields).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": described}
    named = {
        **put(json.dumps(manifest).encode(), _MANIFEST),
        "annotations": {"org.opencontainers.image.ref.name": name},
    }
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _seen(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    names: dict[int, list[str]] = {}
    for parent, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(parent, name)
            relative, status = os.path.relpath(path, root), os.lstat(path)
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                names.setdefault(status.st_ino, []).append(relative)
                with open(path, "rb") as file:
                    content = (file.read(), int(status.st_mtime))
            attributes = {}
            with suppress(OSError):
                attributes = {a: os.getxattr(path, a, follow_symlinks=False) for a in os.listxattr(path)}
            found[relative] = (status.st_mode, status.st_uid, status.st_gid, content, attributes)
    for linked in names.values():
        for name in linked:
            found[name] += (tuple(sorted(linked)),)
    return found
