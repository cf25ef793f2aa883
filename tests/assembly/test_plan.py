"""What is left out of a load: pure rules over what is wanted and what an engine holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from aioruntime.assembly.plan import (
    HeldImage,
    LoadPlan,
    choose_donors,
    inflated_for,
    merge_groups,
    plan_load,
    pulls_from_here,
)
from aioruntime.engine.capabilities import describe
from aioruntime.oci.digest import ImageDigest
from tests.engine import documents

if TYPE_CHECKING:
    from aioruntime.assembly.plan import Layering
    from aioruntime.engine.capabilities import EngineCapabilities, ImageStoreKind
    from aioruntime.oci.media_types import Compression

ANY_LAYER: tuple[ImageStoreKind, ...] = ("containerd", "containers-storage")


def digest(name: str) -> ImageDigest:
    return ImageDigest.of(name.encode())


def held(layers: str, diffs: str | None = None) -> HeldImage:
    """An image with a layer for each letter; *diffs* are the letters whose diff IDs its config claims."""
    blobs = tuple(digest(f"blob {letter}") for letter in layers)
    diff_ids = tuple(digest(f"diff {letter}") for letter in diffs or layers)
    return HeldImage(digest(f"id {layers} {diffs}"), (digest(f"manifest {layers}"),), blobs, diff_ids)


def engine(store: ImageStoreKind, max_layers: int | None = None) -> EngineCapabilities:
    document = {
        "graph": documents.DOCKER_20,
        "containerd": documents.DOCKER_26_CONTAINERD,
        "containers-storage": documents.PODMAN_4,
    }[store]
    return replace(describe(*document), max_layers=max_layers)


def omitted(image: HeldImage, donors: list[HeldImage], store: ImageStoreKind) -> str:
    found = plan_load(image, donors, engine(store)).omit
    return "".join(letter for letter in "abcdefgh" if digest(f"blob {letter}") in found)


@pytest.mark.parametrize(
    ("wanted", "donors", "expected"),
    [
        ("abc", [], ""),
        ("abc", ["abc"], "abc"),
        ("abcd", ["abx"], "ab"),
        ("abcd", ["abx", "abcx", "axx"], "abc"),
        ("ab", ["abcd"], "ab"),
        ("abc", ["xbc"], ""),
        ("abc", ["bc"], ""),
        ("aab", ["aax"], "a"),
        ("aba", ["abx"], "b"),
        ("aba", ["aba"], "ab"),
    ],
)
def test_a_graph_driver_is_spared_a_prefix(wanted: str, donors: list[str], expected: str) -> None:
    """With graph drivers only the longest common beginning is left out, and nothing needed again above it."""
    assert omitted(held(wanted), [held(name) for name in donors], "graph") == expected


def test_a_claimed_diff_id_is_not_believed() -> None:
    """A config that names the diff ID of a layer the engine holds, with another blob, is sent in full."""
    secret = held("abc")
    thief = held("xyz", diffs="abc")

    assert choose_donors(thief, [secret], "prefix") == []
    assert omitted(thief, [secret], "graph") == ""
    assert plan_load(thief, [secret], engine("graph")) == LoadPlan()


def test_a_blob_with_another_diff_id_is_sent() -> None:
    """The same blobs under other diff IDs are sent, so that the engine finds the contradiction itself."""
    assert omitted(held("abc", diffs="axc"), [held("abc")], "graph") == "a"


@pytest.mark.parametrize("store", ANY_LAYER)
@pytest.mark.parametrize(
    ("wanted", "donors", "expected"),
    [
        ("abc", [], ""),
        ("abc", ["xcx"], "c"),
        ("abcd", ["da", "xb"], "abd"),
        ("abc", ["xyz"], ""),
        ("aa", ["a"], "a"),
    ],
)
def test_other_stores_are_spared_any_layer(
    wanted: str, donors: list[str], expected: str, store: ImageStoreKind
) -> None:
    """Podman and containerd are spared every layer they hold, wherever it lies."""
    assert omitted(held(wanted), [held(name) for name in donors], store) == expected


def test_a_claim_alone_is_not_a_layer() -> None:
    """A layer counts as held by its blob's digest, never by the diff ID that a config claims for it."""
    assert choose_donors(held("xyz", diffs="abc"), [held("abc")], "any") == []


def test_graph_donors_come_longest_first() -> None:
    """Of the images that share a beginning, the one with the longest comes first; others not at all."""
    one, two, three, none = held("axx"), held("abx"), held("abcx"), held("xbc")

    assert choose_donors(held("abcd"), [one, none, three, two], "prefix") == [three, two, one]


def test_donors_are_few() -> None:
    """The engine is asked only for images that add a layer, the most useful first."""
    big, small, same, foreign = held("abc"), held("cd"), held("ab"), held("xyz")

    assert choose_donors(held("abcd"), [same, foreign, small, big], "any") == [big, small]
    assert choose_donors(held("abcd"), [], "any") == []


