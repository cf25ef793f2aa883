"""Fixtures for all tests: engines that start at first use, and an environment that is nobody's."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from aioruntime.demo.registry import LocalRegistry
from aioruntime.runtime.connect import connect
from aioruntime.store.store import ImageStore
from tests.support import engines, given, host
from tests.support.tools import publish, remove_images

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from pathlib import Path

    from aioruntime.runtime.engine_runtime import EngineRuntime

_FOREIGN = (
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_API_VERSION",
    "CONTAINER_HOST",
    "CONTAINER_SSHKEY",
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "REGISTRY_AUTH_FILE",
    "DOCKER_AUTH_CONFIG",
    "AIORUNTIME_STORE",
    "NETRC",
    *(name for low in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for name in (low, low.upper())),
)
_XDG = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


def pytest_configure() -> None:
    """Give signals their meaning back that a shell's background job, or nohup, has ignored.

    And let what is drawn at random take its time: the machine may be busy.
    """
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: it would hold up tests that tell a stall by time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped in CI, which has every program and every right."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"CI demands every test: {why}"
    return report


@pytest.fixture(autouse=True)
def clean_environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tester's own engines, credentials and proxies out of every test; return the test's HOME."""
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", os.devnull)  # else the machine's own in /etc is read
    home = tmp_path / "home"
    for name, path in {"HOME": home, **{name: home / name.lower() for name in _XDG}}.items():
        path.mkdir(mode=0o700)
        monkeypatch.setenv(name, str(path))
    return home


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what has failed be tried again as often as ever, but soon."""
    monkeypatch.setattr("aioruntime.registry.retry._FIRST_PAUSE", 0.001)


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    return host.free_port()


@pytest.fixture(scope="session")
def docker_engine(running_engines: dict[str, engines.Engine]) -> engines.Engine:
    """A private Docker daemon for the whole session; leave it running and remove what you make."""
    return running("docker-20.10", running_engines)


@pytest.fixture(scope="session")
def podman_engine(running_engines: dict[str, engines.Engine]) -> engines.Engine:
    """A private Podman service for the whole session; leave it running and remove what you make."""
    return running("podman-4.3", running_engines)


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> engines.Engine:
    """The session's Docker, then its Podman."""
    found: engines.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture(scope="session")
def running_engines() -> Iterator[dict[str, engines.Engine]]:
    """The engines that tests share, each started at its first use and left running to the end."""
    with ExitStack() as ends:
        running: dict[str, engines.Engine] = {}
        yield running
        for engine in running.values():
            ends.callback(engine.stop)


@pytest.fixture(autouse=True)
def no_container_left(running_engines: dict[str, engines.Engine]) -> Iterator[None]:
    """Fail the test that leaves a container in an engine of the session, and spare the next one from it."""
    yield
    if not host.poll(lambda: not any(engine.containers() for engine in running_engines.values()), 10):
        left = {name: engine.containers() for name, engine in running_engines.items()}
        for engine in running_engines.values():
            engine.remove_containers()
        pytest.fail(f"containers are left: {left}")


@pytest.fixture(params=list(engines.FLAVORS))
def every_engine(
    request: pytest.FixtureRequest, running_engines: dict[str, engines.Engine]
) -> engines.Engine:
    """Each generation of engine in turn, running for the whole session."""
    return running(request.param, running_engines)


@pytest.fixture(params=[*engines.FLAVORS, *given.GIVEN])
def contract_engine(
    request: pytest.FixtureRequest,
    running_engines: dict[str, engines.Engine],
    tmp_path_factory: pytest.TempPathFactory,
) -> engines.Engine | given.GivenEngine:
    """Each generation of engine in turn, and those of the tester, which keep what they had."""
    if request.param in engines.FLAVORS:
        return running(request.param, running_engines)
    return given.look_at(request.param, tmp_path_factory.mktemp("given"))


@pytest.fixture(params=["docker-20.10", "podman-4.3"])
def own_engine(request: pytest.FixtureRequest) -> Iterator[engines.Engine]:
    """A Docker, then a Podman, for one test alone: it may be killed, paused and filled."""
    yield from started(request.param)


def running(name: str, running_engines: dict[str, engines.Engine]) -> engines.Engine:
    """Return the session's engine of the flavor, started if it is not yet."""
    flavor = engines.FLAVORS[name]
    if name not in running_engines:
        demand(flavor)
        running_engines[name] = engines.start(flavor)
    return running_engines[name]


def started(name: str) -> Iterator[engines.Engine]:
    """Start the engine and end it afterwards."""
    flavor = engines.FLAVORS[name]
    demand(flavor)
    with engines.start(flavor) as started:
        yield started


def demand(flavor: engines.Flavor) -> None:
    """Skip where the engine is not installed."""
    try:
        engines.require(flavor)
    except engines.EngineUnavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where downloaded packages and built layers are kept, if possible from one session to the next."""
    keeper = getattr(request.config, "cache", None)
    return tmp_path_factory.mktemp("images") if keeper is None else keeper.mkdir("images")


@pytest.fixture(scope="session")
def registry_storage(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a registry that has the images of `tests.support.tools`, pushed once a session."""
    storage = tmp_path_factory.mktemp("registry")
    asyncio.run(publish(tmp_path_factory.mktemp("layout"), cache, storage))
    return storage


@pytest.fixture
async def registry(registry_storage: Path) -> AsyncIterator[LocalRegistry]:
    """A real registry on loopback, its access log its own, with the images of `tests.support.tools`."""
    async with LocalRegistry(registry_storage) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """An empty store."""
    return ImageStore(tmp_path / "store")


@pytest.fixture
async def runtime(engine: engines.Engine, store: ImageStore) -> AsyncIterator[EngineRuntime]:
    """A runtime on each engine in turn, with an empty store; its images are removed afterwards."""
    async with connect(engine.url, store=store) as connected:
        yield connected
        await remove_images(connected)
