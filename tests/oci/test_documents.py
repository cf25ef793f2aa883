"""Manifests, indexes and configs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.errors import InvalidManifest
from aioruntime.oci import media_types as mt
from aioruntime.oci.documents import (
    Index,
    Manifest,
    choose_manifest,
    decode_config,
    decode_document,
)
from aioruntime.oci.image import LayerSpec, layers_of
from aioruntime.oci.platform import Platform

HEX = "0123456789abcdef" * 4
PIN = f"sha256:{HEX}"
CONFIG = {"mediaType": mt.OCI_CONFIG, "digest": PIN, "size": 2}
LAYER = {"mediaType": mt.OCI_LAYER + "+gzip", "digest": PIN, "size": 3}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": mt.OCI_MANIFEST,
    "config": CONFIG,
    "layers": [LAYER],
}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": mt.OCI_INDEX, "manifests": []}
ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
IMAGE_CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": [PIN]},
}


def decode(document: object, media_type: str | None = None) -> Manifest | Index:
    return decode_document(json.dumps(document).encode(), media_type, "h/x:1")


def manifest() -> Manifest:
    found = decode(MANIFEST)
    assert isinstance(found, Manifest)
    return found


@pytest.mark.parametrize("served", [None, mt.OCI_MANIFEST])
@pytest.mark.parametrize("said", [None, mt.OCI_MANIFEST])
def test_manifest(served: str | None, said: str | None) -> None:
    """A manifest is known by what it is served as, by what it says, or by its shape."""
    found = decode({**MANIFEST, "mediaType": said, "unknown": {"field": 1}}, served)

    assert isinstance(found, Manifest)
    assert layers_of(found) == (LayerSpec(found.layers[0].digest, 3, mt.OCI_LAYER + "+gzip"),)


@pytest.mark.parametrize("served", [None, mt.OCI_INDEX])
def test_index(served: str | None) -> None:
    """So is an index, empty or not."""
    assert isinstance(decode(INDEX, served), Index)


@pytest.mark.parametrize(
    ("document", "served", "why"),
    [
        ({**MANIFEST, "manifests": []}, None, "ambiguous"),
        ({**INDEX, "layers": []}, None, "ambiguous"),
        (MANIFEST, mt.DOCKER_MANIFEST, "served as"),
        (MANIFEST, mt.OCI_INDEX, "served as"),
        ({**MANIFEST, "mediaType": None}, mt.OCI_INDEX, "neither"),
        ({**INDEX, "mediaType": None}, mt.OCI_MANIFEST, "neither"),
        ({**MANIFEST, "mediaType": "application/x"}, None, "neither"),
        ({**MANIFEST, "schemaVersion": 1}, None, "schema 1"),
        ({"schemaVersion": 1, "fsLayers": []}, None, "schema 1"),
        (MANIFEST, mt.DOCKER_SCHEMA_1[0], "schema 1"),
        ({**MANIFEST, "layers": []}, None, "without layers"),
        ({**MANIFEST, "layers": [LAYER] * 10_001}, None, "10001 layers"),
        ({**MANIFEST, "layers": [{**LAYER, "mediaType": "application/json"}]}, None, "artifact"),
        (
            {**MANIFEST, "config": {**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}},
            None,
            "artifact of type application/vnd.cncf.helm.config",
        ),
        (
            {
                **MANIFEST,
                "artifactType": "application/vnd.example",
                "config": {**CONFIG, "mediaType": "application/vnd.oci.empty.v1+json"},
            },
            None,
            "artifact of type application/vnd.example,",
        ),
        (
            {"mediaType": ARTIFACT, "schemaVersion": 2, "blobs": []},
            None,
            r"neither.*application/vnd\.oci\.artifact",
        ),
        ({"schemaVersion": 2, "blobs": []}, ARTIFACT, r"neither.*application/vnd\.oci\.artifact"),
        ({"schemaVersion": 2}, None, "neither"),
        ({}, None, "schemaVersion"),
        ([], None, "not a valid"),
        ({**MANIFEST, "layers": {}}, None, r"\$\.layers"),
        ({**MANIFEST, "config": None}, None, r"\$\.config"),
    ],
)
def test_refused(document: object, served: str | None, why: str) -> None:
    """THREATS R10: what is broken, ambiguous or can't be run is refused, and the message says which."""
    with pytest.raises(InvalidManifest, match=why):
        decode(document, served)


