"""What is left out of a load: pure rules over what is wanted and what an engine holds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from aioruntime.assembly.plan import HeldImage, LoadPlan, choose_donors, merge_groups, plan_load
from aioruntime.engine.capabilities import describe
from aioruntime.oci.digest import ImageDigest
from tests.engine import documents

if TYPE_CHECKING:
    from aioruntime.assembly.plan import Layering
    from aioruntime.engine.capabilities import EngineCapabilities, ImageStoreKind

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


@pytest.mark.parametrize(
    ("store", "layers", "donors", "limit", "layering", "expected"),
    [
        ("graph", "abcd", [], 4, "keep", ("", None)),
        ("graph", "abcde", [], 4, "keep", ("", 3)),
        ("graph", "abcde", ["ab"], 4, "keep", ("ab", 3)),
        ("graph", "abcde", ["abcde"], 4, "keep", ("abc", 3)),
        ("graph", "abcd", [], 125, "merge", ("", 1)),
        ("graph", "abcd", ["abx"], 125, "merge", ("ab", 2)),
        ("graph", "ab", [], 125, "merge", ("", None)),
        ("containerd", "abcd", ["xa"], None, "merge", ("a", 1)),
        ("containerd", "abcd", ["ab"], None, "merge", ("ab", 2)),
        ("containers-storage", "abcde", ["ab"], 4, "keep", ("ab", 3)),
        ("containers-storage", "abcde", ["ab"], None, "keep", ("ab", None)),
    ],
)
def test_what_is_merged(
    store: ImageStoreKind,
    layers: str,
    donors: list[str],
    limit: int | None,
    layering: Layering,
    expected: tuple[str, int | None],
) -> None:
    """Too many layers, or all but the shared ones when asked, become one; what is below may be left out."""
    plan = plan_load(held(layers), [held(name) for name in donors], engine(store, limit), layering)

    left_out = "".join(letter for letter in layers if digest(f"blob {letter}") in plan.omit)
    assert (left_out, plan.merge_from) == expected


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
