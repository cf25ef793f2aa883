"""Make the smallest image that runs: one program of this machine with its shared libraries, as a tar."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.unixhttp import ask

if TYPE_CHECKING:
    from tests.support.engines import Engine


@cache
def program_tar(*programs: str) -> bytes:
    """A root file system with the programs under /bin and what they link to."""
    sources: dict[str, Path] = {}
    for program in programs:
        found = shutil.which(program, path="/bin:/usr/bin")
        if found is None:
            raise FileNotFoundError(program)
        sources[f"bin/{program}"] = Path(found).resolve()
        linked = subprocess.run(["/usr/bin/ldd", found], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            sources[library.lstrip("/")] = Path(library).resolve()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, source in sorted(sources.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = source.stat().st_size, 0o755
            with source.open("rb") as content:
                archive.addfile(member, content)
    return buffer.getvalue()


def import_image(engine: Engine, name: str, tar: bytes) -> str:
    """Make the tar an image of one layer on the engine and return its reference."""
    # Without a tag: Podman 4 takes no notice of the tag parameter here.
    status, answer = ask(
        engine.socket,
        "POST",
        f"/v1.40/images/create?fromSrc=-&repo=localhost/{name}",
        body=tar,
        headers={"Content-Type": "application/x-tar"},
    )
    if status != 200 or b'"error' in answer:
        raise RuntimeError(f"{engine.kind} did not import the image: {status} {answer!r}")
    return f"localhost/{name}:latest"


def run_image(engine: Engine, image: str, *command: str, **fields: Any) -> str:
    """Create and start a container from the image; return its id."""
    document = json.dumps({"Image": image, "Cmd": command, **fields}).encode()
    headers = {"Content-Type": "application/json"}
    status, answer = ask(engine.socket, "POST", "/v1.40/containers/create", body=document, headers=headers)
    if status != 201:
        raise RuntimeError(f"{engine.kind} did not create the container: {status} {answer!r}")
    found = str(json.loads(answer)["Id"])
    status, answer = ask(engine.socket, "POST", f"/v1.40/containers/{found}/start")
    if status != 204:
        raise RuntimeError(f"{engine.kind} did not start the container: {status} {answer!r}")
    return found
