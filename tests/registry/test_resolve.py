"""What references name: tags, digests, indexes, and what registries do wrong about them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Literal

import pytest

from aioruntime.errors import (
    DigestMismatch,
    InvalidManifest,
    InvalidReference,
    LayersMissing,
    NotFound,
    RateLimited,
    RegistryError,
    SizeMismatch,
    Unauthorized,
)
from aioruntime.oci import media_types
from aioruntime.oci.platform import Platform
from aioruntime.oci.reference import OciRef
from aioruntime.registry.client import RegistryClient
from tests.registry.helpers import (
    DATA,
    blob_path,
    descriptor,
    for_platform,
    image_at,
    index_of,
    serve_manifest,
)
from tests.support.scripted import Fault, Reply, ScriptedServer
from tests.support.served_image import LAYER, digest_of, make_image, serve_image

if TYPE_CHECKING:
    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import ResolvedImage

OCI = media_types.OCI_MANIFEST
AMD64 = Platform("linux", "amd64")
LAYERS = (DATA, DATA[::-1])
CONTENTS = make_image("org/tool", "1", LAYERS)
MANIFEST = CONTENTS["/v2/org/tool/manifests/1"]
CONFIG = next(data for path, data in CONTENTS.items() if "/blobs/" in path)


def serve_config(server: ScriptedServer, config: bytes = CONFIG) -> None:
    server.on("GET", blob_path(config), Reply(body=config))


def serve_by_digest(server: ScriptedServer, raw: bytes, media_type: str) -> None:
    serve_manifest(server, digest_of(raw), raw, media_type)


async def resolve(server: ScriptedServer, name: str = "org/tool:1", platform: str = "") -> ResolvedImage:
    async with RegistryClient() as client:
        return await client.resolve(image_at(server, name), Platform.parse(platform) if platform else None)


async def test_by_tag(server: ScriptedServer) -> None:
    """A tag gives manifest, config and layers, in two requests, and the digest to pin."""
    serve_image(server, CONTENTS)

    found = await resolve(server)

    assert found.digest == found.manifest_digest == digest_of(MANIFEST)
    assert (found.raw_manifest, found.raw_config) == (MANIFEST, CONFIG)
    assert [layer.digest for layer in found.layers] == [digest_of(layer) for layer in LAYERS]
    assert [layer.size for layer in found.layers] == [len(layer) for layer in LAYERS]
    assert found.platform == AMD64
    assert [r.path for r in server.requests] == ["/v2/org/tool/manifests/1", blob_path(CONFIG)]
    accepted = server.requests[0].header("Accept") or ""
    assert all(media_type in accepted for media_type in media_types.ACCEPTED)


@pytest.mark.parametrize("tag", ["", ":1", ":other"])
async def test_by_digest(server: ScriptedServer, tag: str) -> None:
    """A digest decides, whatever the tag beside it."""
    serve_image(server, CONTENTS)

    found = await resolve(server, f"org/tool{tag}@{digest_of(MANIFEST)}")

    assert found.digest == digest_of(MANIFEST)
    assert server.requests[0].path == f"/v2/org/tool/manifests/{digest_of(MANIFEST)}"


async def test_by_sha512(server: ScriptedServer) -> None:
    """A sha512 digest is checked as one."""
    pin = "sha512:" + hashlib.sha512(MANIFEST).hexdigest()
    serve_manifest(server, pin, MANIFEST, OCI)
    serve_config(server)

    assert (await resolve(server, f"org/tool@{pin}")).digest == pin


async def test_latest(server: ScriptedServer) -> None:
    """Without tag and digest, latest is asked for."""
    serve_manifest(server, "latest", MANIFEST, OCI)
    serve_config(server)

    assert (await resolve(server, "org/tool")).digest == digest_of(MANIFEST)


async def test_docker_media_types(server: ScriptedServer) -> None:
    """Docker's list and manifest are read like OCI's."""
    fields = json.loads(MANIFEST)
    fields["mediaType"] = media_types.DOCKER_MANIFEST
    for layer in fields["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar"
    manifest = json.dumps(fields).encode()
    entry = for_platform(manifest, media_types.DOCKER_MANIFEST, "linux/amd64")
    index = index_of(entry, media_type=media_types.DOCKER_LIST)
    serve_manifest(server, "1", index, media_types.DOCKER_LIST)
    serve_by_digest(server, manifest, media_types.DOCKER_MANIFEST)
    serve_config(server)

    found = await resolve(server, platform="linux/amd64")

    assert (found.digest, found.manifest_digest) == (digest_of(index), digest_of(manifest))


async def test_index(server: ScriptedServer) -> None:
    """The platform's manifest is chosen, attestations are passed over, and the digest is the index's."""
    attestation = json.dumps({"schemaVersion": 2, "nothing": True}).encode()
    annotations = {"vnd.docker.reference.type": "attestation-manifest"}
    index = index_of(
        for_platform(attestation, OCI, "linux/amd64", annotations=annotations),
        for_platform(attestation, OCI, "unknown/unknown"),
        for_platform(DATA, OCI, "linux/arm64/v8"),
        for_platform(MANIFEST, OCI, "linux/amd64"),
    )
    serve_manifest(server, "1", index, media_types.OCI_INDEX)
    serve_by_digest(server, MANIFEST, OCI)
    serve_config(server)

    found = await resolve(server, platform="linux/amd64")

    assert (found.digest, found.manifest_digest) == (digest_of(index), digest_of(MANIFEST))
    assert len(server.requests) == 3


async def test_no_such_platform(server: ScriptedServer) -> None:
    """An index without the platform is an error that lists what there is, after one request."""
    index = index_of(for_platform(MANIFEST, OCI, "linux/amd64"), for_platform(DATA, OCI, "linux/arm64/v8"))
    serve_manifest(server, "1", index, media_types.OCI_INDEX)

    with pytest.raises(InvalidManifest, match=r"linux/s390x.*linux/amd64, linux/arm64/v8"):
        await resolve(server, platform="linux/s390x")

    assert len(server.requests) == 1


@pytest.mark.parametrize("wanted", ["linux/arm/v6", "linux/arm/v7"])
async def test_a_variant_that_the_index_alone_names(server: ScriptedServer, wanted: str) -> None:
    """An arm image whose config leaves the variant out is what the index lists it for."""
    config = json.dumps({**json.loads(CONFIG), "architecture": "arm"}).encode()
    fields = json.loads(MANIFEST)
    manifest = json.dumps({**fields, "config": descriptor(config, fields["config"]["mediaType"])}).encode()
    serve_manifest(server, "1", index_of(for_platform(manifest, OCI, "linux/arm/v6")), media_types.OCI_INDEX)
    serve_manifest(server, digest_of(manifest), manifest, OCI)
    server.on("GET", blob_path(config), Reply(body=config))

    assert (await resolve(server, platform=wanted)).manifest_digest == digest_of(manifest)
    with pytest.raises(InvalidManifest, match="it offers: linux/arm/v6"):
        await resolve(server, platform="linux/arm/v5")


async def test_other_platform_than_asked(server: ScriptedServer) -> None:
    """An image for one platform is not given for another that was asked for, but for the default it is."""
    serve_image(server, CONTENTS)

    with pytest.raises(InvalidManifest, match="made for linux/amd64, not for linux/s390x"):
        await resolve(server, platform="linux/s390x")
    assert (await resolve(server)).platform == AMD64


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 100])
async def test_nested(server: ScriptedServer, depth: int) -> None:
    """THREATS I11: indexes may be nested three deep."""
    document, media_type = MANIFEST, OCI
    for _ in range(depth):
        serve_by_digest(server, document, media_type)
        document, media_type = (
            index_of(for_platform(document, media_type, "linux/amd64")),
            media_types.OCI_INDEX,
        )
    serve_manifest(server, "1", document, media_type)
    serve_config(server)

    if depth <= 3:
        assert (await resolve(server, platform="linux/amd64")).digest == digest_of(document)
    else:
        with pytest.raises(InvalidManifest, match="3 deep"):
            await resolve(server, platform="linux/amd64")
        assert len(server.requests) == 4


async def test_other_document_for_a_pin(server: ScriptedServer) -> None:
    """THREATS R9: a document that is not the pinned one is refused, whatever the registry says it is."""
    pin = digest_of(b"another")
    headers = {"Content-Type": OCI, "Docker-Content-Digest": pin}
    server.on("GET", f"/v2/org/tool/manifests/{pin}", Reply(headers=headers, body=MANIFEST))

    with pytest.raises(DigestMismatch, match="thrown away") as caught:
        await resolve(server, f"org/tool@{pin}")

    assert (caught.value.expected, caught.value.actual) == (pin, digest_of(MANIFEST))
    assert f"{server.origin}/org/tool@{pin}" in str(caught.value)


async def test_lying_digest_header(server: ScriptedServer) -> None:
    """A Docker-Content-Digest that is not the document's is an error, not something to pin."""
    headers = {"Content-Type": OCI, "Docker-Content-Digest": digest_of(b"another")}
    server.on("GET", "/v2/org/tool/manifests/1", Reply(headers=headers, body=MANIFEST))

    with pytest.raises(DigestMismatch):
        await resolve(server)


