"""A private sshd on loopback, and an ``ssh`` that knows its way there."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import host

if TYPE_CHECKING:
    from collections.abc import Iterator

_SSHD = "/usr/sbin/sshd"


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server.

    Attributes:
        port: where it listens on 127.0.0.1.
        directory: of its files; `client` has the settings that ``ssh -F`` reads.
        process: the server.
    """

    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def client(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def url(self, path: Path) -> str:
        """The address of an engine's socket behind it."""
        return f"ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1:{self.port}{path}"


@contextmanager
def sshd(directory: Path) -> Iterator[Sshd]:
    """Run a server that takes one new key, and put an ``ssh`` with that key into ``directory/bin``."""
    directory.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(exist_ok=True)  # its service makes it otherwise
    for name in ("host", "key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name))
    (directory / "authorized").write_bytes((directory / "key.pub").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "sshd_config").write_text(
        f"""ListenAddress 127.0.0.1:{port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
"""
    )
    found = Sshd(port, directory, _start(directory))
    try:
        kind, key, *_ = (directory / "host.pub").read_text().split()
        found.known_hosts.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        found.client.write_text(
            f"IdentityFile {directory}/key\nIdentitiesOnly yes\nUserKnownHostsFile {found.known_hosts}\n"
            "GlobalKnownHostsFile none\n"
        )
        (directory / "bin").mkdir()
        program = directory / "bin/ssh"
        program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {found.client} "$@"\n')
        program.chmod(0o755)
        if not host.poll(lambda: _listens(port), 20):
            raise RuntimeError((directory / "log").read_text())
        yield found
    finally:
        found.process.terminate()
        found.process.wait()


def _start(directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "log").open("wb") as log:
        return subprocess.Popen([_SSHD, "-D", "-e", "-f", str(directory / "sshd_config")], stderr=log)


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
