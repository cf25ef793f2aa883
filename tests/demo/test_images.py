from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.demo.images import BuiltImage, Family, ImageConfig, build_tool_image, write_image, write_index
from aioruntime.demo.layers import files_layer

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.demo.blobs import Compression

FILES = [{"bin/hello": b"#!/bin/sh\necho hello\n"}, {"etc/motd": b"welcome\n"}]


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()


def names(layout: Path) -> list[str]:
    index = json.loads((layout / "index.json").read_bytes())
    return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]


def check_blobs(layout: Path) -> None:
    for path in (layout / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_image_is_complete_and_addressed_by_hash(tmp_path: Path) -> None:
    """Manifest, config and layers are blobs under their own hashes, with the sizes that the manifest says."""
    image = write_image(tmp_path, "hello:1", FILES)

    check_blobs(tmp_path)
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert blob(tmp_path, image.manifest.digest) == image.raw_manifest
    assert blob(tmp_path, image.config.digest) == image.raw_config
    for layer in (image.config, *image.layers):
        assert len(blob(tmp_path, layer.digest)) == layer.size
    manifest = json.loads(image.raw_manifest)
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in image.layers]
    assert json.loads(image.raw_config)["rootfs"]["diff_ids"] == list(image.diff_ids)


def test_same_input_same_digest(tmp_path: Path) -> None:
    """Two layouts written from the same input are equal."""
    assert write_image(tmp_path / "a", "x", FILES) == write_image(tmp_path / "b", "x", FILES)


def test_name_is_replaced_others_stay(tmp_path: Path) -> None:
    """Writing a name again moves the name; other names and unnamed images do not suffer."""
    write_image(tmp_path, "a", FILES)
    write_image(tmp_path, "b", FILES)
    write_image(tmp_path, None, FILES[:1])
    second = write_image(tmp_path, "a", FILES[:1])

    index = json.loads((tmp_path / "index.json").read_bytes())
    assert names(tmp_path) == ["b", "a"]
    assert index["manifests"][1]["digest"] == second.manifest.digest


@pytest.mark.parametrize(
    ("family", "compression", "manifest_type", "layer_type"),
    [
        ("oci", "gzip", "oci.image.manifest.v1+json", "oci.image.layer.v1.tar+gzip"),
        ("oci", "zstd", "oci.image.manifest.v1+json", "oci.image.layer.v1.tar+zstd"),
        ("oci", "none", "oci.image.manifest.v1+json", "oci.image.layer.v1.tar"),
        ("docker", "gzip", "docker.distribution.manifest.v2+json", "docker.image.rootfs.diff.tar.gzip"),
    ],
)
def test_media_types(
    tmp_path: Path, family: Family, compression: Compression, manifest_type: str, layer_type: str
) -> None:
    """The family and the compression decide every media type."""
    image = write_image(tmp_path, "x", FILES, family=family, compression=compression)

    assert image.manifest.media_type == f"application/vnd.{manifest_type}"
    assert {layer.media_type for layer in image.layers} == {f"application/vnd.{layer_type}"}
    assert json.loads(image.raw_manifest)["mediaType"] == image.manifest.media_type


def test_config_says_what_was_asked(tmp_path: Path) -> None:
    """How a container starts and the platform are in the config; what is not given is left out."""
    config = ImageConfig(
        env=("A=1",),
        cmd=("x",),
        entrypoint=("/bin/y",),
        labels={"b": "2", "a": "1"},
        working_dir="/w",
        user="1000:1000",
        architecture="arm",
        variant="v7",
    )

    full = json.loads(write_image(tmp_path, "x", FILES, config).raw_config)
    bare = json.loads(write_image(tmp_path, "x", FILES, ImageConfig(env=(), variant="")).raw_config)

    assert full["config"] == {
        "User": "1000:1000",
        "Env": ["A=1"],
        "Entrypoint": ["/bin/y"],
        "Cmd": ["x"],
        "WorkingDir": "/w",
        "Labels": {"a": "1", "b": "2"},
    }
    assert (full["architecture"], full["os"], full["variant"]) == ("arm", "linux", "v7")
    assert bare["config"] == {}
    assert "variant" not in bare


def test_built_layers_and_files_mix(tmp_path: Path) -> None:
    """A layer built before and one given as files may be in one image."""
    layer = files_layer({"a": b"x"}, "zstd")

    image = write_image(tmp_path, "x", [layer, {"b": b"y"}])

    assert image.layers[0].digest == layer.digest
    assert image.layers[1].media_type.endswith("gzip")


def test_index_has_platforms_and_attestation(tmp_path: Path) -> None:
    """An index lists its images with their platforms, and last an attestation that no platform matches."""
    images = [
        write_image(tmp_path, None, FILES, ImageConfig(architecture=arch, variant=""))
        for arch in ("amd64", "arm64")
    ]

    index = write_index(tmp_path, "multi", images, attestation=True)

    first, second, attestation = json.loads(index.raw_index)["manifests"]
    assert first["platform"] == {"architecture": "amd64", "os": "linux"}
    assert second["digest"] == images[1].manifest.digest
    assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attestation["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
    assert attestation["annotations"]["vnd.docker.reference.digest"] == images[0].manifest.digest
    assert names(tmp_path) == ["multi"]
    check_blobs(tmp_path)


def test_skopeo_reads_it(tmp_path: Path, skopeo: str) -> None:
    """skopeo finds the image by name, and agrees about the digest and the layers."""
    image = write_image(tmp_path, "hello:1", FILES)

    said = _json(skopeo, "inspect", f"oci:{tmp_path}:hello:1")

    assert said["Digest"] == image.manifest.digest
    assert said["Layers"] == [layer.digest for layer in image.layers]


def test_umoci_unpacks_it(tmp_path: Path, umoci: str) -> None:
    """umoci unpacks the image and finds every file, as the user who runs it."""
    write_image(tmp_path / "layout", "hello", FILES)

    command = [umoci, "unpack", "--rootless", "--image", f"{tmp_path}/layout:hello", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)

    assert (tmp_path / "out/rootfs/etc/motd").read_bytes() == b"welcome\n"
    assert (tmp_path / "out/rootfs/bin/hello").stat().st_mode & 0o777 == 0o755


def _json(*argv: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    return said


def layer_paths(layout: Path, image: BuiltImage) -> list[set[str]]:
    paths = []
    for layer in image.layers:
        with tarfile.open(layout / "blobs/sha256" / layer.digest.removeprefix("sha256:")) as tar:
            paths.append({entry.name for entry in tar})
    return paths


async def test_tool_images_are_factored(tmp_path: Path, cache: Path) -> None:
    """Sibling tools' images differ only at their top; no package's layer hides the merged /usr."""
    samtools = await build_tool_image("samtools", tmp_path, cache)
    bcftools = await build_tool_image("bcftools", tmp_path, cache)

    shared = len(bcftools.layers) - 1
    assert shared >= 50
    assert samtools.layers[:shared] == bcftools.layers[:shared]
    assert json.loads(samtools.raw_config)["config"]["Cmd"] == ["samtools"]
    assert names(tmp_path) == ["samtools:gzip", "bcftools:gzip"]
    paths = layer_paths(tmp_path, samtools)
    assert "bin" in paths[0]
    assert "usr/bin/samtools" in paths[-1]
    for each in paths[1:]:
        assert not {path.partition("/")[0] for path in each} & {
            "bin",
            "sbin",
            "lib",
            "lib32",
            "lib64",
            "libx32",
        }
    again = await build_tool_image("samtools", tmp_path / "again", cache)
    assert again == samtools