@pytest.mark.parametrize("value", ["sha256:../../x", "sha256:ABC", "md5:00", "\x1b[2J"])
async def test_malformed_digest_header(server: ScriptedServer, value: str) -> None:
    """A Docker-Content-Digest that is no digest is an error."""
    headers = {"Content-Type": OCI, "Docker-Content-Digest": value}
    server.on("GET", "/v2/org/tool/manifests/1", Reply(headers=headers, body=MANIFEST))

    with pytest.raises(RegistryError) as caught:
        await resolve(server)

    assert str(caught.value).isprintable()


async def test_wrong_child(server: ScriptedServer) -> None:
    """An index's entry is checked against its digest."""
    entry = for_platform(MANIFEST, OCI, "linux/amd64")
    serve_manifest(server, "1", index_of(entry), media_types.OCI_INDEX)
    serve_manifest(server, digest_of(MANIFEST), MANIFEST + b" ", OCI)

    with pytest.raises(DigestMismatch):
        await resolve(server, platform="linux/amd64")


@pytest.mark.parametrize(("size", "kind"), [(1, SizeMismatch), (5 << 20, InvalidManifest)])
async def test_wrong_child_size(server: ScriptedServer, size: int, kind: type[Exception]) -> None:
    """An index that lies about an entry's size is not followed."""
    entry = {**for_platform(MANIFEST, OCI, "linux/amd64"), "size": size}
    serve_manifest(server, "1", index_of(entry), media_types.OCI_INDEX)
    serve_by_digest(server, MANIFEST, OCI)

    with pytest.raises(kind):
        await resolve(server, platform="linux/amd64")


