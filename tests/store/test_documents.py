"""The index of named images, and our notes."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.errors import InvalidSpec, LayersMissing, StoreError
from aioruntime.oci.documents import Descriptor
from aioruntime.store import index
from aioruntime.store.store import ImageStore
from tests.store.helpers import MANIFEST_TYPE, content, put_descriptor

if TYPE_CHECKING:
    from pathlib import Path


def _index(store: ImageStore) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.path / "index.json").read_bytes())
    return found


async def test_new_store_is_an_empty_layout(store: ImageStore) -> None:
    """Reading a store that is not there finds nothing and makes nothing; the first write makes a layout."""
    _, digest = content(1)
    assert await store.references() == {}
    assert await store.reference("x") is None
    assert await store.read_note("x") is None
    assert await store.verify() == []
    assert not await store.has(digest)
    assert await store.free_bytes() > 0
    assert not store.path.exists()
    await put_descriptor(store, b"manifest")
    assert json.loads((store.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert _index(store)["manifests"] == []


async def test_reference_is_found_and_replaced(store: ImageStore) -> None:
    """A name gives the descriptor last set for it, once in the index, with the name as annotation."""
    name = "127.0.0.1:5000/org/tool:1.21"
    old, new = [await put_descriptor(store, data) for data in (b"old", b"new")]
    await store.set_reference(name, old)
    await store.set_reference("other", old)
    await store.set_reference(name, new)
    found = await store.reference(name)
    assert found is not None
    assert (found.digest, found.size, found.media_type) == (new.digest, 3, MANIFEST_TYPE)
    assert _index(store)["manifests"][0] == {
        "mediaType": MANIFEST_TYPE,
        "digest": new.digest,
        "size": 3,
        "annotations": {index.REF_NAME: name},
    }
    assert list(await store.references()) == [name, "other"]


async def test_reference_needs_its_manifest(store: ImageStore) -> None:
    """A name is never given to what is not in the store."""
    data, digest = content(10)
    with pytest.raises(LayersMissing) as caught:
        await store.set_reference("x", Descriptor(MANIFEST_TYPE, digest, len(data)))
    assert caught.value.digests == (digest,)
    assert await store.references() == {}


async def test_foreign_index_members_are_kept(store: ImageStore) -> None:
    """Members and entries of index.json that we don't understand survive our updates unchanged."""
    descriptor = await put_descriptor(store, b"manifest")
    foreign: list[Any] = [
        {
            "mediaType": "application/x",
            "digest": "blake3:00",
            "size": 1,
            "annotations": {index.REF_NAME: "b3"},
        },
        {
            "mediaType": MANIFEST_TYPE,
            "digest": descriptor.digest,
            "size": 8,
            "data": "bWFuaWZlc3Q=",
            "x": [None],
        },
        {"annotations": {index.REF_NAME: 7}},
        "not even an object",
    ]
    old = {"schemaVersion": 2, "manifests": foreign, "annotations": {"a": "b"}, "x-big": 10**30}
    (store.path / "index.json").write_text(json.dumps(old))
    await store.set_reference("ours", descriptor)
    assert list(await store.references()) == ["ours"]
    new = _index(store)
    assert new["manifests"][:4] == foreign
    assert len(new.pop("manifests")) == 5
    assert new == {key: value for key, value in old.items() if key != "manifests"}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"manifests": 3}', "\x00", "[" * 100_000])
async def test_broken_index_is_made_anew(store: ImageStore, text: str) -> None:
    """L9: an index that is not one costs no name of ours; the next writer puts it aside and makes a new."""
    descriptor = await put_descriptor(store, b"manifest")
    await store.set_reference("ours", descriptor)
    (store.path / "index.json").write_text(text)
    assert list(await store.references()) == ["ours"]
    assert (store.path / "index.json").read_text() == text
    await store.set_reference("more", descriptor)
    assert list(await store.references()) == ["ours", "more"]
    assert len(_index(store)["manifests"]) == 2
    aside = list((store.path / "aioruntime" / "damaged").iterdir())
    assert [path.read_text() for path in aside] == [text]