@pytest.mark.parametrize("media_type", sorted(mt.CONFIGS))
def test_config_types(media_type: str) -> None:
    """The config of an image may be called what old tools call it."""
    assert isinstance(decode({**MANIFEST, "config": {**CONFIG, "mediaType": media_type}}), Manifest)


@pytest.mark.parametrize("size", [-1, 2**63, 2**64, 1.5, "12", True, None, 10**400])
def test_sizes(size: object) -> None:
    """THREATS R12: a size is a whole number that fits into 63 bits."""
    with pytest.raises(InvalidManifest, match=r"layers\[0\]\.size|at byte"):
        decode({**MANIFEST, "layers": [{**LAYER, "size": size}]})


def test_missing_size() -> None:
    """A size has to be there."""
    with pytest.raises(InvalidManifest, match="size"):
        decode({**MANIFEST, "layers": [{"mediaType": mt.OCI_LAYER, "digest": PIN}]})


@pytest.mark.parametrize("digest", ["sha256:../../x", PIN.upper(), PIN[:-1], PIN + "\0", "md5:00", 3, None])
def test_digests(digest: object) -> None:
    """THREATS R11: a digest that could name another path or can't be verified is refused at the border."""
    with pytest.raises(InvalidManifest, match=r"layers\[0\]\.digest") as caught:
        decode({**MANIFEST, "layers": [{**LAYER, "digest": digest}]})

    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 1_000_000, b'{"schemaVersion": NaN}'],
)
def test_not_json(raw: bytes) -> None:
    """Bytes that are no JSON, or nested without end, are refused."""
    with pytest.raises(InvalidManifest):
        decode_document(raw, mt.OCI_MANIFEST, "h/x:1")


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """No bytes at all fail in another way."""
    with pytest.raises(InvalidManifest):
        decode_document(raw, None, "h/x:1")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted([*MANIFEST, "manifests", "fsLayers", "annotations"])), _JSON)
def test_any_field(name: str, value: object) -> None:
    """No value in any field fails in another way, or shows in more than one line."""
    for base in (MANIFEST, INDEX):
        shown = ""
        try:
            decode({**base, name: value})
        except InvalidManifest as refused:
            shown = str(refused)
        assert shown.isprintable()


@given(st.sampled_from(sorted([*IMAGE_CONFIG, "config", "variant"])), _JSON)
def test_any_config_field(name: str, value: object) -> None:
    """So with configs."""
    shown = ""
    try:
        config = decode_config(json.dumps({**IMAGE_CONFIG, name: value}).encode(), manifest(), "h/x:1")
    except InvalidManifest as refused:
        shown = str(refused)
    else:
        assert isinstance(config.labels, dict)
    assert shown.isprintable()


def test_config() -> None:
    """A config is read as Docker writes it."""
    fields = {
        **IMAGE_CONFIG,
        "config": {"Env": ["A=b"], "Cmd": None, "Labels": {"k": "v"}, "Healthcheck": {}},
    }

    config = decode_config(json.dumps(fields).encode(), manifest(), "h/x:1")

    assert config.labels == {"k": "v"}
    assert config.config is not None
    assert (config.config.env, config.config.cmd) == (("A=b",), None)
    assert config.rootfs.diff_ids == (PIN,)


