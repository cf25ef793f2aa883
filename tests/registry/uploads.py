"""A registry that takes pushes, played on a `ScriptedServer`, and what is pushed to it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.image import LayerSpec
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import CONFIG, LAYER, MANIFEST, digest_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.support.scripted import Request

_CUT = Fault("cut", of="response")


class InstantClock:
    """A clock that nobody waits for; it notes for how long it was asked to wait."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Image:
    """An image in memory: its blobs, and a manifest that names them; a `BlobReader`."""

    def __init__(self, *layers: bytes, piece: int = 1 << 20) -> None:
        config = b'{"architecture": "amd64", "os": "linux"}'
        self.data = {ImageDigest(digest_of(data)): data for data in (config, *layers)}
        self.media_type = MANIFEST
        described = [
            {"mediaType": CONFIG if data is config else LAYER, "digest": digest, "size": len(data)}
            for digest, data in self.data.items()
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described[0],
            "layers": described[1:],
        }
        # As no serialiser would write it: what is pushed are these bytes.
        self.manifest = json.dumps(document, indent=3).encode() + b"\n"
        self.digest = ImageDigest(digest_of(self.manifest))
        self.open = 0
        self._piece = piece

    @property
    def blobs(self) -> list[LayerSpec]:
        return [LayerSpec(digest, len(data), LAYER) for digest, data in self.data.items()]

    async def stream(self, digest: ImageDigest, size: int) -> AsyncGenerator[bytes, None]:
        data = self.data[digest]
        assert len(data) == size
        self.open += 1
        try:
            for start in range(0, size, self._piece):
                yield data[start : start + self._piece]
        finally:
            self.open -= 1


@dataclass
class Taker:
    """Takes pushes to `org/tool`; strict about ranges, states and digests.

    `keep` tells, for each PATCH in turn, how many bytes of it to keep before the connection is cut; with
    None it is answered. What a test scripts on the server beforehand comes first.
    """

    server: ScriptedServer
    headers: dict[str, str] = field(default_factory=dict)
    mountable: set[str] = field(default_factory=set)
    keep: list[int | None] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    abandoned: int = 0
    begun: int = 0

    def __post_init__(self) -> None:
        base, on = "/v2/org/tool", self.server.on
        on("HEAD", re.compile(rf"{base}/blobs/sha256:.*"), self._head)
        on("POST", re.compile(rf"{base}/blobs/uploads/(\?.*)?"), self._begin)
        place = re.compile(rf"{base}/blobs/uploads/\d+\?.*")
        for method, answer in (
            ("PATCH", self._patch),
            ("PUT", self._finish),
            ("GET", self._status),
            ("DELETE", self._abandon),
        ):
            on(method, place, answer)
        on("PUT", re.compile(rf"{base}/manifests/.*"), self._name)

    def sent(self, *methods: str) -> list[Request]:
        return [request for request in self.server.requests if request.method in methods]

    def _head(self, request: Request) -> Reply:
        return Reply(200 if request.path.rpartition("/")[2] in self.blobs else 404)

    def _begin(self, request: Request) -> Reply:
        asked = parse_qs(request.query)
        if asked and asked["mount"][0] in self.mountable:
            self.blobs[asked["mount"][0]] = b"mounted"
            return Reply(201, {"Docker-Content-Digest": asked["mount"][0]})
        self.begun += 1
        self.uploads[str(self.begun)] = bytearray()
        return Reply(202, {**self.headers, **self._place(str(self.begun))})

    def _place(self, number: str) -> dict[str, str]:
        held = len(self.uploads[number])
        place = f"/v2/org/tool/blobs/uploads/{number}?a=%2f%3D&_state={held}"
        return {"Location": place, "Range": f"0-{max(held - 1, 0)}"}

    def _patch(self, request: Request) -> Reply:
        number = request.path.rpartition("/")[2]
        if number not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        held, body = self.uploads[number], request.body
        if request.header("Content-Range") != f"{len(held)}-{len(held) + len(body) - 1}":
            return _error(416, "RANGE_INVALID")
        assert f"_state={len(held)}" in request.query
        keep = self.keep.pop(0) if self.keep else None
        held += body[:keep]
        return Reply(202, self._place(number)) if keep is None else Reply(faults=(_CUT,))

    def _finish(self, request: Request) -> Reply:
        number, asked = request.path.rpartition("/")[2], parse_qs(request.query)
        if number not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        assert asked["a"] == ["/="], "the query of the Location is kept"
        data = bytes(self.uploads.pop(number)) + request.body
        [digest] = asked["digest"]
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            return _error(400, "DIGEST_INVALID")
        self.blobs[digest] = data
        return Reply(201, {"Docker-Content-Digest": digest})

    def _status(self, request: Request) -> Reply:
        number = request.path.rpartition("/")[2]
        if number not in self.uploads:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        return Reply(204, self._place(number), framing="none")

    def _abandon(self, request: Request) -> Reply:
        self.abandoned += 1
        self.uploads.pop(request.path.rpartition("/")[2], None)
        return Reply(204, framing="none")

    def _name(self, request: Request) -> Reply:
        document = json.loads(request.body)
        for part in (document["config"], *document["layers"]):
            if part["digest"] not in self.blobs:
                return _error(404, "MANIFEST_BLOB_UNKNOWN")
        name = request.path.rpartition("/")[2]
        self.manifests[name] = (str(request.header("Content-Type")), request.body)
        return Reply(201, {"Docker-Content-Digest": digest_of(request.body)})


def _error(status: int, code: str) -> Reply:
    return Reply(status, body=json.dumps({"errors": [{"code": code, "message": "scripted"}]}).encode())