async def test_index_listed_as_manifest(server: ScriptedServer) -> None:
    """An entry that is not of the kind it is listed as is ambiguous."""
    inner = index_of(for_platform(MANIFEST, OCI, "linux/amd64"))
    serve_manifest(server, "1", index_of(for_platform(inner, OCI, "linux/amd64")), media_types.OCI_INDEX)
    serve_by_digest(server, inner, media_types.OCI_INDEX)

    with pytest.raises(InvalidManifest, match="listed as"):
        await resolve(server, platform="linux/amd64")


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (CONFIG + b" ", SizeMismatch),
        (CONFIG.replace(b"linux", b"linuy"), DigestMismatch),
        (b"x" * (17 << 20), RegistryError),
    ],
)
async def test_wrong_config(server: ScriptedServer, config: bytes, kind: type[Exception]) -> None:
    """The config is checked against the manifest."""
    serve_manifest(server, "1", MANIFEST, OCI)
    server.on("GET", blob_path(CONFIG), Reply(body=config))

    with pytest.raises(kind):
        await resolve(server)


async def test_huge_declared_config(server: ScriptedServer) -> None:
    """A config that is declared too large is not asked for."""
    fields = json.loads(MANIFEST)
    fields["config"]["size"] = 2**62
    serve_manifest(server, "1", json.dumps(fields).encode(), OCI)

    with pytest.raises(InvalidManifest, match="at most"):
        await resolve(server)

    assert len(server.requests) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_oversized_manifest(server: ScriptedServer, framing: str) -> None:
    """THREATS R13: a manifest without end is given up after 4 MiB."""
    body = MANIFEST + b" " * (8 << 20)
    reply = Reply(
        headers={"Content-Type": OCI}, body=body, framing="chunked" if framing == "chunked" else "length"
    )
    server.on("GET", "/v2/org/tool/manifests/1", reply)

    with pytest.raises(RegistryError, match="more than 4194304 bytes"):
        await resolve(server)


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({**json.loads(MANIFEST), "manifests": []}, OCI),
        (json.loads(MANIFEST), media_types.OCI_INDEX),
        (json.loads(MANIFEST), media_types.DOCKER_MANIFEST),
        (json.loads(index_of()), OCI),
        ({"schemaVersion": 1, "fsLayers": []}, media_types.DOCKER_SCHEMA_1[1]),
        ({"schemaVersion": 2}, OCI),
        ([], OCI),
    ],
)
async def test_ambiguous(server: ScriptedServer, document: object, media_type: str) -> None:
    """A document that can be taken for two things, or for none, is refused."""
    serve_manifest(server, "1", json.dumps(document).encode(), media_type)

    with pytest.raises(InvalidManifest):
        await resolve(server)


