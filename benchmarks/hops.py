"""Send this library, skopeo and Docker the ways that could make a client give credentials away.

``python -m benchmarks.hops`` starts servers of its own and a Docker of its own, and prints who was given
something that is not for them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import tempfile
from base64 import b64encode, urlsafe_b64encode
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

import aioruntime as ar
from aioruntime.errors import EngineError
from tests.registry.test_hops import ACTIONS
from tests.support import engines
from tests.support.hops import HOPS, leaks, staged

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient
    from tests.support.hops import Hop, Stage

USER, SECRET = "user-canary-1f3b", "password-canary-9d2c4e"


async def with_us(hop: Hop, stage: Stage, authority: trustme.CA) -> None:
    """Do what the hop is about."""
    options: dict[str, Any] = {}
    if hop.tls:
        options["ssl_context"] = ssl.create_default_context()
        authority.configure_trust(options["ssl_context"])
    if hop.mirror:
        options["mirrors"] = {stage.home.origin: [stage.host.origin]}
    given = {stage.home.origin: ar.Credentials(USER, ar.Secret(SECRET))}
    async with ar.RegistryClient(credentials=given, retries=0, **options) as client:
        with suppress(ar.AioRuntimeError):
            await ACTIONS[hop.action](client, stage, ar.OciRef.parse(stage.image))


async def with_skopeo(hop: Hop, stage: Stage, work: Path) -> None:
    """Have skopeo do what the hop is about."""
    auth = b64encode(f"{USER}:{SECRET}".encode()).decode()
    (work / "auth.json").write_text(json.dumps({"auths": {stage.home.origin: {"auth": auth}}}))
    mirror = f'[[registry.mirror]]\nlocation = "{stage.host.origin}"\ninsecure = true\n' if hop.mirror else ""
    (work / "registries.conf").write_text(f'[[registry]]\nlocation = "{stage.home.origin}"\n{mirror}')
    command = {
        "pull": ["copy", "--src-tls-verify=false", f"docker://{stage.image}", f"dir:{work}/image"],
        "push": ["copy", "--dest-tls-verify=false", f"dir:{_view(stage, work)}", f"docker://{stage.image}"],
        "tags": ["list-tags", "--tls-verify=false", f"docker://{stage.home.origin}/org/tool"],
    }[hop.action]
    process = await asyncio.create_subprocess_exec(
        "skopeo",
        "--insecure-policy",
        *command,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "REGISTRY_AUTH_FILE": str(work / "auth.json"),
            "CONTAINERS_REGISTRIES_CONF": str(work / "registries.conf"),
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await asyncio.wait_for(process.wait(), 30)
    except TimeoutError:
        process.kill()
        await process.wait()


def _view(stage: Stage, work: Path) -> Path:
    view = work / "view"
    view.mkdir()
    (view / "version").write_text("Directory Transport Version: 1.1\n")
    for path, (_, data) in stage.contents.items():
        kind, _, name = path.rpartition("/")
        plain = "manifest.json" if kind.endswith("manifests") else name.removeprefix("sha256:")
        (view / plain).write_bytes(data)
    return view


async def with_docker(hop: Hop, stage: Stage, client: EngineClient) -> bool:
    """Have Docker do it, if it can; return whether."""
    if hop.action != "pull" or hop.mirror:
        return False
    given = {"username": USER, "password": SECRET, "serveraddress": stage.home.origin}
    headers = {"X-Registry-Auth": urlsafe_b64encode(json.dumps(given).encode()).decode()}
    params = {"fromImage": stage.image}
    try:
        async with client.stream("POST", "/images/create", params=params, headers=headers) as response:
            await response.read()
    except EngineError:
        pass
    return True


async def run() -> None:
    """Print a line for each way."""
    authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(tempfile.TemporaryDirectory(prefix="aioruntime-hops-"))
        engine = stack.enter_context(engines.start(engines.FLAVORS["docker-20.10"]))
        runtime = await stack.enter_async_context(ar.connect(engine.url, store=store))
        for hop in HOPS:
            told = {}
            with tempfile.TemporaryDirectory(prefix="aioruntime-hops-") as work:
                async with staged(hop, tls) as stage:
                    await with_us(hop, stage, authority)
                    told["aioruntime"] = leaks(stage, [USER, SECRET])
                async with staged(hop, tls) as stage:
                    await with_skopeo(hop, stage, Path(work))
                    told["skopeo"] = leaks(stage, [USER, SECRET])
                async with staged(hop, tls) as stage:
                    if await with_docker(hop, stage, runtime._client):
                        told["docker"] = leaks(stage, [USER, SECRET])
            shown = "; ".join(
                f"{who}: {', '.join(sorted(set(found))) or 'nothing'}" for who, found in told.items()
            )
            print(f"{hop.name:34} {shown}", flush=True)


def main() -> None:
    """Run it."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(run())


if __name__ == "__main__":
    main()
