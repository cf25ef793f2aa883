"""A user without a home directory: one that /etc/passwd does not know, and no HOME."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.engine.discovery import open_engine

if TYPE_CHECKING:
    from tests.support.engines import Engine

_IMPORT = """
import os, pwd
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
del os.environ["HOME"]
import aioruntime
assert "HOME" not in os.environ
"""


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    with pytest.raises(RuntimeError):
        Path.home()


def test_import() -> None:
    """The library can be imported, though one that it uses asks for the home directory."""
    root = str(Path(ar.__file__).parents[1])
    subprocess.run([sys.executable, "-c", _IMPORT], check=True, env=os.environ | {"HOME": root}, cwd=root)


async def test_what_needs_no_home_works(docker_engine: Engine, tmp_path: Path) -> None:
    """An engine and a store whose places are given are used."""
    async with ar.connect(docker_engine.url, store=tmp_path / "store") as runtime:
        assert (await runtime.health_check()).name == "docker"
    async with open_engine(environ={"DOCKER_HOST": docker_engine.url}) as client:
        assert client.capabilities.kind == "docker"


async def test_no_engine(tmp_path: Path) -> None:
    """Where nothing else is found, the message says that HOME is not set."""
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with pytest.raises(ar.EngineUnavailable, match="HOME: not set"):
        async with open_engine(kind="docker", environ=environ):
            pass


async def test_files_of_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that needs files from the home directory is refused with the variable to set."""
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    with pytest.raises(ar.EngineUnavailable, match=r"tcp://127\.0\.0\.1:1 .*set HOME"):
        async with open_engine("tcp://127.0.0.1:1"):
            pass


def test_store() -> None:
    """The store's usual place is refused with the variables to set."""
    with pytest.raises(ar.StoreError, match="set AIORUNTIME_STORE or HOME"):
        ar.ImageStore()
