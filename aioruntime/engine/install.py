"""Which command installs an engine on this system (L2)."""

from __future__ import annotations

__all__ = ("install_command", "install_hint")

import sys
from pathlib import Path

_COMMANDS = {
    "debian": "apt-get install podman",
    "ubuntu": "apt-get install podman",
    "fedora": "dnf install podman",
    "rhel": "dnf install podman",
    "centos": "dnf install podman",
    "alpine": "apk add podman",
    "arch": "pacman -S podman",
    "suse": "zypper install podman",
    "opensuse": "zypper install podman",
}
_RELEASE_FILES = (Path("/etc/os-release"), Path("/usr/lib/os-release"))


def install_command(os_release: str) -> str | None:
    """Return the command that installs an engine on the system that an ``os-release`` file describes.

    Args:
        os_release: the content of the file (see ``os-release(5)``).

    Returns:
        The command, to be run as root; None for a system that is not known.
    """
    pairs = (line.partition("=") for line in os_release.splitlines() if not line.startswith("#"))
    values = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    # ID_LIKE lists what the system is derived from, closest first.
    names = [values.get("ID", ""), *values.get("ID_LIKE", "").split()]
    return next((_COMMANDS[name] for name in names if name in _COMMANDS), None)


def install_hint() -> str:
    """Tell the user, in half a sentence, how to get an engine on this system."""
    if sys.platform == "darwin":
        return "to install one: brew install podman && podman machine init --now"
    for path in _RELEASE_FILES:
        try:
            command = install_command(path.read_text(errors="replace"))
        except OSError:
            continue
        if command is not None:
            return f"to install one, run as root: {command}"
    return "install Podman (https://podman.io) or Docker"
