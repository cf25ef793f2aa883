"""Layers stacked and configs merged: what an image composed of others is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioruntime.assembly.compose import Source, compose_config, one_platform, stack_layers
from aioruntime.assembly.derive import derive_image
from aioruntime.errors import InvalidManifest, InvalidSpec
from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from aioruntime.oci.image_config import ImageConfig
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from tests.assembly.images import made_image

if TYPE_CHECKING:
    from aioruntime.oci.image import ResolvedImage

AMD64 = Platform("linux", "amd64")
NAME = OciRef.parse("example.org/all:1")


def source(name: str, layers: str, media_type: str = media_types.OCI_LAYER) -> Source:
    """An image whose layers have one letter each."""
    digests = [ImageDigest.of(letter.encode()) for letter in layers]
    pairs = tuple((LayerSpec(digest, 1, media_type), ImageDigest.of(digest.encode())) for digest in digests)
    return Source(name, pairs)


def stacked(*images: str) -> tuple[str, int, int]:
    """The letters of the composed image from the base up, how many are agreed on, how many shared."""
    stack = stack_layers([source(f"image {number}", layers) for number, layers in enumerate(images)])
    letters = {ImageDigest.of(letter.encode()): letter for letter in "".join(images)}
    return "".join(letters[layer.digest] for layer, _ in stack.layers), stack.agreed, stack.shared


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (("abc",), ("abc", 3, 0)),
        (("abc", "abd"), ("abcd", 2, 2)),
        (("abc", "abc"), ("abc", 3, 3)),
        (("ab", "c"), ("abc", 0, 0)),
        (("abx", "acx"), ("abxc", 1, 2)),
        (("ab", "abc"), ("abc", 2, 2)),
        (("abc", "ab", "d"), ("abcd", 0, 2)),
        (("aba",), ("ab", 0, 0)),
    ],
)
def test_layers_are_stacked(images: tuple[str, ...], expected: tuple[str, int, int]) -> None:
    """Each layer comes once, where it came first; what all begin with, in one order, is agreed on."""
    assert stacked(*images) == expected


@given(st.lists(st.text("abcdef", min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_layers_are_stacked(images: list[str]) -> None:
    """Whatever the images: all their layers once, the first image whole at the bottom."""
    letters, agreed, _ = stacked(*images)

    assert letters == "".join(dict.fromkeys("".join(images)))
    assert letters.startswith("".join(dict.fromkeys(images[0])))
    assert all(image.startswith(letters[:agreed]) or len(set(image)) < len(image) for image in images)


def test_two_diff_ids_of_one_layer() -> None:
    """Images that tell different contents of one layer are refused: one of them lies."""
    honest, liar = source("honest", "a"), source("liar", "a")
    liar = Source("liar", ((liar.layers[0][0], ImageDigest.of(b"other")),))

    with pytest.raises(InvalidManifest, match=r"liar says that layer .* honest says"):
        stack_layers([honest, liar])


@pytest.mark.parametrize(
    ("docker", "oci"),
    [
        ("application/vnd.docker.image.rootfs.diff.tar", "tar"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "tar+gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", "tar+zstd"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "tar+gzip"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "tar+zstd"),
    ],
)
def test_the_manifest_has_media_types_of_oci_alone(docker: str, oci: str) -> None:
    """Layers of Docker's and OCI's media types together make an OCI manifest that is valid."""
    layer = LayerSpec(ImageDigest.of(b"x"), 1, docker, "https://example.org/x")
    stack = stack_layers([source("oci", "a"), Source.layer(layer, ImageDigest.of(b"y"))])
    image = derive_image(NAME, compose_config([], AMD64, None), stack.layers)

    assert image.manifest.media_type == media_types.OCI_MANIFEST
    assert image.layers[1].media_type == f"application/vnd.oci.image.layer.v1.{oci}"


def test_a_layer_that_is_none() -> None:
    """Something else than a file-system layer is refused."""
    layer = LayerSpec(ImageDigest.of(b"x"), 1, "application/wasm")

    with pytest.raises(InvalidSpec, match="'application/wasm', not a file-system layer"):
        Source.layer(layer, ImageDigest.of(b"y"))


def image_with(config: dict[str, Any] | None, **top: Any) -> ResolvedImage:
    image = made_image([b"layer"])
    document = {**json.loads(image.raw_config), **top, **({} if config is None else {"config": config})}
    return replace(image, raw_config=json.dumps(document).encode())


CONFIGS: dict[str, tuple[list[dict[str, Any] | None], ImageConfig | None, dict[str, Any]]] = {
    "nothing": ([None, {}], None, {}),
    "a later image wins": (
        [{"User": "a", "WorkingDir": "/a", "StopSignal": "TERM"}, {"User": "b", "WorkingDir": ""}],
        None,
        {"User": "b", "WorkingDir": "/a", "StopSignal": "TERM"},
    ),
    "variables by name": (
        [{"Env": ["PATH=/a", "X=1=1"]}, {"Env": ["Y=", "PATH=/b"]}],
        ImageConfig(env={"Y": "2", "Z": "="}),
        {"Env": ["PATH=/b", "X=1=1", "Y=2", "Z=="]},
    ),
    "labels, ports and volumes by key": (
        [
            {"Labels": {"a": "1", "b": "1"}, "ExposedPorts": {"1/tcp": {}}, "Volumes": {"/a": {}}},
            {"Labels": {"b": "2"}, "ExposedPorts": {"2/tcp": {}}, "Volumes": None},
        ],
        ImageConfig(labels={"c": "3"}),
        {
            "Labels": {"a": "1", "b": "2", "c": "3"},
            "ExposedPorts": {"1/tcp": {}, "2/tcp": {}},
            "Volumes": {"/a": {}},
        },
    ),
    "a health check is whole": (
        [{"Healthcheck": {"Test": ["a"], "Retries": 3}}, {"Healthcheck": {"Test": ["b"]}}],
        None,
        {"Healthcheck": {"Test": ["b"]}},
    ),
    "a command goes with its entry point": (
        [{"Entrypoint": ["a"], "Cmd": ["-a"]}, {"Cmd": ["b"]}],
        None,
        {"Cmd": ["b"]},
    ),
    "an entry point that is given": (
        [{"Entrypoint": ["a"], "Cmd": ["-a"]}],
        ImageConfig(entrypoint=["b"]),
        {"Entrypoint": ["b"]},
    ),
    "no entry point": ([{"Entrypoint": ["a"], "Cmd": ["-a"]}], ImageConfig(entrypoint=[]), {}),
    "a command that is given": (
        [{"Entrypoint": ["a"], "Cmd": ["-a"]}],
        ImageConfig(command=["-b"]),
        {"Entrypoint": ["a"], "Cmd": ["-b"]},
    ),
    "no command": (
        [{"Entrypoint": ["a"], "Cmd": ["-a"]}],
        ImageConfig(command=[]),
        {"Entrypoint": ["a"]},
    ),
    "the rest that is given": (
        [{"User": "a", "WorkingDir": "/a"}],
        ImageConfig(user="1:1", working_dir="/b", entrypoint=["x"], command=["y"]),
        {"User": "1:1", "WorkingDir": "/b", "Entrypoint": ["x"], "Cmd": ["y"]},
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_are_merged(case: str) -> None:
    """What is given wins over what a later image has, that over an earlier one; empty members say nothing."""
    configs, given, expected = CONFIGS[case]

    found = compose_config([image_with(config) for config in configs], AMD64, given)

    assert found == {"os": "linux", "architecture": "amd64", "config": expected}


def test_a_config_tells_no_time() -> None:
    """When and how the images were made is left out, so that the digest depends on what they hold."""
    told = {"created": "2024-01-01T00:00:00Z", "history": [{}], "container": "x", "author": "me"}

    assert compose_config([image_with({}, **told)], AMD64, None) == compose_config([], AMD64, None)


def test_a_platform_is_kept() -> None:
    """What machine the images are for is what the composed one is for."""
    image = image_with({}, **{"architecture": "arm64", "variant": "v8", "os.version": "1"})

    found = compose_config([image], Platform("linux", "arm64", "v8"), None)

    assert found == {
        "os": "linux",
        "architecture": "arm64",
        "variant": "v8",
        "os.version": "1",
        "config": {},
    }


def test_one_platform() -> None:
    """Images for one platform go together, its variant told or not; others are refused, both named."""
    arm, other = made_image([b"1"], architecture="arm64"), made_image([b"2"], architecture="s390x")

    assert one_platform([], AMD64) == AMD64
    assert one_platform([("a", arm), ("b", arm)], AMD64) == Platform("linux", "arm64", "v8")
    with pytest.raises(InvalidSpec, match="a is made for linux/arm64/v8, b for linux/s390x"):
        one_platform([("a", arm), ("b", other)], AMD64)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"entrypoint": "sh -c"}, "entrypoint is one string"),
        ({"command": ["a\0"]}, "not text without NUL"),
        ({"env": {"A=": "1"}}, "env name 'A=' is not valid"),
        ({"labels": {"": "1"}}, "label ''='1'"),
        ({"labels": {"a": "\udcff"}}, "not text"),
        ({"working_dir": "relative"}, "not an absolute path"),
        ({"user": ""}, "user is empty"),
    ],
)
def test_a_config_that_is_wrong(wrong: dict[str, Any], message: str) -> None:
    """What no container could be started with is refused when it is made."""
    with pytest.raises(InvalidSpec, match=message):
        ImageConfig(**wrong)
