"""Names that we set, pins, and what other tools make of index.json."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from aioruntime.errors import InvalidSpec, NotStored, StoreError
from aioruntime.store import files, index, names
from aioruntime.store.index import REF_NAME
from tests.store.helpers import MANIFEST_TYPE, blob_path, layer, put_descriptor, put_image, set_age

if TYPE_CHECKING:
    from pathlib import Path

    from aioruntime.oci.documents import Descriptor
    from aioruntime.store.directories import Status
    from aioruntime.store.layout import Layout
    from aioruntime.store.store import ImageStore


def read_index(store: ImageStore) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((store.path / "index.json").read_bytes())["manifests"]
    return found


def listed(store: ImageStore) -> list[str]:
    return [entry.get("annotations", {}).get(REF_NAME) for entry in read_index(store)]


def entry(name: str | None, descriptor: Descriptor) -> dict[str, Any]:
    """What another tool lists."""
    found: dict[str, Any] = {"mediaType": MANIFEST_TYPE, "digest": descriptor.digest, "size": descriptor.size}
    return found if name is None else {**found, "annotations": {REF_NAME: name}}


def lists(store: ImageStore, *entries: dict[str, Any]) -> None:
    """Write the index as another tool does."""
    document = {"schemaVersion": 2, "manifests": list(entries)}
    (store.path / "index.json").write_text(json.dumps(document))


async def named(store: ImageStore) -> dict[str, str]:
    return {name: found.digest for name, found in (await store.references()).items()}


async def test_lost_updates_come_back(store: ImageStore) -> None:
    """L9: a name that another tool dropped from index.json, as it read that before, is there all the same."""
    await put_image(store, "a", 1)
    before = (store.path / "index.json").read_bytes()
    await put_image(store, "b", 2)
    (store.path / "index.json").write_bytes(before)

    assert list(await store.references()) == ["a", "b"]
    await put_image(store, "c", 3)
    assert listed(store) == ["a", "b", "c"]


async def test_an_older_meaning_does_not_come_back(store: ImageStore) -> None:
    """L9: an index that was read before a name got another meaning does not bring the old one back."""
    old = await put_image(store, "a", 1)
    before = (store.path / "index.json").read_bytes()
    new = await put_image(store, "a", 2)
    (store.path / "index.json").write_bytes(before)

    assert (await store.references())["a"].digest == new.digest
    await store.prune(max_bytes=10**9)
    assert [entry["digest"] for entry in read_index(store)] == [new.digest]
    await store.set_reference("a", old)  # ours to give back
    assert (await store.references())["a"].digest == old.digest


async def test_moved_to_what_is_not_here(store: ImageStore) -> None:
    """L9: a name that index.json gives to an image that is not in the store means what we gave it."""
    ours = await put_image(store, "a", 1)
    index = json.loads((store.path / "index.json").read_bytes())
    index["manifests"][0]["digest"] = "sha256:" + "0" * 64
    (store.path / "index.json").write_text(json.dumps(index))

    assert (await store.references())["a"].digest == ours.digest
    assert (await store.prune()).unclear == ()
    assert [entry["digest"] for entry in read_index(store)] == [ours.digest]


@pytest.mark.parametrize("aside", [False, True])
async def test_moved_to_what_is_damaged(store: ImageStore, aside: bool) -> None:
    """L9: a name that another tool moved does not fall back when that manifest is damaged."""
    await put_image(store, "a", 1)
    theirs = await put_image(store, "b", 2)
    moved = json.loads((store.path / "index.json").read_bytes())
    moved["manifests"] = [moved["manifests"][1] | {"annotations": {REF_NAME: "a"}}]
    (store.path / "index.json").write_text(json.dumps(moved))
    await store.remove("b")
    os.truncate(blob_path(store, theirs.digest), theirs.size - 1)
    if aside:
        assert await store.verify(repair=True) == [theirs.digest]

    assert (await store.references())["a"].digest == theirs.digest
    assert (await store.prune()).unclear == ("a",)


async def test_removed_names_do_not_come_back(store: ImageStore) -> None:
    """L9: a lost update brings back no older meaning of a removed name, and no name without image."""
    await put_image(store, "a", 1)
    await put_image(store, "b", 2)
    old = (store.path / "index.json").read_bytes()
    await store.remove("a")
    await store.remove("b")
    last = await put_image(store, "b", 3)
    (store.path / "index.json").write_bytes(old)

    assert {name: found.digest for name, found in (await store.references()).items()} == {"b": last.digest}
    assert (await store.prune()).unclear == ()


async def test_brought_again_by_another_tool(store: ImageStore) -> None:
    """L9: what was removed is here again once another tool copies it here again."""
    image = await put_image(store, "a", 1)
    old = (store.path / "index.json").read_bytes()
    manifest = await store.read(image.digest)
    await store.remove("a")
    blob_path(store, image.digest).write_bytes(manifest)
    (store.path / "index.json").write_bytes(old)

    assert (await store.references())["a"].digest == image.digest


async def test_named_anew_by_another_tool(store: ImageStore) -> None:
    """L9: what another tool gives a name to that was removed keeps it, whatever else changes meanwhile."""
    image = await put_image(store, "a", 1)
    await store.remove("a")
    missing = "sha256:" + "1" * 64
    lists(store, {**entry("a", image), "digest": missing})
    other = await put_image(store, "b", 2)
    await store.prune()

    assert await named(store) == {"a": missing, "b": other.digest}


async def test_meanings_are_forgotten(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: after an hour another tool may give a name back to what it meant before."""
    old = await put_image(store, "a", 1)
    before = (store.path / "index.json").read_bytes()
    new = await put_image(store, "a", 2)
    (store.path / "index.json").write_bytes(before)
    set_age(store.path / "index.json", -1)  # a clock that was wrong

    assert await named(store) == {"a": new.digest}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    set_age(store.path / "index.json", 0)
    assert await named(store) == {"a": old.digest}


