"""Layers with URLs in their manifest: we fetch them, and no engine is sent there."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING

import pytest

import aioruntime as ar
from aioruntime.oci import media_types
from tests.registry.helpers import descriptor
from tests.support.rootfs import program_tar
from tests.support.scripted import Reply, ScriptedServer
from tests.support.served_image import digest_of
from tests.support.tools import remove_images

if TYPE_CHECKING:
    from tests.support.engines import Engine

TAR = program_tar("echo")
LAYER = gzip.compress(TAR, 1)
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest.mark.parametrize(
    ("media_type", "at_registry"),
    [(f"{media_types.OCI_LAYER}+gzip", True), (OCI_FOREIGN, False), (DOCKER_FOREIGN, False)],
)
async def test_engines_are_not_sent_there(
    every_engine: Engine, store: ar.ImageStore, media_type: str, at_registry: bool
) -> None:
    """THREATS R6: only we go to the URLs that a manifest names, once; the engine gets what we have."""
    fields = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(TAR)]},
    }
    config = json.dumps(fields).encode()
    docker = media_type == DOCKER_FOREIGN
    manifest_type = media_types.DOCKER_MANIFEST if docker else media_types.OCI_MANIFEST
    config_type = "application/vnd.docker.container.image.v1+json" if docker else media_types.OCI_CONFIG
    async with ScriptedServer() as server, ScriptedServer() as elsewhere:
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": manifest_type,
                "config": descriptor(config, config_type),
                "layers": [descriptor(LAYER, media_type, urls=[f"{elsewhere.url}/layer"])],
            }
        ).encode()
        server.on(
            "GET", "/v2/org/tool/manifests/1", Reply(body=manifest, headers={"Content-Type": manifest_type})
        )
        server.on("GET", f"/v2/org/tool/blobs/{digest_of(config)}", Reply(body=config))
        layer = Reply(body=LAYER) if at_registry else Reply(404)
        server.on("GET", f"/v2/org/tool/blobs/{digest_of(LAYER)}", layer)
        elsewhere.on("GET", re.compile("/.*"), Reply(body=LAYER))
        async with ar.connect(every_engine.url, store=store) as runtime:
            image = ar.OciRef.parse(f"{server.origin}/org/tool:1")
            try:
                digest = await runtime.pull(image)
                assert digest == digest_of(manifest)
                assert await runtime.is_locally_available(image, digest)
                outcome = await runtime.run(ar.RunSpec(image, ["/bin/echo", "here"], capture_output=True))
                assert outcome.stdout == b"here\n"
            finally:
                await remove_images(runtime)

        agents = [request.header("User-Agent") for request in elsewhere.requests]
        assert agents == ([] if at_registry else ["aioruntime"])
