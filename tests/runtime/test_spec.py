"""Specifications: what they refuse, what they make of their arguments."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, assert_type

import pytest

import aioruntime as ar

IMAGE = "example.org/tool:1"
MOUNT = ar.Mount(Path("/a"), PurePosixPath("/data"))
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"command": "echo hello"}, r"command is one string; .*\[\"sh\", \"-c\", 'echo hello'\]"),
    ({"command": ["a\0b"]}, r"argument 'a\\x00b' is not text without NUL"),
    ({"command": ["ok", 5]}, "argument 5 is not"),
    ({"command": [b"bytes"]}, "argument b'bytes' is not"),
    ({"command": ["ok", None]}, "argument None is not"),
    ({"env": {"": "x"}}, "env name '' is not valid"),
    ({"env": {"A=B": "x"}}, "env name 'A=B' is not valid"),
    ({"env": {"A\0": "x"}}, "env name"),
    ({"env": {1: "x"}}, "env name 1 is not valid"),
    ({"env": {"A": "x\0"}}, "env value of A is not"),
    ({"env": {"A": 5}}, "env value of A is not"),
    ({"env": {1: 2}}, "env name 1 is not valid"),
    ({"working_dir": "relative"}, "working_dir 'relative' is not an absolute path"),
    ({"working_dir": ""}, "working_dir .* is not an absolute path"),
    ({"working_dir": "/a\0b"}, "working_dir"),
    ({"user": ""}, "user is empty"),
    ({"user": "a\0b"}, "user .* is not text"),
    ({"user": 1000}, "user 1000 is not text"),
    ({"mounts": [MOUNT, ar.Mount(Path("/b"), PurePosixPath("/data"))]}, "two mounts at /data"),
]


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[str(fields) for fields, _ in FAULTS])
def test_what_can_not_be_run_is_refused(fields: dict[str, Any], message: str) -> None:
    """A value that no engine could carry out is `InvalidSpec`, telling the value, before anything starts."""
    with pytest.raises(ar.InvalidSpec, match=message):
        ar.RunSpec(IMAGE, **fields)


def test_every_fault_is_told() -> None:
    """One message names the image and all that is wrong, on one line."""
    with pytest.raises(ar.InvalidSpec) as caught:
        ar.RunSpec(
            IMAGE,
            ["a\0", "b\n\0"],
            env={"": "x", "B": "\0"},
            mounts=[MOUNT, MOUNT],
            working_dir=PurePosixPath("x"),
            user="",
        )

    message = str(caught.value)
    assert IMAGE in message
    assert [
        word for word in ("a\\x00", "b\\n", "''", "of B", "'x'", "user", "/data") if word not in message
    ] == []
    assert "\n" not in message


def test_an_image_is_parsed() -> None:
    """A string is parsed as a reference; references and `ImageRef` stay what they are."""
    ref = ar.ImageRef(IMAGE, ar.ImageDigest.of(b""))

    assert ar.RunSpec(IMAGE).image == ar.OciRef.parse(IMAGE)
    assert ar.RunSpec(ref).image is ref
    with pytest.raises(ar.InvalidReference):
        ar.RunSpec("Not A Reference")


def test_values_are_copied() -> None:
    """A specification does not change with what it was made from, nor can it be changed."""
    command, env, mounts = ["a"], {"A": "1"}, [MOUNT]
    spec = ar.RunSpec(IMAGE, command, env, mounts, working_dir="/w")
    command.append("b")
    env["B"] = "2"
    mounts.clear()

    assert (spec.command, dict(spec.env), spec.mounts) == (("a",), {"A": "1"}, (MOUNT,))
    assert spec.working_dir == PurePosixPath("/w")
    with pytest.raises(TypeError):
        spec.env["C"] = "3"  # type: ignore[index]
    with pytest.raises(AttributeError):
        spec.user = "root"  # type: ignore[misc]


def test_iterators_are_kept() -> None:
    """What an iterator yields is checked and kept, not used up by the check."""
    spec = ar.RunSpec(IMAGE, iter(["a", "b"]), mounts=iter([MOUNT]))

    assert (spec.command, spec.mounts) == (("a", "b"), (MOUNT,))
    with pytest.raises(ar.InvalidSpec, match="two mounts at /data"):
        ar.RunSpec(IMAGE, mounts=iter([MOUNT, MOUNT]))


def test_types_are_wide_going_in_and_narrow_coming_out() -> None:
    """Constructors take strings where the attributes are paths, references and digests, also for mypy."""
    mount = ar.Mount("/a", Path("/b"))
    spec = ar.RunSpec(IMAGE, ["a"], mounts=[mount], working_dir="/w")
    layer = ar.LayerSpec("sha256:" + "1" * 64, 5, "x")

    assert_type(spec.image, ar.OciRef | ar.ImageRef)
    assert_type(spec.command, tuple[str, ...])
    assert_type(spec.working_dir, PurePosixPath | None)
    assert_type(mount.host_path, PurePath)
    assert_type(mount.container_path, PurePosixPath)
    assert_type(layer.digest, ar.ImageDigest)
    kept = (spec.image, spec.working_dir, mount.host_path, mount.container_path, layer.digest)
    assert [type(value) for value in kept] == [
        ar.OciRef,
        PurePosixPath,
        type(PurePath()),
        PurePosixPath,
        ar.ImageDigest,
    ]


@pytest.mark.parametrize(
    "value",
    [
        ar.RunSpec(IMAGE, ["a"], {"A": "1"}, [MOUNT], ar.GpuProfile(ar.GpuSpec(True)), "/w", True, "1000"),
        ar.RunOutcome(1, 0.5, b"out", b"err"),
        ar.RuntimeInfo("docker", "26.1.5", {"os": "linux"}),
        ar.ImageMetadata(ar.ImageDigest.of(b""), 1, {"a": "b"}, references=(IMAGE,), platform=ar.Platform()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_can_be_sent_and_copied(value: object) -> None:
    """Specifications and answers go to another process, and are copied, unchanged."""
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    assert copy.copy(value) == value


def test_equal_specifications_are_one_key() -> None:
    """Specifications of equal values are equal and hash alike, list or tuple."""
    one = ar.RunSpec(IMAGE, ["a"], {"A": "1"})
    two = ar.RunSpec(IMAGE, ("a",), {"A": "1"})

    assert one == two
    assert len({one, two}) == 1


@pytest.mark.parametrize(
    ("host", "container", "message"),
    [
        ("data", "/data", "host_path 'data'"),
        ("", "/data", "host_path"),
        ("/data", "data", "container_path 'data'"),
        ("/a\0b", "/data", "host_path"),
        ("/data", "/a\0b", "container_path"),
        ("~/data", "/data", "host_path '~/data'"),
    ],
)
def test_a_mount_needs_absolute_paths(host: str, container: str, message: str) -> None:
    """A path that is relative or has a NUL is refused by name when the mount is made."""
    with pytest.raises(ar.InvalidSpec, match=message):
        ar.Mount(host, container)


def test_mount_paths_may_be_strings() -> None:
    """Strings become paths, so that mounts compare by what they mean."""
    assert ar.Mount("/a", "/data/") == MOUNT


@pytest.mark.parametrize("field", ["command", "env", "user"])
def test_what_is_not_utf_8_is_refused(field: str) -> None:
    """Bytes that are no UTF-8, as the file system's names may have, are refused and not changed."""
    odd = "a\udcff"
    values: dict[str, Any] = {"command": [odd], "env": {"A": odd}, "user": odd}

    with pytest.raises(ar.InvalidSpec, match="not text"):
        ar.RunSpec("tool:1", **{field: values[field]})
