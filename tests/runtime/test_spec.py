"""Specifications: what they refuse, what they make of their arguments."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, assert_type

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aioruntime as ar

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = "example.org/tool:1"
MOUNT = ar.Mount(Path("/a"), PurePosixPath("/data"))
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"command": "echo hello"}, r"command is one string; .*\[\"sh\", \"-c\", 'echo hello'\]"),
    ({"command": ["a\0b"]}, r"argument 'a\\x00b' is not text without NUL"),
    ({"command": ["ok", 5]}, "argument 5 is not"),
    ({"command": [b"bytes"]}, "argument b'bytes' is not"),
    ({"command": ["ok", None]}, "argument None is not"),
    ({"command": 5}, r"command 5 is not a list; give such as \[5\]"),
    ({"command": None}, "command None is not a list; give one"),
    ({"env": ["A=secret"]}, "env is not a mapping but list; give such as {'NAME': 'value'}$"),
    ({"env": 5}, "env is not a mapping but int"),
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
    ({"mounts": [MOUNT, ar.TmpfsMount("/data/")]}, "two mounts at /data"),
    ({"mounts": MOUNT}, r"mounts Mount\(.* is not a list; give such as \[Mount"),
    ({"working_dir": 5}, "working_dir 5 is not an absolute path"),
    ({"gpu": "all"}, r"gpu 'all' is not a GPU; give GpuSpec\(required=True\), or None"),
    ({"image": None}, "image None is not an image; give its reference or digest as text"),
    ({"image": 5, "user": ""}, "can't run 5: image 5 is not an image; .*; user is empty"),
    ({"image": ar.ImageDigest.of(b""), "pull": "always"}, "pull always: a digest alone names no repository"),
    ({"image": str(ar.ImageDigest.of(b"")), "pull": "missing"}, "pull missing: a digest alone"),
    ({"mounts": ["/a:/b"]}, "mounts: '/a:/b' is none; give Mount, "),
    ({"name": "a"}, "name 'a' is not a container's name"),
    ({"name": "a b"}, "name 'a b' is not"),
    ({"entrypoint": ["a\0"]}, r"argument 'a\\x00' is not text"),
    ({"hostname": "a_b"}, "hostname 'a_b' is not a host name"),
    ({"hostname": "a" * 64}, "hostname 'a+' is not a host name of at most 63"),
    ({"labels": {"aioruntime.owner": "x"}}, "label 'aioruntime.owner' is reserved; choose a name"),
    ({"labels": {"": "x"}}, "label ''='x' is not"),
    ({"labels": {"a": 1}}, "label 'a'=1 is not"),
    ({"ports": ["8000-8010:80"]}, "port '8000-8010:80': expected host:container"),
    ({"ports": ["0:80"]}, "port: host_port 0 is not from 1 to 65535"),
    ({"ports": [70000]}, "port: container_port 70000 is not"),
    ({"ports": ["80/icmp"]}, "port: protocol 'icmp' is not"),
    ({"ports": ["x:1:2"]}, "port: host_ip 'x' is not an IP address"),
    ({"ports": "80"}, r"ports '80' is not a list; give such as \['80'\]"),
    ({"ports": [None]}, "ports: None is not a Port"),
    ({"ports": ["80:80", "80:81"]}, "two ports at the machine's 80/tcp"),
    ({"ports": ["0.0.0.0:80:80", "127.0.0.2:80:81"]}, "two ports at the machine's 80/tcp"),
    ({"ports": ["127.0.0.2:80:81", "0.0.0.0:80:80"]}, "two ports at the machine's 80/tcp"),
    ({"ports": [80], "networks": ["none"]}, "ports can't be published from network none; leave out"),
    ({"ports": [80], "networks": ["host"]}, "ports can't be published from network host"),
    ({"networks": ["host", "a"]}, "network host can't be joined with others"),
    ({"networks": ["a", "a"]}, "networks: twice a"),
    ({"networks": ["container:x"]}, "network 'container:x' is not a network's name"),
    ({"networks": [ar.NetworkAttachment("host", ["x"])]}, "network host knows no aliases"),
    ({"networks": [ar.NetworkAttachment("bridge", ["x"])]}, "network bridge knows no aliases"),
    ({"networks": ["host"], "sysctls": {"net.a": "1"}}, "sysctl net.a would change the machine's own"),
    ({"dns": ["localhost"]}, "dns: 'localhost' is not an IP address"),
    ({"dns": ["fe80::1%x\nnameserver 6.6.6.6"]}, "dns: 'fe80::1%x.* is not an IP address"),
    ({"dns": ["fe80::1%"]}, "dns: 'fe80::1%' is not an IP address"),
    ({"dns": "9.9.9.9"}, r"dns '9.9.9.9' is not a list; give such as"),
    ({"extra_hosts": {"a b": "::1"}}, "extra_hosts: 'a b' is not a host name"),
    ({"extra_hosts": {"a": "b"}}, "extra_hosts: 'b' is not an IP address"),
    ({"memory": 0}, "memory 0 is not a size above 0; give bytes, or such as '512m'"),
    ({"memory": "lots"}, "memory 'lots' is not a size"),
    ({"memory": True}, "memory True is not a size"),
    ({"memory_swap": "1g"}, "memory_swap is memory and swap together: it needs memory too"),
    ({"memory": "2g", "memory_swap": "1g"}, "memory_swap 1073741824 .* can't be less than memory 2147483648"),
    ({"memory": "2g", "memory_swap": -2}, "memory_swap -2 is not a size"),
    ({"cpus": 0}, "cpus 0 is not a number of processors"),
    ({"cpus": float("nan")}, "cpus nan is not"),
    ({"cpuset": "a"}, "cpuset 'a' is not a list of processors"),
    ({"cpuset": "3-1"}, "cpuset '3-1' is not a list of processors"),
    ({"cpuset": "9" * 5000}, "cpuset '9+…9+' is not a list"),
    ({"cpus": 10**400}, "cpus 10+…0+ is not"),
    ({"pids_limit": 0}, "pids_limit 0 is not a count"),
    ({"ulimits": ["files=1"]}, "ulimit 'files' is not known; give one of core, cpu"),
    ({"ulimits": ["nofile"]}, "ulimit 'nofile': expected name=soft:hard"),
    ({"ulimits": ["nofile=2:1"]}, "ulimit nofile: its soft limit 2 is more than its hard 1"),
    ({"ulimits": ["nofile=-1:1"]}, "ulimit nofile: its soft limit -1 is more"),
    ({"ulimits": ["core=1", "core=2"]}, "ulimits: two for core"),
    ({"shm_size": "-1"}, "shm_size '-1' is not a size"),
    ({"read_only": 1}, "read_only 1 is not True or False"),
    ({"cap_add": ["no cap"]}, "cap_add: 'no cap' is not a capability"),
    ({"cap_add": ["cap_net_raw"], "cap_drop": ["NET_RAW"]}, "NET_RAW is both added and dropped"),
    ({"security_opt": ["privileged"]}, "security_opt: 'privileged' is not no-new-privileges"),
    ({"devices": 5}, "devices 5 is not a list"),
    ({"devices": ["fuse"]}, "device: path 'fuse' is not an absolute path"),
    ({"devices": ["/dev/a:/dev/b:/dev/c"]}, "device '/dev/a:/dev/b:/dev/c': expected path:container_path"),
    ({"devices": ["/dev/a:x"]}, "device /dev/a: permissions 'x' are none"),
    ({"devices": ["/dev/a:/dev/x", "/dev/b:/dev/x"]}, "devices: two at /dev/x"),
    ({"sysctls": {"a b": "1"}}, "sysctls: 'a b' is not a name"),
    ({"sysctls": {"net.a": 1}}, "sysctls: the value of net.a is 1; give text"),
    ({"stop_signal": "SIGFOO"}, "signal 'SIGFOO' is not one of Linux"),
    ({"stop_signal": 0}, "signal 0 is not one"),
    ({"stop_timeout": -1}, "stop_timeout -1 is not a whole number of seconds"),
    ({"stop_timeout": 0.5}, "stop_timeout 0.5 is not"),
    ({"stdin": "text"}, "stdin is a str, not True, False or the bytes"),
    ({"health_check": "true"}, "health_check 'true' is not a HealthCheck"),
    ({"restart": "sometimes"}, "restart 'sometimes' is not one of no, always"),
    ({"restart": "always:3"}, "restart always does not count"),
    ({"restart": "on-failure:x"}, "restart 'on-failure:x': expected a count"),
    ({"restart": "always", "timeout": 5}, "restart always and timeout"),
    ({"restart": "always", "stdin": b"x"}, "restart always and stdin"),
    ({"tty": True, "stdin": b"x"}, "stdin: a terminal's input has no end"),
    ({"platform": "linux"}, "not a platform: 'linux'"),
    ({"pull": "sometimes"}, "pull 'sometimes' is not 'never', 'missing' or 'always'"),
    ({"timeout": 0}, "timeout 0 is not a number of seconds above 0"),
    ({"timeout": float("inf")}, "timeout inf is not"),
]
EVERYTHING: dict[str, Any] = {
    "name": "tool",
    "entrypoint": "/bin/sh",
    "hostname": "box.example.org",
    "labels": {"a": "b"},
    "ports": [80, "8080:80", "80:80/udp", ar.Port(80, 80, host_ip="::1"), "127.0.0.1:80:80"],
    "networks": ["front", ar.NetworkAttachment("back", "db")],
    "dns": ["9.9.9.9"],
    "extra_hosts": {"db": "10.0.0.1", "machine": "host-gateway"},
    "memory": "512m",
    "memory_swap": "1g",
    "cpus": 1.5,
    "cpuset": "0-1,3",
    "pids_limit": -1,
    "ulimits": ["nofile=1:2", ar.Ulimit("core", -1)],
    "shm_size": 1 << 20,
    "read_only": True,
    "cap_add": ["NET_ADMIN"],
    "cap_drop": ["all"],
    "security_opt": ["no-new-privileges", 'seccomp={\n"defaultAction": "SCMP_ACT_ALLOW"}'],
    "devices": ["/dev/fuse", "/dev/a:/dev/b", "/dev/c:r"],
    "sysctls": {"net.core.somaxconn": "99"},
    "init": True,
    "stop_signal": 2,
    "stop_timeout": 0,
    "stdin": b"secret",
    "tty": False,
    "health_check": ar.HealthCheck("true", interval=1),
    "restart": "no",
    "platform": "linux/arm64",
    "pull": "missing",
    "timeout": 5,
}


@pytest.mark.parametrize(("fields", "message"), FAULTS, ids=[str(fields) for fields, _ in FAULTS])
def test_what_can_not_be_run_is_refused(fields: dict[str, Any], message: str) -> None:
    """A value that no engine could carry out is `InvalidSpec`, telling the value, before anything starts."""
    with pytest.raises(ar.InvalidSpec, match=message):
        ar.RunSpec(**{"image": IMAGE, **fields})


JUNK: list[Any] = [5, 1.5, float("nan"), True, "x", b"x", "a\udcff", [], [5], [None], [[]], {}, {1: 2}]


@pytest.mark.parametrize("value", [*JUNK, None, MOUNT, ar.RunSpec, object()], ids=repr)
@pytest.mark.parametrize("field", list(ar.RunSpec.__dataclass_fields__))
def test_any_value_is_kept_or_refused(field: str, value: Any) -> None:
    """Whatever a field is given: it is taken, or refused by an error of ours."""
    with suppress(ar.InvalidSpec, ar.InvalidReference):
        ar.RunSpec(**{"image": IMAGE, field: value})


def test_a_gpu_may_be_given_by_what_is_asked_of_it() -> None:
    """A `GpuSpec` stands for its profile, and None for no GPU."""
    asked = ar.GpuSpec(required=True)

    assert ar.RunSpec(IMAGE, gpu=asked) == ar.RunSpec(IMAGE, gpu=ar.GpuProfile(asked))
    assert ar.RunSpec(IMAGE, gpu=None).gpu == ar.GpuProfile()


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
    """A string is parsed as a reference or a digest; references and `ImageRef` stay what they are."""
    ref = ar.ImageRef(IMAGE, ar.ImageDigest.of(b""))

    assert ar.RunSpec(IMAGE).image == ar.OciRef.parse(IMAGE)
    assert ar.RunSpec(ref).image is ref
    for digest in (ref.digest, str(ref.digest)):
        assert ar.RunSpec(digest).image == ref.digest
        assert type(ar.RunSpec(digest).image) is ar.ImageDigest
    for wrong in ("Not A Reference", "sha256:abc"):
        with pytest.raises(ar.InvalidReference):
            ar.RunSpec(wrong)


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

    assert_type(spec.image, ar.OciRef | ar.ImageRef | ar.ImageDigest)
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


def test_everything_is_kept_as_it_is_said() -> None:
    """Each field becomes what its attribute promises; texts are parsed, sizes are bytes, lists are tuples."""
    spec = ar.RunSpec(IMAGE, **EVERYTHING)

    kept = {name: getattr(spec, name) for name in EVERYTHING}
    assert kept == EVERYTHING | {
        "entrypoint": ("/bin/sh",),
        "ports": (
            ar.Port(80),
            ar.Port(80, 8080),
            ar.Port(80, 80, "udp"),
            ar.Port(80, 80, "tcp", "::1"),
            ar.Port(80, 80, "tcp", "127.0.0.1"),
        ),
        "networks": (ar.NetworkAttachment("front"), ar.NetworkAttachment("back", ("db",))),
        "dns": ("9.9.9.9",),
        "memory": 512 << 20,
        "memory_swap": 1 << 30,
        "ulimits": (ar.Ulimit("nofile", 1, 2), ar.Ulimit("core", -1, -1)),
        "cap_add": ("NET_ADMIN",),
        "cap_drop": ("all",),
        "security_opt": tuple(EVERYTHING["security_opt"]),
        "devices": (ar.Device("/dev/fuse"), ar.Device("/dev/a", "/dev/b"), ar.Device("/dev/c", None, "r")),
        "stop_signal": "SIGINT",
        "restart": ar.RestartPolicy("no"),
        "platform": ar.Platform("linux", "arm64"),
    }
    assert set(EVERYTHING) == {name for name, each in spec.__dataclass_fields__.items() if each.kw_only}
    assert hash(spec) == hash(ar.RunSpec(IMAGE, **EVERYTHING))
    assert "secret" not in repr(spec)


def test_every_fault_of_every_field_is_told() -> None:
    """The faults of several fields come in one message, with those of fields together."""
    wrong: dict[str, Any] = {
        "ports": ["a", "b"],
        "memory": "x",
        "memory_swap": "1g",
        "dns": ["y"],
        "stop_signal": "z",
    }

    with pytest.raises(ar.InvalidSpec) as caught:
        ar.RunSpec(IMAGE, mounts=[MOUNT, MOUNT], networks=["host", "c"], **wrong)

    told = str(caught.value).split("; ")
    for part in ("port 'a'", "port 'b'", "memory 'x'", "'y' is not an IP", "'z'", "/data", "with others"):
        assert [fault for fault in told if part in fault], part
    assert not [fault for fault in told if "it needs memory too" in fault]


@pytest.mark.parametrize("field", [*EVERYTHING, "mounts", "command", "env"])
def test_none_is_no_list(field: str) -> None:
    """None stands for what is not said where a value is one, and is refused where it is several."""
    values: dict[str, Any] = {field: None}
    if ar.RunSpec.__dataclass_fields__[field].default is None:
        assert getattr(ar.RunSpec(IMAGE, **values), field) is None
    else:
        with pytest.raises(ar.InvalidSpec):
            ar.RunSpec(IMAGE, **values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", ar.Port(80)),
        ("80/udp", ar.Port(80, None, "udp")),
        ("8080:80", ar.Port(80, 8080)),
        (":80", ar.Port(80)),
        ("0.0.0.0:8080:80/sctp", ar.Port(80, 8080, "sctp", "0.0.0.0")),
        ("127.0.0.2::80", ar.Port(80, None, "tcp", "127.0.0.2")),
        ("[::1]:8080:80", ar.Port(80, 8080, "tcp", "::1")),
        ("[::]::80", ar.Port(80, None, "tcp", "::")),
    ],
)
def test_ports_are_read_as_on_the_command_line(text: str, expected: ar.Port) -> None:
    """A port's text is read as ``docker run -p`` does, but opened to this machine alone; it prints back."""
    assert ar.Port.parse(text) == expected
    assert ar.Port.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (5, 5),
        ("5", 5),
        ("5b", 5),
        ("1k", 1024),
        ("1K", 1024),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("1.5g", 3 << 29),
        ("2 m", 2 << 20),
        ("1t", 1 << 40),
        ("1p", 1 << 50),
    ],
)
def test_sizes_are_read_as_on_the_command_line(text: str | int, expected: int) -> None:
    """A size's text is read as ``docker run --memory`` reads it: units are powers of 1024."""
    assert ar.RunSpec(IMAGE, memory=text).memory == expected


