"""The documents of an image that is made from others: pure functions on bytes (L3).

The manifest follows ``manifest.md`` and the config ``config.md`` of the OCI image specification. What of a
config is not understood is kept.
"""

from __future__ import annotations

__all__ = ("derive_image", "merge_documents", "without_urls")

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from aioruntime.oci import media_types
from aioruntime.oci.digest import ImageDigest
from aioruntime.oci.documents import Manifest, decode_config, decode_document
from aioruntime.oci.image import LayerSpec, ResolvedImage, layers_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioruntime.assembly.inflate import Inflated
    from aioruntime.oci.reference import OciRef


def derive_image(
    reference: OciRef, config: Mapping[str, Any], layers: Sequence[tuple[LayerSpec, ImageDigest]]
) -> ResolvedImage:
    """Make the image that has these *layers*; the same arguments give the same digest.

    Args:
        reference: its name.
        config: its config, without ``rootfs``.
        layers: each layer and its diff ID, base first.
    """
    rootfs = {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}
    raw_config = _encode({**config, "rootfs": rootfs})
    raw_manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": _descriptor(media_types.OCI_CONFIG, ImageDigest.of(raw_config), len(raw_config)),
            "layers": [_descriptor(layer.media_type, layer.digest, layer.size) for layer, _ in layers],
        }
    )
    manifest = decode_document(raw_manifest, media_types.OCI_MANIFEST, str(reference))
    assert isinstance(manifest, Manifest)
    digest = ImageDigest.of(raw_manifest)
    return ResolvedImage(
        reference=reference,
        digest=digest,
        manifest=manifest,
        config=decode_config(raw_config, manifest, str(reference)),
        layers=layers_of(manifest),
        manifest_digest=digest,
        raw_manifest=raw_manifest,
        raw_config=raw_config,
    )


def without_urls(image: ResolvedImage) -> ResolvedImage:
    """Return *image* with no URL in its manifest: engines rather go there than take what they are sent."""
    parts = (image.manifest.config, *image.manifest.layers)
    if not any(part.urls for part in parts):
        return image
    fields = msgspec.json.decode(image.raw_manifest)
    for part in (fields["config"], *fields["layers"]):
        part.pop("urls", None)
    raw_manifest = _encode(fields)
    manifest = decode_document(raw_manifest, image.manifest.media_type, str(image.reference))
    assert isinstance(manifest, Manifest)
    digest = ImageDigest.of(raw_manifest)
    return replace(
        image,
        digest=digest,
        manifest=manifest,
        layers=layers_of(manifest),
        manifest_digest=digest,
        raw_manifest=raw_manifest,
    )


def merge_documents(
    image: ResolvedImage, groups: Sequence[range], merged: Sequence[Inflated]
) -> ResolvedImage:
    """Make the image in which *merged* stand for *groups* of the layers of *image*, the last ones."""
    config = msgspec.json.decode(image.raw_config)
    history = _merged_history(config.get("history"), groups)
    config = {name: value for name, value in config.items() if name != "history"}
    if history is not None:
        config["history"] = history
    first = groups[0].start
    pairs = list(zip(image.layers[:first], image.config.rootfs.diff_ids[:first], strict=True))
    pairs += [(LayerSpec(m.diff_id, m.size, media_types.OCI_LAYER), m.diff_id) for m in merged]
    return derive_image(image.reference, config, pairs)


def _merged_history(history: Any, groups: Sequence[range]) -> list[Any] | None:
    """Keep what *history* tells of the layers below the groups; None if it does not fit the layers."""
    if not isinstance(history, list) or not all(isinstance(step, dict) for step in history):
        return None
    first, count = groups[0].start, groups[-1].stop
    kept: list[Any] = []
    layers = 0
    for step in history:
        layers += not step.get("empty_layer")
        if layers <= first:
            kept.append(step)
    if layers != count:
        return None
    return kept + [{"created_by": f"layers {g.start} to {g.stop - 1} merged"} for g in groups]


def _descriptor(media_type: str, digest: ImageDigest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _encode(document: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(document, enc_hook=str, order="sorted")
