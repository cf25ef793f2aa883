"""Kernel calls that the engine guard needs: mounts, child subreaper, bridges, processes, cgroups."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000
_MNT_DETACH = 2
_MOUNT_NAMESPACE = "/proc/self/ns/mnt"
_PR_SET_CHILD_SUBREAPER = 36
_SIOCBRADDBR, _SIOCBRDELBR, _SIOCSIFFLAGS = 0x89A0, 0x89A1, 0x8914


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def become_subreaper() -> None:
    """Make orphans among our descendants our children, so that none gets out of reach."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def own_mount_namespace() -> None:
    """Enter a mount namespace that sees the host's new mounts but shows it none of ours."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None), "mount --make-rslave /")


def hide_directory(path: Path) -> None:
    """Put an empty directory over `path` for this mount namespace alone."""
    path.mkdir(parents=True, exist_ok=True)
    _check(_libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, b"mode=755"), f"mount tmpfs on {path}")


@contextlib.contextmanager
def inner_mount_namespace() -> Iterator[int]:
    """Be in a further mount namespace meanwhile; it lasts until the descriptor is closed."""
    ours = os.open(_MOUNT_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        own_mount_namespace()
        try:
            yield os.open(_MOUNT_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _check(_libc.setns(ours, _CLONE_NEWNS), "setns(CLONE_NEWNS)")
    finally:
        os.close(ours)


def prepare_tree(tree: Path, shared: Iterable[str]) -> None:
    """Make another system's root directory one that a daemon can be started in, for this mount namespace.

    It gets the kernel's file systems, and the `shared` directories of the host at the same place. That it is
    a mount point itself, `become_root` needs, and dockerd to find where its data lies.
    """
    bind(tree, tree)
    for place in ("/proc", "/sys", "/dev", *shared):
        bind(Path(place), Path(f"{tree}{place}"))


def become_root(tree: Path) -> None:
    """Make the mount point `tree` the root of this mount namespace, and let go of what was it.

    A `chroot` would not do: what enters the namespace of a container, as `exec` does, comes to the root of
    that namespace. If runc's pivot_root happens below a chroot, that is still the root of the host.
    """
    os.chdir(tree)
    _check(_libc.pivot_root(b".", b"."), f"pivot_root({tree})")
    _check(_libc.umount2(b".", _MNT_DETACH), "umount of the old root")
    os.chdir("/")


def bind(source: Path, target: Path) -> None:
    """Show `source` at `target`, which is made if it is not there, for this mount namespace."""
    if not target.exists():
        target.mkdir(parents=True)
    flags = _MS_BIND | _MS_REC
    result = _libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None)
    _check(result, f"mount --rbind {source} {target}")


def mounts_below(*roots: Path) -> list[str]:
    """Mount points at or below `roots` that this process sees, the innermost first."""
    found = []
    for line in Path("/proc/self/mounts").read_bytes().splitlines():
        point = (
            line.split(b" ")[1].decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")
        )
        if any(point == str(root) or point.startswith(f"{root}/") for root in roots):
            found.append(point)
    return found[::-1]


def unmount_below(*roots: Path) -> None:
    """Detach every mount point at or below `roots`."""
    for point in mounts_below(*roots):
        _libc.umount2(os.fsencode(point), _MNT_DETACH)


def add_bridge(name: str) -> None:
    """Create the network bridge `name`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCBRADDBR, name.encode() + b"\0")


def delete_bridge(name: str) -> None:
    """Take the bridge `name` down and delete it; do nothing if there is none."""
    if not Path("/sys/class/net", name).exists():
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", name.encode(), 0))
        fcntl.ioctl(sock, _SIOCBRDELBR, name.encode() + b"\0")


def parents() -> dict[int, int]:
    """Parent of every process on the machine that is not a zombie."""
    table = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                table[int(entry)] = int(parent)
    return table


def descendants(of: int) -> list[int]:
    """Living processes below `of`, parents before children."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [of]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def name_of(pid: int) -> str:
    """The kernel's name of the process, cut to 15 characters; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def alive(pid: int) -> bool:
    """Tell whether `pid` runs (a zombie does not)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def stopped(pid: int) -> bool:
    """Tell whether every thread of the process has come to its stop."""
    states = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            states.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def cgroups_of(pids: Iterable[int]) -> set[Path]:
    """Directories of all control groups that the processes are in."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
                _, names, path = line.split(":", 2)
                found.add(Path("/sys/fs/cgroup", names.removeprefix("name="), path.lstrip("/")))
    return found


def remove_cgroups(groups: Iterable[Path], seconds: float = 2.0) -> None:
    """Remove the given control groups and those below them, which have no processes any more."""
    tops = list(groups)

    def gone() -> bool:
        for top in tops:
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):  # busy for a moment after its last process
                    os.rmdir(directory)
        return not any(top.exists() for top in tops)

    poll(gone, seconds)


def poll(condition: Callable[[], bool], seconds: float, step: float = 0.01) -> bool:
    """Wait until the condition holds; return whether it did in time."""
    return any(condition() for _ in _ticks(seconds, step))


def _ticks(seconds: float, step: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    yield
    while time.monotonic() < end:
        time.sleep(step)
        yield
    yield


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