async def test_a_directory_of_others_is_no_store(clean_environ: Path) -> None:
    """A directory with something else in it is refused as a store, and nothing is written into it."""
    before = set(os.listdir(clean_environ))
    data, digest = content(1)

    with pytest.raises(StoreError, match="is not an image layout but has xdg_cache_home in it"):
        await ImageStore(clean_environ).put(data, digest)
    assert set(os.listdir(clean_environ)) == before


def test_an_empty_path_is_no_store() -> None:
    """An empty path, as an unset shell variable gives, does not mean the current directory."""
    with pytest.raises(InvalidSpec, match="empty"):
        ImageStore("")


@pytest.mark.parametrize("digest", ["null", "5", '"md5:00"', "[]"])
async def test_an_entry_without_digest_is_passed_over(store: ImageStore, digest: str) -> None:
    """An entry of the index whose digest is none that we know hides no other entry."""
    known = await put_descriptor(store, b"manifest")
    await store.set_reference("known", known)
    entry = f'{{"mediaType":"x","size":1,"digest":{digest},"annotations":{{"{index.REF_NAME}":"odd"}}}}'
    path = store.path / "index.json"
    path.write_text(path.read_text().replace('"manifests":[', f'"manifests":[{entry},'))

    assert list(await store.references()) == ["known"]


async def test_go_null_is_an_empty_index(store: ImageStore) -> None:
    """`manifests: null`, as Go programs write an empty list, is read as empty."""
    descriptor = await put_descriptor(store, b"manifest")
    (store.path / "index.json").write_text('{"schemaVersion":2,"manifests":null}')
    assert await store.references() == {}
    await store.set_reference("x", descriptor)
    assert list(await store.references()) == ["x"]


async def test_empty_reference_name_is_refused(store: ImageStore) -> None:
    """An image can't be listed under an empty name."""
    descriptor = await put_descriptor(store, b"manifest")
    with pytest.raises(InvalidSpec):
        await store.set_reference("", descriptor)


async def test_left_over_temporary_file_does_no_harm(store: ImageStore, tmp_path: object) -> None:
    """What a killed writer left under the temporary name, or a link put there, is removed, not followed."""
    descriptor = await put_descriptor(store, b"manifest")
    victim = store.path.parent / "victim"
    victim.write_text("precious")
    os.symlink(victim, store.path / ".index.json.new")
    await store.set_reference("x", descriptor)
    assert victim.read_text() == "precious"
    assert list(await store.references()) == ["x"]
    assert not (store.path / ".index.json.new").is_symlink()


async def test_notes_are_kept_by_name(store: ImageStore) -> None:
    """A note is what its last change returned; a change that fails leaves it as it was."""
    assert await store.update_note("engines.v1", lambda old: b"1" if old is None else b"?") == b"1"
    assert await store.update_note("engines.v1", lambda old: (old or b"") + b"2") == b"12"

    def fail(old: bytes | None) -> bytes:
        raise KeyError(old)

    with pytest.raises(KeyError):
        await store.update_note("engines.v1", fail)
    assert await store.read_note("engines.v1") == b"12"
    assert await store.read_note("other") is None


async def test_the_record_is_no_note(store: ImageStore) -> None:
    """The name of the record of images is refused for a note, and the record stays as it is."""
    await store.set_reference("ours", await put_descriptor(store, b"manifest"))
    with pytest.raises(ValueError, match="'images' is the name of the store's own record"):
        await store.update_note("images", lambda _: b"")
    assert await store.reference("ours") is not None


@pytest.mark.parametrize("name", ["", "A", "a/b", "../x", "a\n", "a" * 129, "é"])
async def test_odd_note_names_are_refused(store: ImageStore, name: str) -> None:
    """A note's name can't leave the directory of notes."""
    with pytest.raises(InvalidSpec):
        await store.update_note(name, lambda _: b"")
    with pytest.raises(InvalidSpec):
        await store.read_note(name)