@pytest.mark.parametrize("count", [0, 2])
def test_diff_ids(count: int) -> None:
    """THREATS I2: a config with more or fewer diff IDs than there are layers is refused."""
    fields = {**IMAGE_CONFIG, "rootfs": {"type": "layers", "diff_ids": [PIN] * count}}

    with pytest.raises(InvalidManifest, match=f"names {count} diff IDs but the manifest has 1"):
        decode_config(json.dumps(fields).encode(), manifest(), "h/x:1")


def entry(size: int, platform: str | None, **more: object) -> dict[str, object]:
    named = {}
    if platform is not None:
        os, architecture, *variant = platform.split("/")
        named = {
            "platform": {
                "os": os,
                "architecture": architecture,
                **({"variant": variant[0]} if variant else {}),
            }
        }
    return {"mediaType": mt.OCI_MANIFEST, "digest": PIN, "size": size, **named, **more}


ATTESTATION = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}


@pytest.mark.parametrize(
    ("entries", "wanted", "size"),
    [
        ([entry(1, "linux/amd64"), entry(2, "linux/arm64/v8")], "linux/arm64", 2),
        ([entry(1, "linux/arm64"), entry(2, "linux/arm64/v8")], "linux/arm64", 1),
        ([entry(1, "linux/arm/v6"), entry(2, "linux/arm/v7")], "linux/arm/v7", 2),
        ([entry(1, "linux/arm/v6"), entry(2, "linux/arm/v5")], "linux/arm/v7", 1),
        ([entry(1, "linux/arm/v7")], "linux/arm64", 1),
        ([entry(1, "linux/x86_64")], "linux/amd64", 1),
        ([entry(1, "linux/amd64/")], "linux/amd64", 1),
        ([entry(1, "linux/amd64"), entry(2, "linux/amd64")], "linux/amd64", 1),
        ([entry(1, None)], "linux/amd64", 1),
        ([entry(1, "linux/amd64", **ATTESTATION), entry(2, "linux/amd64")], "linux/amd64", 2),
        ([entry(1, "unknown/unknown"), entry(2, "linux/amd64")], "linux/amd64", 2),
        ([entry(1, None, **ATTESTATION), entry(2, None)], "linux/amd64", 2),
        ([entry(1, "\x1b[31m/amd64"), entry(2, "linux/amd64")], "linux/amd64", 2),
    ],
)
def test_choose(entries: list[object], wanted: str, size: int) -> None:
    """The best entry that the machine can run is chosen; the first of equals; never an attestation."""
    index = decode({**INDEX, "manifests": entries})
    assert isinstance(index, Index)

    assert choose_manifest(index, Platform.parse(wanted), "h/x:1").size == size


@pytest.mark.parametrize(
    ("entries", "listed"),
    [
        ([], "none"),
        ([entry(1, None, **ATTESTATION)], "none"),
        ([entry(1, None), entry(2, None)], "none"),
        ([entry(1, "linux/arm/v7"), entry(2, "linux/386")], "linux/386, linux/arm/v7"),
        ([entry(1, "windows/amd64")], "windows/amd64"),
        ([entry(1, "unknown/unknown")], "none"),
    ],
)
def test_nothing_to_choose(entries: list[object], listed: str) -> None:
    """Without an entry for the machine, the message lists what there is."""
    index = decode({**INDEX, "manifests": entries})
    assert isinstance(index, Index)

    with pytest.raises(InvalidManifest, match=f"no image for linux/amd64; it offers: {listed}$"):
        choose_manifest(index, Platform("linux", "amd64"), "h/x:1")


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (mt.OCI_LAYER, "none"),
        (mt.OCI_LAYER + "+gzip", "gzip"),
        (mt.OCI_LAYER + "+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "gzip"),
        ("application/vnd.in-toto+json", None),
        ("", None),
    ],
)
def test_layer_types(media_type: str, expected: str | None) -> None:
    """A layer's media type tells its compression, and what is no layer has none."""
    assert mt.layer_compression(media_type) == expected