@pytest.mark.parametrize("text", ["", "m", "1x", "1ki", "-1", "1e3", "1 ", "0x10", "9" * 30, "0.1", "1,5g"])
def test_what_is_no_size(text: str) -> None:
    """Other text is no size, nor is what comes to nothing or is more than an engine can count."""
    with pytest.raises(ar.InvalidSpec, match="is not a size above 0"):
        ar.RunSpec(IMAGE, memory=text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test": []}, "test is empty"),
        ({"test": ["CMD"]}, "test is empty"),
        ({"test": ["a\0"]}, "is not text"),
        ({"test": None}, "test None is not a list"),
        ({"test": "a", "interval": 0}, "interval 0 is not a number of seconds"),
        ({"test": "a", "timeout": "5s"}, "timeout '5s' is not"),
        ({"test": "a", "retries": 0}, "retries 0 is not a count"),
        ({"test": "a", "start_period": -1}, "start_period -1 is not"),
        ({"test": [], "retries": 0}, "test is empty; retries"),
    ],
)
def test_a_health_check_that_can_not_be(values: dict[str, Any], message: str) -> None:
    """A check is refused by the field, telling every fault, when it is made."""
    with pytest.raises(ar.InvalidSpec, match=f"health_check: .*{message}"):
        ar.HealthCheck(**values)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ar.VolumeMount("/data", "/a"),
        lambda: ar.VolumeMount("", "/a"),
        lambda: ar.VolumeMount("a", "b"),
        lambda: ar.TmpfsMount("a"),
        lambda: ar.TmpfsMount("/a", size=0),
        lambda: ar.TmpfsMount("/a", mode=0o10000),
        lambda: ar.ImageMount("Not An Image", "/a"),
        lambda: ar.ImageMount("image", "a"),
        lambda: ar.NetworkAttachment("a", ["b c"]),
        lambda: ar.NetworkAttachment("a", 5),  # type: ignore[arg-type]
        lambda: ar.Mount(5, "/a"),  # type: ignore[arg-type]
        lambda: ar.Mount("/a", b"/b"),  # type: ignore[arg-type]
        lambda: ar.Mount("/a", "/b\udcff"),
        lambda: ar.Mount("/a", "/b", "ro"),  # type: ignore[arg-type]
        lambda: ar.VolumeMount("a", "/b", "ro"),  # type: ignore[arg-type]
        lambda: ar.Mount("/tmp", "/"),
        lambda: ar.Mount("/tmp", "/a/.."),
        lambda: ar.VolumeMount("a", "//"),
        lambda: ar.TmpfsMount("/"),
        lambda: ar.ImageMount("image", "/"),
        lambda: ar.ImageMount(5, "/a"),  # type: ignore[arg-type]
    ],
)
def test_other_values_are_checked_when_they_are_made(make: Callable[[], object]) -> None:
    """Mounts and networks that can't be are refused at once."""
    with pytest.raises(ar.InvalidSpec, match=r"mount: |network "):
        make()