@pytest.mark.parametrize("media_type", [f"{OCI}; charset=utf-8", OCI.upper(), "application/json", ""])
async def test_served_types(server: ScriptedServer, media_type: str) -> None:
    """Parameters and case of Content-Type don't matter; one that tells nothing leaves it to the document."""
    serve_manifest(server, "1", MANIFEST, media_type)
    serve_config(server)

    assert (await resolve(server)).digest == digest_of(MANIFEST)


async def test_encoded_manifest(server: ScriptedServer) -> None:
    """A manifest that was compressed on the way is refused."""
    headers = {"Content-Type": OCI, "Content-Encoding": "gzip"}
    server.on("GET", "/v2/org/tool/manifests/1", Reply(headers=headers, body=MANIFEST))

    with pytest.raises(RegistryError, match="Content-Encoding"):
        await resolve(server)


HTML = b"<html>\x1b[31m\r\nnot here</html>"
JSON = b'{"errors": [{"code": "SOME_CODE", "message": "\\u001b[31mred\\nERROR forged"}]}'


@pytest.mark.parametrize("body", [HTML, JSON, b"x" * (1 << 20)], ids=["html", "json", "large"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthorized), (403, Unauthorized), (404, NotFound), (429, RateLimited), (500, RegistryError)],
)
async def test_errors(server: ScriptedServer, status: int, kind: type[RegistryError], body: bytes) -> None:
    """Every error names image and host in one printable line, and has the registry's code."""
    server.on("GET", "/v2/org/tool/manifests/1", Reply(status, body=body))

    with pytest.raises(kind) as caught:
        await resolve(server)

    assert caught.value.status == status
    assert caught.value.code == ("SOME_CODE" if body is JSON else None)
    assert f"{server.origin}/org/tool:1" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


async def test_short_digest(server: ScriptedServer) -> None:
    """A shortened digest is refused before a request."""
    with pytest.raises(InvalidReference):
        await resolve(server, "org/tool@sha256:abcd")

    assert server.connections == 0


async def test_docker_hub() -> None:
    """Docker Hub's images are asked for where Docker Hub serves them."""
    async with RegistryClient() as client:
        url = client._endpoint(OciRef.parse("ubuntu")).url("manifests/latest")

    assert str(url) == "https://registry-1.docker.io/v2/library/ubuntu/manifests/latest"


class Known:
    """Documents that are already here."""

    def __init__(self, *documents: bytes) -> None:
        self.documents = {digest_of(document): document for document in documents}

    async def read(self, digest: ImageDigest) -> bytes:
        if digest not in self.documents:
            raise LayersMissing("not here", digests=[digest])
        return self.documents[digest]


