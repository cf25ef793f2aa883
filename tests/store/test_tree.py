"""Which blobs an image consists of."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.oci.digest import ImageDigest
from aioruntime.store.layout import Layout
from aioruntime.store.tree import Tree, read_tree
from tests.store.helpers import blob_path, content

if TYPE_CHECKING:
    from aioruntime.store.store import ImageStore


async def _put(store: ImageStore, value: Any) -> dict[str, Any]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    digest = ImageDigest.of(data)
    await store.put(data, digest)
    return {"mediaType": "any", "digest": digest, "size": len(data)}


def _absent(seed: int, size: int = 5) -> dict[str, Any]:
    return {"mediaType": "any", "digest": content(10, seed)[1], "size": size}


def _tree(store: ImageStore, descriptor: dict[str, Any]) -> Tree:
    return read_tree(Layout(store.path), descriptor["digest"])


def _digests(*descriptors: dict[str, Any]) -> tuple[str, ...]:
    return tuple(descriptor["digest"] for descriptor in descriptors)


async def test_an_index_of_indexes(store: ImageStore) -> None:
    """All blobs are listed, each once, documents before what they name; absent platforms are left out."""
    config, shared, own = [await _put(store, data) for data in (b"{}", b"shared", b"own")]
    one = await _put(store, {"config": config, "layers": [shared, shared, own]})
    two = await _put(store, {"config": config, "blobs": [shared], "layers": None})
    inner = await _put(store, {"manifests": [two, one]})
    root = await _put(store, {"manifests": [one, _absent(1), inner]})
    tree = _tree(store, root)

    assert tree.blobs == _digests(root, one, config, shared, own, inner, two)
    assert tree.sizes == {
        each["digest"]: each["size"] for each in (root, one, config, shared, own, inner, two)
    }
    assert tree.missing == ()


async def test_what_is_missing(store: ImageStore) -> None:
    """Absent configs and layers, wrong sizes, altered documents and what is no file are missing."""
    short = {**await _put(store, b"short"), "size": 6}
    pipe = await _put(store, b"pipe")
    blob_path(store, ImageDigest(pipe["digest"])).unlink()
    os.mkfifo(blob_path(store, ImageDigest(pipe["digest"])))
    manifest = await _put(store, {"config": _absent(1), "layers": [short, _absent(2), pipe]})
    altered = await _put(store, {"layers": [_absent(3)]})
    path = blob_path(store, ImageDigest(altered["digest"]))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"5", b"6"))
    root = await _put(store, {"manifests": [manifest, altered]})
    tree = _tree(store, root)

    assert tree.blobs == _digests(root, manifest, _absent(1), short, _absent(2), pipe, altered)
    assert tree.missing == _digests(_absent(1), short, _absent(2), pipe, altered)
    assert _tree(store, _absent(1)).blobs == _tree(store, _absent(1)).missing == _digests(_absent(1))


async def test_an_index_of_which_nothing_is_here(store: ImageStore) -> None:
    """An index is not whole if the store has the image of no platform."""
    tree = _tree(store, await _put(store, {"manifests": [_absent(1), _absent(2)]}))

    assert tree.missing == tree.blobs[1:] == _digests(_absent(1), _absent(2))


@pytest.mark.parametrize(
    "document",
    [
        b"no document",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        {"layers": {}, "manifests": 5, "config": []},
        {"layers": [None, 5, {"digest": "md5:00"}, {"digest": "sha256:../../x"}, {"size": 5}]},
        {"layers": [{"digest": "sha256:" + "0" * 64, "size": "5"}]},
    ],
)
async def test_what_is_no_image(store: ImageStore, document: Any) -> None:
    """A blob that names nothing that we understand is listed alone, whatever it is."""
    root = await _put(store, document)

    assert _tree(store, root) == Tree(_digests(root), {root["digest"]: root["size"]}, ())


async def test_a_layer_is_not_read(store: ImageStore) -> None:
    """What a manifest names as a layer is a leaf, unless it is also named as a document."""
    layer = await _put(store, {"layers": [_absent(1)]})
    manifest = await _put(store, {"layers": [layer]})
    assert _tree(store, manifest).blobs == _digests(manifest, layer)

    both = await _put(store, {"manifests": [manifest, layer]})
    assert _tree(store, both).blobs == _digests(both, manifest, layer, _absent(1))


async def test_a_deep_tree(store: ImageStore) -> None:
    """Indexes within indexes are followed to any depth."""
    chain = [await _put(store, b"end")]
    for _ in range(300):
        chain.append(await _put(store, {"manifests": [chain[-1]]}))

    assert _tree(store, chain[-1]).blobs == _digests(*reversed(chain))
