"""Small images to serve from a `ScriptedServer`: manifest, config and layers by path, with ranges."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from tests.support.scripted import Reply, Request, Route, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_image(
    repository: str,
    tag: str,
    layers: Sequence[bytes],
    *,
    layer_type: str = LAYER,
    diff_ids: Sequence[str] | None = None,
) -> dict[str, bytes]:
    """Everything a registry serves for an image of these layer blobs, by path.

    The layers are taken as they are; give `diff_ids` if they are compressed.
    """

    def described(data: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    ids = [digest_of(layer) for layer in layers] if diff_ids is None else list(diff_ids)
    fields = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": ids},
    }
    config = json.dumps(fields).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(config, CONFIG),
            "layers": [described(layer, layer_type) for layer in layers],
        }
    ).encode()
    base = f"/v2/{repository}"
    return {
        "/v2/": b"{}",
        f"{base}/manifests/{tag}": manifest,
        f"{base}/manifests/{digest_of(manifest)}": manifest,
        **{f"{base}/blobs/{digest_of(data)}": data for data in (config, *layers)},
    }


def serve_image(
    server: ScriptedServer, contents: Mapping[str, bytes], *, ranges: bool = True
) -> dict[str, tuple[Route, Route]]:
    """Answer GET and HEAD for each path with its bytes; return the routes, for their hits."""

    def answer(data: bytes, headers: Mapping[str, str]) -> Callable[[Request], Reply]:
        return lambda request: ranged(request, data, headers) if ranges else Reply(headers=headers, body=data)

    routes = {}
    for path, data in contents.items():
        reply = answer(data, _headers(path, data))
        routes[path] = (server.on("GET", path, reply), server.on("HEAD", path, reply))
    return routes


def ranged(request: Request, data: bytes, headers: Mapping[str, str]) -> Reply:
    """The honest answer to a request for `data`: whole, or the one range asked for."""
    offered = {**headers, "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.header("Range") or "")
    if asked is None or asked.groups() == ("", ""):
        return Reply(headers=offered, body=data)
    first, last = asked.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    stop = min(len(data), int(last) + 1) if first and last else len(data)
    if start >= stop:
        return Reply(
            416, {**offered, "Content-Range": f"bytes */{len(data)}"}, reason="Range Not Satisfiable"
        )
    span = {**offered, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
    return Reply(206, span, data[start:stop], reason="Partial Content")


def _headers(path: str, data: bytes) -> dict[str, str]:
    if "/manifests/" not in path:
        return {"Content-Type": "application/json" if path == "/v2/" else "application/octet-stream"}
    document = json.loads(data)
    return {
        "Content-Type": str(document.get("mediaType", MANIFEST)),
        "Docker-Content-Digest": digest_of(data),
    }
