"""Hold one engine daemon: start it when told, and leave nothing of it behind when the owner goes.

Runs as a process of its own (`python -m tests.support.guard SPEC`). Standard input is the life line: its end,
be it `Engine.stop()` or the owner's death by SIGKILL, ends the daemon, its helpers and its containers, and
removes mounts, control groups, the bridge and the directories. Answers `start` with the daemon's process id.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support import host

TERM_SECONDS = 8.0
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DAEMONS = {"containerd", "dockerd", "podman"}
_KEEPERS = {"conmon", "containerd-shim", *_DAEMONS}


@dataclass(frozen=True, slots=True)
class Spec:
    """What the guard is told: the command, its surroundings, and what to remove at the end.

    `hidden` directories of the host are empty for this daemon: it keeps state there whatever its options say.
    With `tree`, another system's root directory, the daemon is that system's, and sees nothing of the host
    but its `directories` and those of temporary files. It finds what is in `cdi` in /run/cdi, where every
    engine looks for descriptions of devices.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    log: str
    directories: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    bridge: str = ""
    makes_bridge: bool = False
    cgroup: str = ""
    tree: str = ""
    cdi: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        fields: dict[str, Any] = json.loads(text)
        for name in ("argv", "directories", "hidden"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def _spawn(spec: Spec, tree: int | None) -> int:
    """Start the daemon in a session of its own with its output in the log, if need be in the tree."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    enter = () if tree is None else ("nsenter", f"--mount=/proc/{os.getpid()}/fd/{tree}")
    argv = (*enter, *spec.argv)
    return os.posix_spawnp(
        argv[0],
        argv,
        spec.env,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_IGNORED,
    )


def _reap(*_: object) -> None:
    """Collect every dead child, ours and those that we inherited."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


def _containers(below: list[int]) -> list[int]:
    """The processes that run inside containers: all but the engine and its helpers."""
    return [pid for pid in below if not any(host.name_of(pid).startswith(name) for name in _KEEPERS)]


def end_processes() -> None:
    """Kill the containers, let the daemon end in order, then kill whatever is left."""
    me = os.getpid()
    below = host.descendants(me)
    own = host.cgroups_of([me])
    groups = host.cgroups_of(_containers(below)) - own
    host.signal_all(below, signal.SIGCONT)
    host.signal_all(_containers(below), signal.SIGKILL)
    host.poll(lambda: not any(host.name_of(p).startswith("conmon") for p in host.descendants(me)), 2)

    def running(*names: str) -> list[int]:
        return [pid for pid in host.descendants(me) if host.name_of(pid) in names]

    host.signal_all(running("dockerd", "podman"), signal.SIGTERM)
    # A shim whose containerd was killed never ends by itself: wait for the daemons alone.
    host.poll(lambda: not running(*_DAEMONS), TERM_SECONDS)

    def none_left() -> bool:
        left = host.descendants(me)
        groups.update(host.cgroups_of(_containers(left)) - own)
        host.signal_all(left, signal.SIGKILL)
        return not left

    if not host.poll(none_left, TERM_SECONDS):
        names = {pid: host.name_of(pid) for pid in host.descendants(me)}
        raise RuntimeError(f"processes outlived SIGKILL: {names}")
    host.remove_cgroups(groups)


def clean_up(spec: Spec, tree: int | None) -> None:
    """Bring the machine back to how it was before the start."""
    end_processes()
    if tree is not None:
        os.close(tree)  # and all its mounts with it
    if spec.bridge:
        host.delete_bridge(spec.bridge)
    if spec.cgroup:
        top = Path("/sys/fs/cgroup")
        host.remove_cgroups([*top.glob(f"*/{spec.cgroup}"), *top.glob(spec.cgroup)])
    roots = [Path(directory) for directory in spec.directories]
    host.unmount_below(*roots)
    for root in roots:
        shutil.rmtree(root, ignore_errors=True)
        if root.exists():
            raise RuntimeError(f"{root} could not be removed; mounts: {host.mounts_below(root)}")


def _mount(spec: Spec) -> None:
    """Let the daemon see what it shall, and nothing else of what would be in these places."""
    for path in spec.hidden:
        host.hide_directory(Path(path))
    if spec.cdi:
        host.bind(Path(spec.cdi), Path(f"{spec.tree}/run/cdi"))


def _plant(spec: Spec) -> int:
    """Make a mount namespace whose root is the tree, and return its descriptor; we stay out of it.

    It outlives a daemon that is killed, for the next one. What is mounted in it goes with it.
    """
    tree = Path(spec.tree)
    with host.inner_mount_namespace() as namespace:
        host.prepare_tree(tree, (tempfile.gettempdir(), *spec.directories))
        _mount(spec)
        host.become_root(tree)
    return namespace


def main() -> None:
    spec = Spec.from_json(sys.argv[1])
    os.chdir("/")
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    host.become_subreaper()
    host.own_mount_namespace()
    signal.signal(signal.SIGCHLD, _reap)
    tree: int | None = None
    try:
        if spec.tree:
            tree = _plant(spec)
        else:
            _mount(spec)
        if spec.bridge and spec.makes_bridge:
            host.add_bridge(spec.bridge)
        while sys.stdin.readline() == "start\n":
            sys.stdout.write(f"{_spawn(spec, tree)}\n")
            sys.stdout.flush()
    finally:
        clean_up(spec, tree)


if __name__ == "__main__":
    main()
