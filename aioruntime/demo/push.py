"""Push an image from an OCI image layout to a registry with skopeo, byte for byte.

skopeo's own reader of layouts passes over manifests with Docker's media types, so it is shown the layout in
its "dir" form, which takes any: the manifest, its index's manifests, and the blobs, side by side.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioruntime.demo.errors import DemoError
from aioruntime.demo.programs import run_program
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("push_image",)

_FLAGS = ("--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false", "--dest-no-creds")


async def push_image(layout: Path, name: str, reference: str) -> None:
    """Push one image, or an index with all its images.

    Args:
        layout: The OCI image layout that holds it.
        name: Its name in the layout's index.
        reference: Where it goes, with the registry's host.

    Raises:
        DemoError: The layout has no such image, skopeo is not installed, or it could not push.
    """
    with tempfile.TemporaryDirectory(prefix="aioruntime-push-") as view:
        await in_thread(_show, layout, name, Path(view))
        await run_program(
            ["skopeo", "--insecure-policy", "copy", *_FLAGS, f"dir:{view}", f"docker://{reference}"],
            debian_package="skopeo",
        )


def _show(layout: Path, name: str, view: Path) -> None:
    """Fill a directory with links to all that belongs to an image, under the names that skopeo expects."""
    blobs = layout.absolute() / "blobs" / "sha256"
    (view / "version").write_text("Directory Transport Version: 1.1\n")
    top = blobs / _hex(_find(layout, name))
    (view / "manifest.json").symlink_to(top)
    document = json.loads(top.read_bytes())
    manifests = [document]
    if "manifests" in document:
        below = [_hex(entry) for entry in document["manifests"]]
        manifests = [json.loads((blobs / each).read_bytes()) for each in below]
        for each in below:
            (view / f"{each}.manifest.json").symlink_to(blobs / each)
    for manifest in manifests:
        for blob in (manifest["config"], *manifest["layers"]):
            link = view / _hex(blob)
            if not link.is_symlink():
                link.symlink_to(blobs / link.name)


def _find(layout: Path, name: str) -> Mapping[str, Any]:
    index = json.loads((layout / "index.json").read_bytes())
    for entry in index["manifests"]:
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == name:
            return dict(entry)
    raise DemoError(f"{layout} has no image of the name {name!r}")


def _hex(descriptor: Mapping[str, Any]) -> str:
    return str(descriptor["digest"]).removeprefix("sha256:")
