"""What the tests of `aioruntime.demo` share: what they need of the machine, and one cache of downloads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def _lists_there() -> bool:
    return any(Path("/var/lib/apt/lists").glob("*_Packages*"))


@pytest.fixture(scope="session")
def debian() -> None:
    """Skip where apt cannot resolve packages."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("needs Debian's apt and dpkg")
    if not _lists_there():
        pytest.skip("apt has no package lists: run tests/bootstrap.sh")


@pytest.fixture(scope="session")
def cache(debian: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Downloads and layers, for the whole session."""
    return tmp_path_factory.mktemp("demo-cache")


@pytest.fixture
def skopeo() -> str:
    return _program("skopeo")


@pytest.fixture
def umoci() -> str:
    return _program("umoci")


@pytest.fixture
def docker_registry() -> str:
    return _program("docker-registry")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs Debian's package {name}")
    return found
