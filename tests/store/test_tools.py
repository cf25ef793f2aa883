"""Other tools read the store as it lies."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from typing import TYPE_CHECKING

import pytest

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Descriptor
from tests.store.helpers import MANIFEST_TYPE, save, worker
from tests.store.layouts import make_layout, names_in

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.store import ImageStore

_REFERENCES = [
    "docker.io/library/ubuntu:22.04",
    "127.0.0.1:5000/org/tool:1.21",
    f"ghcr.io/org/tool@sha256:{'0' * 64}",
]


def _needs(program: str) -> pytest.MarkDecorator:
    missing = shutil.which(program) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


async def _run_beside(*command: object) -> str:
    return await asyncio.to_thread(_run, *command)


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def _image(store: ImageStore) -> Descriptor:
    """Store a real image of one layer with one file."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        member = tarfile.TarInfo("hello")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    layer = gzip.compress(plain.getvalue(), mtime=0)
    diff_id = f"sha256:{hashlib.sha256(plain.getvalue()).hexdigest()}"
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()

    def describe(kind: str, data: bytes) -> dict[str, object]:
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": ImageDigest.of(data), "size": len(data)}

    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": describe("config.v1+json", config),
        "layers": [describe("layer.v1.tar+gzip", layer)],
    }
    manifest = json.dumps(document).encode()
    await save(store, layer, ImageDigest.of(layer))
    await store.put(config, ImageDigest.of(config))
    await store.put(manifest, ImageDigest.of(manifest))
    return Descriptor(MANIFEST_TYPE, ImageDigest.of(manifest), len(manifest))


@_needs("skopeo")
@pytest.mark.parametrize("reference", _REFERENCES)
async def test_skopeo_reads_the_store(store: ImageStore, reference: str, tmp_path: Path) -> None:
    """skopeo inspects and copies an image by its full reference, with a port, path, tag or digest in it."""
    descriptor = await _image(store)
    for name in _REFERENCES:
        await store.set_reference(name, descriptor)
    found = json.loads(_run("skopeo", "inspect", f"oci:{store.path}:{reference}"))
    assert found["Digest"] == descriptor.digest
    _run("skopeo", "--insecure-policy", "copy", f"oci:{store.path}:{reference}", f"dir:{tmp_path / 'copy'}")


@_needs("skopeo")
async def test_references_of_skopeo_and_ours_live_together(store: ImageStore) -> None:
    """An image that skopeo copies into the store is found by us, and ours stays."""
    descriptor = await _image(store)
    await store.set_reference("ours", descriptor)
    _run("skopeo", "--insecure-policy", "copy", f"oci:{store.path}:ours", f"oci:{store.path}:docker.io/x/y:1")
    assert set(await store.references()) == {"ours", "docker.io/x/y:1"}
    await store.set_reference("more", descriptor)
    assert set(await store.references()) == {"ours", "docker.io/x/y:1", "more"}
    assert await store.verify() == []


@_needs("umoci")
async def test_umoci_reads_and_tidies_the_store(store: ImageStore, tmp_path: Path) -> None:
    """umoci lists and unpacks our images, and its garbage collection does not keep us from going on."""
    descriptor = await _image(store)
    for name in _REFERENCES:
        await store.set_reference(name, descriptor)
    listed = _run("umoci", "list", "--layout", store.path).split()
    assert sorted(listed) == sorted(_REFERENCES)
    _run("umoci", "gc", "--layout", store.path)
    assert await store.verify() == []
    assert await save(store, b"more", ImageDigest.of(b"more"))
    await store.set_reference("again", descriptor)
    assert set(await store.references()) == {*_REFERENCES, "again"}


@_needs("skopeo")
async def test_skopeo_moves_a_name(store: ImageStore) -> None:
    """L9: a name of ours that skopeo gives to another image means that one, its pin kept, also when we write.

    What writes back the index of an earlier time changes nothing then.
    """
    old = await _image(store)
    await store.set_reference("docker.io/x/y:1", old)
    before = (store.path / "index.json").read_bytes()
    await store.pin("docker.io/x/y:1")
    newer = store.path.parent / "newer"
    make_layout(newer, "docker.io/x/y:1")
    copy = ("skopeo", "--insecure-policy", "copy")
    await _run_beside(*copy, f"oci:{newer}:docker.io/x/y:1", f"oci:{store.path}:docker.io/x/y:1")
    # skopeo takes the name off the old entry, and adds a new one.
    _, entry = json.loads((store.path / "index.json").read_bytes())["manifests"]
    assert entry["digest"] != old.digest

    moved = await store.reference("docker.io/x/y:1")
    assert moved is not None
    assert moved.digest == entry["digest"]
    await store.set_reference("other", old)
    for index in (None, before):
        if index is not None:
            (store.path / "index.json").write_bytes(index)
        await store.prune()
        (image,) = [found for found in await store.images() if found.name == "docker.io/x/y:1"]
        assert (image.digest, image.pinned, image.missing) == (entry["digest"], True, ())
        listed = json.loads((store.path / "index.json").read_bytes())["manifests"]
        assert entry["digest"] in [found["digest"] for found in listed]


