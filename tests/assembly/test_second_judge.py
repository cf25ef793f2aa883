"""A judge beside umoci: containers/storage, which gives each layer a directory of its own (by Podman)."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest

from tests.assembly.stacks import Entry, add_stack, packed, write_layout
from tests.assembly.test_merge import merged
from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from aioruntime.store.store import ImageStore
    from tests.support.engines import Engine

STACKS = 60


@pytest.mark.parametrize("seed", range(3))
async def test_random_stacks_in_podman(
    store: ImageStore, tmp_path: Path, podman_engine: Engine, seed: int
) -> None:
    """THREATS I6, I7, T15: 60 random stacks a seed are the same tree in Podman before and after merging."""
    rng = random.Random(1000 + seed)
    layers: list[list[Entry]] = [[] for _ in range(rng.randint(3, 6))]
    for number in range(STACKS):
        add_stack(rng, f"stack{number}", layers)
    layers = [alike(layer) for layer in layers]
    archives = [packed(layer) for layer in layers]
    archive = await merged(store, archives, seed)

    before = mounted(podman_engine, tmp_path / "before", archives)
    after = mounted(podman_engine, tmp_path / "after", [*archives[:seed], archive])
    # A directory that a layer merely implies keeps its attributes in umoci and when merged; Podman, which has
    # none at hand in the layer's own directory, makes them up.
    for name in before.keys() & after.keys() & {name for layer in layers for name in implied(layer)}:
        before[name], after[name] = before[name][:1], after[name][:1]

    assert len(before) > 5 * STACKS
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


def alike(layer: Sequence[Entry]) -> list[Entry]:
    """The layer without what Podman refuses (a path twice) or takes in its own way.

    A hard link's own attributes, which it gives to the file, others pass over; those who write archives have
    them the same.
    """
    kept = {info.name: (info, data) for info, data in layer}
    for info, _ in kept.values():
        if info.islnk():
            target = kept[info.linkname][0]
            info.mode, info.uid, info.mtime = target.mode, target.uid, target.mtime
    return list(kept.values())


def implied(layer: Sequence[Entry]) -> set[str]:
    parents = {str(parent) for info, _ in layer for parent in PurePosixPath(info.name).parents}
    return parents - {info.name for info, _ in layer}


def mounted(engine: Engine, layout: Path, layers: Sequence[bytes]) -> dict[str, tuple[object, ...]]:
    """What a container of an image of these layers finds: all that its export tells of each entry."""
    name = f"localhost/{layout.name}:1"
    write_layout(layout, layers, name)
    packed_layout = io.BytesIO()
    with tarfile.open(fileobj=packed_layout, mode="w") as archive:
        for part in sorted(layout.iterdir()):
            archive.add(part, part.name)
    called(engine, "POST", "images/load", packed_layout.getvalue())
    try:
        wanted = json.dumps({"image": name, "command": ["/none"]}).encode()
        container = json.loads(called(engine, "POST", "containers/create", wanted))["Id"]
        exported = called(engine, "GET", f"containers/{container}/export")
    finally:
        called(engine, "DELETE", f"images/{name}?force=true")
    return seen(exported)


def called(engine: Engine, method: str, target: str, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"}
    status, answer = ask(engine.socket, method, f"/v4.0.0/libpod/{target}", body=body, headers=headers)
    assert status < 300, f"{target}: {status} {answer.decode()}"
    return answer


def seen(exported: bytes) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    names: dict[str, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        for member in archive:
            if not member.name.startswith("stack"):
                continue
            if member.islnk():
                names[member.linkname].append(member.name)
                continue
            content, mtime = None, None
            if member.isreg():
                file = archive.extractfile(member)
                assert file is not None
                content, mtime = file.read(), member.mtime
                names[member.name] = [member.name]
            attributes = {key: value for key, value in member.pax_headers.items() if "xattr" in key}
            found[member.name] = (
                member.type,
                member.mode,
                member.uid,
                member.gid,
                member.linkname,
                mtime,
                content,
                attributes,
            )
    for first, linked in names.items():
        for name in linked:
            found[name] = (*found[first][:7], tuple(sorted(linked)))
    return found