async def test_known_documents(server: ScriptedServer) -> None:
    """What is already here by digest is not asked for again; a tag is."""
    index = index_of(for_platform(MANIFEST, OCI, "linux/amd64"))
    serve_manifest(server, "1", index, media_types.OCI_INDEX)
    async with RegistryClient() as client:
        found = await client.resolve(image_at(server), AMD64, documents=Known(index, MANIFEST, CONFIG))
        assert len(server.requests) == 1
        pinned = image_at(server, f"org/tool@{found.digest}")
        again = await client.resolve(pinned, AMD64, documents=Known(index, MANIFEST, CONFIG))

    assert again.digest == found.digest == digest_of(index)
    assert again.layers == found.layers
    assert len(server.requests) == 1


async def test_unknown_documents(server: ScriptedServer) -> None:
    """What is not here is asked for."""
    serve_image(server, CONTENTS)
    async with RegistryClient() as client:
        found = await client.resolve(image_at(server), documents=Known())

    assert found.digest == digest_of(MANIFEST)


async def test_document(server: ScriptedServer) -> None:
    """A document can be had as it was served, undecoded."""
    raw = json.dumps({"config": descriptor(DATA, LAYER)}).encode()
    serve_manifest(server, "x", raw, "application/vnd.example+json")
    async with RegistryClient() as client:
        document = await client.document(image_at(server), "x")

    assert (document.raw, document.digest) == (raw, digest_of(raw))
    assert (document.media_type, document.host) == ("application/vnd.example+json", server.origin)


def held(data: bytes, media_type: str, **more: object) -> dict[str, object]:
    """A descriptor that has a copy of its blob."""
    return {**descriptor(data, media_type, **more), "data": base64.b64encode(data).decode()}


async def test_data_of_descriptors(server: ScriptedServer) -> None:
    """A manifest and a config that a descriptor carries are not asked for."""
    fields = json.loads(MANIFEST)
    fields["config"] = held(CONFIG, media_types.OCI_CONFIG)
    manifest = json.dumps(fields).encode()
    platform = {"os": "linux", "architecture": "amd64"}
    index = index_of(held(manifest, OCI, platform=platform))
    serve_manifest(server, "1", index, media_types.OCI_INDEX)

    found = await resolve(server, platform="linux/amd64")

    assert (found.digest, found.manifest_digest) == (digest_of(index), digest_of(manifest))
    assert (found.raw_manifest, found.raw_config) == (manifest, CONFIG)
    assert len(server.requests) == 1


async def test_wrong_data(server: ScriptedServer) -> None:
    """THREATS I13: a copy that is not what digest and size name is refused, and nothing else is asked for."""
    fields = json.loads(MANIFEST)
    fields["config"] = {**held(CONFIG, media_types.OCI_CONFIG), "digest": digest_of(DATA)}
    serve_manifest(server, "1", json.dumps(fields).encode(), OCI)

    with pytest.raises(InvalidManifest, match="data"):
        await resolve(server)

    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("path", "status", "most"),
    [
        ("/v2/org/tool/manifests/1", 200, 4 << 20),
        (blob_path(CONFIG), 200, 16 << 20),
        ("/v2/org/tool/manifests/1", 404, 64 << 10),
        ("/v2/org/tool/manifests/1", 500, 64 << 10),
        (blob_path(CONFIG), 403, 64 << 10),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_bodies_without_end(
    server: ScriptedServer, path: str, status: int, most: int, framing: Literal["length", "chunked"]
) -> None:
    """THREATS R13: of a body that goes on and on, no more is waited for than is accepted."""
    # What goes beyond the limit fits into buffers on the way; its end never comes.
    endless = Fault("stall", most + (1 << 20))
    reply = Reply(
        status, {"Content-Type": OCI}, b" " * (most + (2 << 20)), framing=framing, faults=(endless,)
    )
    server.on("GET", path, reply)
    serve_manifest(server, "1", MANIFEST, OCI)

    with pytest.raises(RegistryError) as caught:
        await resolve(server)

    assert caught.value.status == status
    endless.release.set()