def _read_by_skopeo(store: Path, name: str, where: Path) -> str:
    _run("skopeo", "--insecure-policy", "copy", f"oci:{store}:{name}", f"dir:{where}")
    return f"sha256:{hashlib.sha256((where / 'manifest.json').read_bytes()).hexdigest()}"


def _read_by_umoci(store: Path, name: str, where: Path) -> str:
    del name  # umoci can't take a name with a colon
    _run("umoci", "unpack", "--image", f"{store}:tool", where)
    assert (where / "rootfs" / "hello").read_text() == "hello"
    return ""


def _read_by_podman(store: Path, name: str, where: Path) -> str:
    where.mkdir()
    policy = where / "policy"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    with tempfile.TemporaryDirectory() as short:  # podman wants no long names here
        podman = ["podman", f"--root={where}/data", f"--runroot={short}/r", f"--tmpdir={short}/t"]
        podman += ["--storage-driver=vfs", "--events-backend=none"]
        image = _run(*podman, "pull", "--quiet", f"--signature-policy={policy}", f"oci:{store}:{name}")
        return _run(*podman, "image", "inspect", "--format={{.Digest}}", image.strip()).strip()


_READERS = {"skopeo": _read_by_skopeo, "umoci": _read_by_umoci, "podman": _read_by_podman}


@pytest.mark.parametrize("tool", [pytest.param(tool, marks=_needs(tool)) for tool in _READERS])
async def test_tools_read_a_store_that_is_written_to(store: ImageStore, tmp_path: Path, tool: str) -> None:
    """L9: Other tools read an image out of the store as it lies while another process writes to it."""
    descriptor = await _image(store)
    for name in (_REFERENCES[0], "tool"):
        await store.set_reference(name, descriptor)
    async with worker(store.path, "churn") as writer:
        assert await writer.line() == "ready"
        reads = 1 if tool == "podman" else 5
        for number in range(reads):
            where = tmp_path / f"{tool}{number}"
            found = await asyncio.to_thread(_READERS[tool], store.path, _REFERENCES[0], where)
            assert found in ("", descriptor.digest)
        await writer.tell("stop")
        assert int(await writer.line()) > 1

    assert await store.verify() == []
    assert {_REFERENCES[0], "tool"} <= (await store.references()).keys()


@_needs("skopeo")
@_needs("umoci")
async def test_layouts_go_from_tool_to_tool(store: ImageStore, tmp_path: Path) -> None:
    """What we export skopeo and umoci read and change, and what they wrote is imported."""
    descriptor = await _image(store)
    await store.set_reference("tool", descriptor)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    await store.export_layout("tool", ours)
    copy = ("skopeo", "--insecure-policy", "copy")
    await _run_beside(*copy, f"oci:{ours}:tool", f"oci:{theirs}:{_REFERENCES[0]}")
    await _run_beside("umoci", "config", "--image", f"{ours}:tool", "--tag", "changed", "--author", "me")
    assert await store.import_layout(theirs) == [_REFERENCES[0]]
    assert set(await store.import_layout(ours)) == {"tool", "changed"}

    found = await store.references()
    assert found[_REFERENCES[0]].digest == found["tool"].digest == descriptor.digest
    assert found["changed"].digest == names_in(ours)["changed"] != descriptor.digest
    await store.export_layout("changed", theirs)
    assert names_in(theirs) == {_REFERENCES[0]: descriptor.digest, "changed": found["changed"].digest}
    assert await store.verify() == []


@_needs("skopeo")
async def test_an_image_without_a_name(store: ImageStore, tmp_path: Path) -> None:
    """An image that skopeo wrote without a name is imported under the one that it is given."""
    descriptor = await _image(store)
    await store.set_reference("tool", descriptor)
    out = tmp_path / "out"
    await _run_beside("skopeo", "--insecure-policy", "copy", f"oci:{store.path}:tool", f"oci:{out}")
    given = "docker.io/library/given:1"
    assert await store.import_layout(out, name="given:1") == [given]
    assert (await store.references())[given].digest == descriptor.digest
