"""Manifests and indexes made to harm: more than anybody needs, and copies of blobs that are none."""

from __future__ import annotations

import base64

import pytest

from aioruntime.errors import InvalidManifest
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Index, Manifest, choose_manifest
from aioruntime.oci.platform import Platform
from tests.oci.test_documents import INDEX, LAYER, MANIFEST, PIN, decode, entry


def held(blob: bytes, **other: object) -> dict[str, object]:
    """A descriptor that has a copy of its blob."""
    copy = base64.b64encode(blob).decode()
    return {**LAYER, "digest": ImageDigest.of(blob), "size": len(blob), "data": copy, **other}


def test_data() -> None:
    """A copy of the blob within its descriptor is taken if it is the blob."""
    config = held(b"{}", mediaType=media_types.OCI_CONFIG)
    manifest = decode({**MANIFEST, "config": config, "layers": [held(b""), held(b"x"), LAYER]})
    index = decode({**INDEX, "manifests": [held(b"{}")]})

    assert isinstance(manifest, Manifest)
    assert [layer.data for layer in manifest.layers] == [b"", b"x", None]
    assert isinstance(index, Index)
    assert index.manifests[0].data == b"{}"


@pytest.mark.parametrize(
    "wrong",
    [
        held(b"x", digest=PIN),
        held(b"x", size=2),
        held(b"x", data=""),
        held(b"x", data="eA"),
        held(b"x", data="?"),
        held(b"x", data=1),
        held(b"x", data=["eA=="]),
        held(b"x", data=base64.b64encode(b"x" * 2_000_000).decode()),
    ],
)
def test_wrong_data(wrong: dict[str, object]) -> None:
    """THREATS I13: a copy that is not what digest and size name is refused, wherever the descriptor is."""
    manifests = [{**MANIFEST, "layers": [LAYER, wrong]}, {**MANIFEST, "config": wrong}]
    for document in (*manifests, {**INDEX, "manifests": [wrong]}):
        with pytest.raises(InvalidManifest, match=r"\$\.(layers\[1\]|config|manifests\[0\])") as caught:
            decode(document)
        assert len(str(caught.value)) < 400


def test_an_index_of_many() -> None:
    """THREATS I11: an index of 100,000 images is refused by their number, before one is looked at."""
    with pytest.raises(InvalidManifest, match="an index of 100000 images; at most 1000"):
        decode({**INDEX, "manifests": [entry(1, "linux/amd64")] * 100_000})


def test_an_index_of_as_many_as_may_be() -> None:
    """THREATS I11: one of 1,000 platforms is read, and if ours is not among them the message stays short."""
    index = decode({**INDEX, "manifests": [entry(1, f"linux/cpu{number}") for number in range(1000)]})
    assert isinstance(index, Index)

    with pytest.raises(InvalidManifest, match="has no image for linux/amd64") as caught:
        choose_manifest(index, Platform("linux", "amd64"), "h/x:1")

    assert len(str(caught.value)) < 400


def test_a_manifest_of_many() -> None:
    """THREATS I11: a manifest of 100,000 layers is refused by their number."""
    with pytest.raises(InvalidManifest, match="100000 layers; at most 10000"):
        decode({**MANIFEST, "layers": [LAYER] * 100_000})