async def test_meanings_end_when_others_move(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: the hour begins when another tool gave the name to something else, not when we take note of it."""
    old = await put_image(store, "a", 1)
    new = await put_image(store, "b", 2)
    lists(store, entry("a", new), entry("b", new))
    set_age(store.path / "index.json", 1)
    await store.pin("b")
    lists(store, entry("a", old), entry("b", new))

    assert await named(store) == {"a": old.digest, "b": new.digest}


async def test_meanings_do_not_come_back_by_waiting(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L9: a lost update counts for nothing, also when it is looked at much later, and we died meanwhile."""
    await put_image(store, "a", 1)
    await put_image(store, "gone", 3)
    before = (store.path / "index.json").read_bytes()
    new = await put_image(store, "a", 2)
    await store.remove("gone")
    (store.path / "index.json").write_bytes(before)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    with monkeypatch.context() as patch:
        patch.setattr("aioruntime.store.names._write_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await store.pin("a")

    assert await named(store) == {"a": new.digest}
    assert (await store.prune()).unclear == ()
    assert [found["digest"] for found in read_index(store)] == [new.digest]


async def test_a_name_that_another_tool_leaves_without(store: ImageStore) -> None:
    """L9: an entry of a lost update that has lost its name, since the tool gave it to another, is nothing."""
    old = await put_image(store, "a", 1)
    await store.remove("a")
    other = await put_image(store, "b", 2)
    lists(store, entry(None, old), entry("a", other), entry("b", other))

    assert {image.name for image in await store.images()} == {"a", "b"}
    assert await named(store) == {"a": other.digest, "b": other.digest}
    assert (await store.prune()).unclear == ()


@pytest.mark.parametrize("removed", [False, True])
async def test_moved_meanwhile(store: ImageStore, monkeypatch: pytest.MonkeyPatch, removed: bool) -> None:
    """L9: what another tool gives a name to while we change others, or remove it, the name means."""
    await put_image(store, "a", 1)
    theirs = await put_image(store, "b", 2)
    replace = files.replace

    def moved(path: Path, data: bytes, *, over: Status | None = None) -> bool:
        if path.name == ("index.json" if removed else "images.json"):
            monkeypatch.setattr(files, "replace", replace)
            lists(store, entry("a", theirs), entry("b", theirs))
        return replace(path, data, over=over)

    monkeypatch.setattr(files, "replace", moved)
    if removed:
        await store.remove("a")
    else:
        await store.pin("b")

    assert await named(store) == {"a": theirs.digest, "b": theirs.digest}


async def test_one_name_twice(store: ImageStore) -> None:
    """L9: of what another tool lists twice by one name nothing goes but on demand, whatever we do with it."""
    first = await put_image(store, "x", 1)
    second = await put_image(store, "y", 2)
    (store.path / "aioruntime" / "images.json").unlink()
    lists(store, entry("a", first), entry("a", second))
    await store.pin("a")
    await put_image(store, "b", 3)
    for path in (store.path / "blobs" / "sha256").iterdir():
        set_age(path, 40.0)

    await store.prune()
    assert await store.has(layer(2))
    assert [found["digest"] for found in read_index(store)][:2] == [first.digest, second.digest]
    await store.remove(second.digest)
    assert not await store.has(layer(2))
    assert listed(store) == ["a", "b"]


async def test_one_name_twice_removed(store: ImageStore) -> None:
    """L9: a name that is removed goes with all its entries, also if the first is of a lost update."""
    old = await put_image(store, "a", 1)
    await put_image(store, "a", 2)
    other = await put_image(store, "b", 3)
    lists(store, entry("a", old), entry("a", other), entry("b", other))
    await store.remove("a")

    assert listed(store) == ["b"]


async def test_one_name_twice_once_lost(store: ImageStore) -> None:
    """L9: nor does the second go when the first is what a lost update has brought back, or was removed."""
    old = await put_image(store, "a", 1)
    new = await put_image(store, "a", 2)
    gone = await put_image(store, "gone", 3)
    other = await put_image(store, "other", 4)
    third = await put_image(store, "third", 5)
    await store.remove("gone")
    record = store.path / "aioruntime" / "images.json"
    known = json.loads(record.read_bytes())
    del known["images"]["other"], known["images"]["third"]
    record.write_text(json.dumps(known))
    lists(store, entry("a", old), entry("a", other), entry("gone", gone), entry("gone", third))
    await store.prune()

    assert [(found["annotations"][REF_NAME], found["digest"]) for found in read_index(store)] == [
        ("a", new.digest),
        ("a", other.digest),
        ("gone", third.digest),
    ]


async def test_named_while_its_entry_is_removed(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: what another tool names while we remove it as an entry without a usable name stays."""
    first = await put_image(store, "a", 1)
    second = await put_image(store, "b", 2)
    await store.set_reference("a", first)
    (store.path / "aioruntime" / "images.json").write_text("{}")
    lists(store, entry("a", first), entry("a", second))
    replace = files.replace

    def named_now(path: Path, data: bytes, *, over: Status | None = None) -> bool:
        if path.name == "index.json":
            monkeypatch.setattr(files, "replace", replace)
            lists(store, entry("a", first), entry("keep", second))
        return replace(path, data, over=over)

    monkeypatch.setattr(files, "replace", named_now)
    await store.remove(second.digest)

    assert await named(store) == {"a": first.digest, "keep": second.digest}
    assert await store.has(layer(2))


async def test_what_is_no_image_can_be_removed(store: ImageStore) -> None:
    """L9: what prune tells to hold it up, since nobody knows what it needs, can be removed as it says."""
    image = await put_image(store, "a", 1)
    missing = "sha256:" + "1" * 64
    lists(store, entry("a", image), {"digest": missing})

    assert (await store.prune()).unclear == (missing,)
    await store.remove(missing)
    assert (await store.prune()).unclear == ()
    assert await named(store) == {"a": image.digest}
    with pytest.raises(NotStored):
        await store.remove(missing)


async def test_given_what_it_means(store: ImageStore) -> None:
    """L9: a name that another tool gave is ours once we give it, be it to the same image."""
    image = await put_image(store, "a", 1)
    (store.path / "aioruntime" / "images.json").write_text("{}")
    theirs = (await store.references())["a"]
    await store.set_reference("a", theirs)
    lists(store)

    assert await named(store) == {"a": image.digest}


async def test_removed_when_it_was_damaged(store: ImageStore) -> None:
    """L9: a lost update brings no image back that was put aside as damaged, and then removed."""
    image = await put_image(store, "a", 1)
    old = (store.path / "index.json").read_bytes()
    os.truncate(blob_path(store, image.digest), 10)
    assert await store.verify(repair=True) == [image.digest]
    await store.remove("a")
    (store.path / "index.json").write_bytes(old)

    assert await named(store) == {}
    assert (await store.prune()).unclear == ()


async def test_cut_while_we_write(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """L9: an index that another tool leaves half written while we change it is kept, put aside."""
    await put_image(store, "a", 1)
    replace = files.replace

    def cut(path: Path, data: bytes, *, over: Status | None = None) -> bool:
        if path.name == "images.json":
            (store.path / "index.json").write_text("{")
        return replace(path, data, over=over)

    monkeypatch.setattr(files, "replace", cut)
    monkeypatch.setattr("aioruntime.store.names._PAUSE", 0)
    await put_image(store, "b", 2)

    assert listed(store) == ["a", "b"]
    assert [path.read_text() for path in (store.path / "aioruntime" / "damaged").iterdir()] == ["{"]


async def test_claims_of_others(store: ImageStore) -> None:
    """L9: what an index of another says in our own annotations is not believed."""
    image = await put_image(store, "a", 1)
    entry = {"mediaType": MANIFEST_TYPE, "digest": image.digest, "size": image.size}
    entry["annotations"] = {
        REF_NAME: "theirs",
        "aioruntime.index.digest": "sha256:" + "1" * 64,
        "their": "own",
    }
    (store.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))

    assert (await store.references())["theirs"].annotations == {REF_NAME: "theirs", "their": "own"}


async def test_old_meanings_do_not_come_back(store: ImageStore) -> None:
    """L9: a lost update that brings back what a name meant several times ago counts for nothing."""
    await put_image(store, "a", 1)
    old = (store.path / "index.json").read_bytes()
    for seed in range(2, 7):
        last = await put_image(store, "a", seed)
    (store.path / "index.json").write_bytes(old)

    assert (await store.references())["a"].digest == last.digest


async def test_a_store_without_a_record(store: ImageStore) -> None:
    """L9: names that are in index.json alone, as in old stores, are ours once we write."""
    await put_image(store, "a", 1)
    (store.path / "aioruntime" / "images.json").unlink()
    await put_image(store, "b", 2)
    (store.path / "index.json").write_bytes(index.EMPTY)

    assert list(await store.references()) == ["a", "b"]


async def test_foreign_names_stay_foreign(store: ImageStore) -> None:
    """A name that another tool gave before we gave the first is not ours: it goes when that tool drops it."""
    theirs = await put_descriptor(store, b"{}")
    entry = {"mediaType": MANIFEST_TYPE, "digest": theirs.digest, "size": theirs.size}
    entry["annotations"] = {REF_NAME: "theirs"}
    (store.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    await put_image(store, "a", 1)
    (store.path / "index.json").write_bytes(index.EMPTY)

    assert list(await store.references()) == ["a"]


async def test_nothing_goes_without_the_index(store: ImageStore) -> None:
    """L9: while index.json is gone nothing is removed, since others may have named it; nor is that hidden."""
    theirs = await put_image(store, "theirs", 1)
    record = store.path / "aioruntime" / "images.json"
    record.write_text("{}")
    entry = (store.path / "index.json").read_bytes()
    (store.path / "index.json").unlink()
    for path in (store.path / "blobs" / "sha256").iterdir():
        set_age(path, 40.0)

    await put_descriptor(store, b"more")
    for work in (store.prune(), store.prune(dry_run=True), store.prune(max_bytes=0)):
        with pytest.raises(StoreError, match=r"index\.json is damaged or gone"):
            await work
    assert not (store.path / "index.json").exists()
    (store.path / "index.json").write_bytes(entry)
    await store.prune()
    assert await store.has(theirs.digest)
    assert await store.has(layer(1))


async def test_index_removed(store: ImageStore) -> None:
    """L9: without index.json no name of ours is lost, and it is made anew."""
    await put_image(store, "a", 1)
    (store.path / "index.json").unlink()

    assert list(await store.references()) == ["a"]
    await put_image(store, "b", 2)
    assert (store.path / "index.json").exists()
    assert listed(store) == ["a", "b"]


async def test_record_damaged(store: ImageStore) -> None:
    """A damaged record costs pins, no names: it is put aside, and what the index has is ours from then on."""
    await put_image(store, "a", 1)
    record = store.path / "aioruntime" / "images.json"
    record.write_text("{")
    lists(store, *read_index(store), {"not": "understood"})

    assert list(await store.references()) == ["a"]
    await put_image(store, "b", 2)
    assert list(await store.references()) == ["a", "b"]
    assert [path.read_text() for path in (store.path / "aioruntime" / "damaged").iterdir()] == ["{"]
    (store.path / "index.json").unlink()
    assert list(await store.references()) == ["a", "b"]


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


async def test_what_is_written_just_after_we_read_stays(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L9: wherever between our looks at the index another tool writes it, what that names is not lost."""
    theirs = await put_image(store, "a", 1)
    read = names._index
    for at in (1, 2):
        left = [at]

        def written_after(layout: Layout, left: list[int] = left) -> bytes | None:
            raw = read(layout)
            left[0] -= 1
            if left[0] == 0:
                lists(store, *read_index(store), entry(f"theirs{at}", theirs))  # noqa: B023
            return raw

        monkeypatch.setattr(names, "_index", written_after)
        await put_image(store, f"b{at}", 2)

    assert (await named(store)).keys() == {"a", "b1", "b2", "theirs1", "theirs2"}


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
