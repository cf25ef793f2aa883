"""Surroundings in which a private Podman service is the engine that is found, apart from all others."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import host, podman_files
from tests.support.leaks import running_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

# Images can't be unpacked on every file system; Podman refuses long paths.
_BASE = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"


class Surroundings:
    """What Podman and we put on the machine.

    Attributes:
        storage: where Podman has its images, containers and settings.
        temporary: TMPDIR.
    """

    def __init__(self, root: Path) -> None:
        self.storage, self.temporary = root / "s", root / "t"
        self._bridge = f"ai{root.name[-8:]}"
        for path in (self.storage / "tmp", self.temporary):
            path.mkdir(parents=True)
        self.environ = podman_files.write(self.storage, self.storage / "data", self._bridge, ())
        self.environ["TMPDIR"] = str(self.temporary)

    def left(self) -> list[str]:
        """What is there that should not be: processes, mounts, a bridge, temporary files, containers."""
        containers = self.storage.glob("data/overlay-containers/*/")
        return [
            *running_with(str(self.temporary)),
            *host.mounts_below(self.storage),
            *map(str, Path("/sys/class/net").glob(self._bridge)),
            *map(str, self.temporary.iterdir()),
            *map(str, containers),
        ]

    def spooled(self) -> list[str]:
        """Temporary files of the services that run here."""
        return [str(path) for path in self.temporary.glob("aioruntime-*/tmp/*")]

    def services(self) -> list[int]:
        """Process ids of the services that run here."""
        found = running_with(str(self.temporary))
        return [int(line.split()[1]) for line in found if line.endswith(" podman")]

    def clean_up(self) -> None:
        host.unmount_below(self.storage)
        host.delete_bridge(self._bridge)


@contextmanager
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    """Set the environment so; remove what Podman keeps there afterwards."""
    with tempfile.TemporaryDirectory(prefix="art-", dir=_BASE) as directory:
        made = Surroundings(Path(directory))
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        try:
            yield made
        finally:
            made.clean_up()