def test_a_device_or_port_of_another_kind() -> None:
    """A path or address that is no text is refused by name."""
    wrong: Any = 5
    with pytest.raises(ar.InvalidSpec, match="device: path 5 is not an absolute path"):
        ar.Device(wrong)
    with pytest.raises(ar.InvalidSpec, match="port: host_ip 5 is not an IP address"):
        ar.Port(80, host_ip=wrong)


@given(
    text=st.text("0123456789:/.[]-=+kmgibnofile tcpudSIG/deva٣\0", max_size=30)
    | st.integers(0).map(str)
    | st.just("9" * 5000),
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever text stands for a port, limit, device, signal or size: it is read, or `InvalidSpec`."""
    fields: dict[str, Any] = {name: [text] for name in ("ports", "ulimits", "devices", "networks")}
    singles = ("memory", "restart", "stop_signal", "platform", "cpuset", "hostname", "name")
    fields |= dict.fromkeys(singles, text)
    for name, value in fields.items():
        with suppress(ar.InvalidSpec):
            ar.RunSpec(IMAGE, **{name: value})


def test_a_run_that_took_too_long_is_a_timeout() -> None:
    """`RunTimeout` is caught as Python's own too, carries what was written, and shows none of it."""
    error = ar.RunTimeout("tool:1: took more than 5 s", container_id="c", stdout=b"out", stderr=b"err")

    assert isinstance(error, (ar.RunError, TimeoutError))
    assert (str(error), error.container_id) == ("tool:1: took more than 5 s", "c")
    assert (error.stdout, error.stderr) == (b"out", b"err")
    assert repr(error) == "RunTimeout('tool:1: took more than 5 s')"


@pytest.mark.parametrize(
    "value",
    [
        ar.RunSpec(IMAGE, ["a"], {"A": "1"}, [MOUNT], ar.GpuProfile(ar.GpuSpec(True)), "/w", True, "1000"),
        ar.RunSpec(IMAGE, **EVERYTHING),
        ar.RunOutcome(1, 0.5, b"out", b"err", True),
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
