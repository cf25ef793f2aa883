"""Names that we set, pins, and what other tools make of index.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.errors import InvalidSpec
from aioruntime.store import files
from aioruntime.store.index import REF_NAME
from tests.store.helpers import MANIFEST_TYPE, put_descriptor, put_image

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.store.files import Status
    from aioruntime.store.store import ImageStore


def read_index(store: ImageStore) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((store.path / "index.json").read_bytes())["manifests"]
    return found


def listed(store: ImageStore) -> list[str]:
    return [entry.get("annotations", {}).get(REF_NAME) for entry in read_index(store)]


async def test_lost_updates_come_back(store: ImageStore) -> None:
    """L9: a name that another tool dropped from index.json, as it read that before, is there all the same."""
    await put_image(store, "a", 1)
    before = (store.path / "index.json").read_bytes()
    await put_image(store, "b", 2)
    (store.path / "index.json").write_bytes(before)

    assert list(await store.references()) == ["a", "b"]
    await put_image(store, "c", 3)
    assert listed(store) == ["a", "b", "c"]


async def test_index_removed(store: ImageStore) -> None:
    """L9: without index.json no name of ours is lost, and it is made anew."""
    await put_image(store, "a", 1)
    (store.path / "index.json").unlink()

    assert list(await store.references()) == ["a"]
    await put_image(store, "b", 2)
    assert listed(store) == ["a", "b"]


async def test_record_damaged(store: ImageStore) -> None:
    """A damaged record costs pins, no names; it is put aside, and made anew by the next writer."""
    await put_image(store, "a", 1)
    record = store.path / "aioruntime" / "images.json"
    record.write_text("{")

    assert list(await store.references()) == ["a"]
    await put_image(store, "b", 2)
    assert list(await store.references()) == ["a", "b"]
    assert [path.read_text() for path in (store.path / "aioruntime" / "damaged").iterdir()] == ["{"]
    (store.path / "index.json").unlink()
    assert list(await store.references()) == ["b"]  # what only index.json had, with both lost at once


async def test_what_is_written_meanwhile_stays(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: an entry that another tool writes while we change the index is not lost, and ours is there too."""
    await put_image(store, "a", 1)
    foreign = {"mediaType": MANIFEST_TYPE, "digest": "sha256:" + "0" * 64, "size": 2}
    replace = files.replace
    done: list[Path] = []

    def too_late(path: Path, data: bytes, *, over: Status | None = None) -> bool:
        if path.name == "index.json" and not done:
            done.append(path)
            index = json.loads(path.read_bytes())
            index["manifests"].append(foreign)
            path.write_text(json.dumps(index))
        return replace(path, data, over=over)

    monkeypatch.setattr(files, "replace", too_late)
    await put_image(store, "b", 2)

    assert foreign in read_index(store)
    assert listed(store) == ["a", None, "b"]


async def test_index_that_is_being_written(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: an index that another tool has not written to its end is waited for, not put aside."""
    await put_image(store, "a", 1)
    index = store.path / "index.json"
    whole = index.read_bytes()
    index.write_bytes(whole[:20])
    monkeypatch.setattr("aioruntime.store.names.time.sleep", lambda _: index.write_bytes(whole))

    await put_image(store, "b", 2)

    assert listed(store) == ["a", "b"]
    assert not (store.path / "aioruntime" / "damaged").exists()


async def test_images_of_other_tools(store: ImageStore) -> None:
    """What another tool listed is an image too, by its digest if it has no name, to be pinned and removed."""
    ours = await put_image(store, "ours", 1)
    theirs = await put_descriptor(store, b"{}")
    index = json.loads((store.path / "index.json").read_bytes())
    entry = {"mediaType": MANIFEST_TYPE, "digest": theirs.digest, "size": theirs.size}
    index["manifests"] += [entry, {**entry, "annotations": {REF_NAME: "theirs"}}]
    (store.path / "index.json").write_text(json.dumps(index))

    assert [image.name for image in await store.images()] == ["ours", str(theirs.digest), "theirs"]
    assert list(await store.references()) == ["ours", "theirs"]
    await store.pin("theirs")
    with pytest.raises(InvalidSpec, match="theirs is pinned"):
        await store.remove(theirs.digest)
    assert (await store.prune(max_bytes=0)).images == ("ours", str(theirs.digest))
    await store.unpin("theirs")
    await store.remove(theirs.digest)

    assert read_index(store) == []
    assert not await store.has(theirs.digest)
    assert not await store.has(ours.digest)


async def test_no_name(store: ImageStore) -> None:
    """An empty name is refused."""
    with pytest.raises(InvalidSpec, match="not empty"):
        await store.set_reference("", await put_descriptor(store, b"{}"))


async def test_an_image_without_a_name_is_pinned(store: ImageStore) -> None:
    """An image that another tool listed without a name can be pinned, and names are set as before."""
    theirs = await put_descriptor(store, b"{}")
    entry = {"mediaType": MANIFEST_TYPE, "digest": theirs.digest, "size": theirs.size}
    (store.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))

    await store.pin(theirs.digest)
    await put_image(store, "a", 1)

    assert read_index(store)[0] == entry
    assert listed(store) == [None, "a"]
    assert [image.pinned for image in await store.images()] == [False, True]
    await store.unpin(theirs.digest)
    await store.remove(theirs.digest)
    assert listed(store) == ["a"]