@pytest.mark.parametrize("store", ["graph", *ANY_LAYER])
@pytest.mark.parametrize(
    ("layers", "donors", "limit", "layering", "prefix", "any_layer"),
    [
        # What is left out, then the position from which on layers are merged.
        ("abcde", [], None, "keep", "", ""),
        ("abcde", [], None, "merge", "|1", "|1"),
        ("abcde", [], 4, "keep", "|3", "|3"),
        ("abcde", [], 4, "merge", "|1", "|1"),
        ("abcde", ["ab"], None, "keep", "ab", "ab"),
        ("abcde", ["ab"], None, "merge", "ab|2", "ab|2"),
        ("abcde", ["ab"], 4, "keep", "ab|3", "ab|3"),
        ("abcde", ["ab"], 4, "merge", "ab|2", "ab|2"),
        ("abcde", ["xb"], None, "keep", "", "b"),
        ("abcde", ["xb"], None, "merge", "|1", "|1"),
        ("abcde", ["xb"], 4, "keep", "|3", "b|3"),
        ("abcde", ["xb"], 4, "merge", "|1", "|1"),
        ("abcde", ["abcde"], None, "keep", "abcde", "abcde"),
        ("abcde", ["abcde"], None, "merge", "abcde", "abcde"),
        ("abcde", ["abcde"], 4, "keep", "abc|3", "abc|3"),
        ("abcde", ["abcde"], 4, "merge", "abc|3", "abc|3"),
        ("abcde", ["xyabc", "abx"], None, "keep", "ab", "abc"),
        ("abcde", ["xyabc", "abx"], None, "merge", "ab|2", "ab|2"),
        ("abcde", ["xyabc", "abx"], 4, "keep", "ab|3", "abc|3"),
        ("abcde", ["xyabc", "abx"], 4, "merge", "ab|2", "ab|2"),
        ("abcde", ["ab"], 5, "keep", "ab", "ab"),
        ("ab", [], None, "merge", "", ""),
        ("abc", ["ab"], None, "merge", "ab", "ab"),
    ],
)
def test_what_is_sent_and_merged(
    layers: str,
    donors: list[str],
    limit: int | None,
    layering: Layering,
    prefix: str,
    any_layer: str,
    store: ImageStoreKind,
) -> None:
    """Each layering, with and without a limit of depth, beside each kind of holding, on each image store."""
    plan = plan_load(held(layers), [held(name) for name in donors], engine(store, limit), layering)

    left_out = "".join(letter for letter in layers if digest(f"blob {letter}") in plan.omit)
    merged = "" if plan.merge_from is None else f"|{plan.merge_from}"
    assert left_out + merged == (prefix if store == "graph" else any_layer)


MANY, FEW = 40 << 20, 1 << 20


@pytest.mark.parametrize(
    ("store", "local", "zstd", "size", "pulls", "inflated"),
    [
        ("graph", True, False, FEW, False, {"zstd"}),
        ("graph", True, True, FEW, False, set()),
        ("graph", True, False, MANY, False, {"gzip", "zstd"}),
        ("graph", True, True, MANY, False, {"gzip", "zstd"}),
        ("graph", False, False, MANY, False, {"zstd"}),
        ("graph", False, True, MANY, False, set()),
        ("containerd", True, True, MANY, True, set()),
        ("containerd", False, True, MANY, False, set()),
        ("containers-storage", True, True, MANY, True, set()),
        ("containers-storage", False, True, MANY, False, set()),
    ],
)
def test_by_which_way(
    store: ImageStoreKind, local: bool, zstd: bool, size: int, pulls: bool, inflated: set[Compression]
) -> None:
    """Who takes any layer and is on this machine pulls from here; a local graph driver gets much inflated."""
    found = replace(engine(store), local=local, reads_zstd=zstd)

    assert pulls_from_here(found, held("abc").layers) is pulls
    assert inflated_for(found, size) == inflated


@pytest.mark.parametrize(("store", "pulls"), [("containerd", False), ("containers-storage", True)])
def test_containerd_does_not_pull_a_layer_twice(store: ImageStoreKind, pulls: bool) -> None:
    """An image that names a layer again goes to containerd as an archive; others are not held up by it."""
    assert pulls_from_here(replace(engine(store), local=True), held("aba").layers) is pulls


@pytest.mark.parametrize(
    ("sizes", "first", "limit", "expected"),
    [
        ([1] * 9, 1, None, ["1-2", "3-4", "5-6", "7-8"]),
        ([9, 100, 1, 1, 1], 1, None, ["1-1", "2-2", "3-3", "4-4"]),
        ([9, 1, 1, 1, 100], 1, None, ["1-4"]),
        ([0, 0, 0], 1, None, ["1-1", "2-2"]),
        ([1] * 9, 7, 8, ["7-8"]),
        ([1] * 9, 5, 7, ["5-6", "7-8"]),
    ],
)
def test_merged_layers_are_few_and_alike(
    sizes: list[int], first: int, limit: int | None, expected: list[str]
) -> None:
    """The layers that are merged become at most four of about one size, and no more than have room."""
    groups = merge_groups(sizes, first, engine("graph", limit))

    assert [f"{group.start}-{group.stop - 1}" for group in groups] == expected
