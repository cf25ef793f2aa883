"""The one archive that every engine loads, written as a stream (L3).

It is an OCI image layout (``image-layout.md``) and a ``docker save`` archive at once: ``manifest.json``
points at the same ``blobs/sha256`` files. Docker with graph drivers reads ``manifest.json``; Podman and
Docker with the containerd store read the layout, and accept it with blobs left out that they hold.
"""

from __future__ import annotations

__all__ = ("Blob", "Entry", "archive_entries", "archive_size", "stream_archive")

import tarfile
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from aioruntime.assembly.inflate import Inflated
from aioruntime.oci.image import LayerSpec, ResolvedImage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from aioruntime.oci.digest import ImageDigest

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer that goes into the archive from the store.

    Args:
        layer: the blob in the store.
        inflated: what it becomes on the way; None if it goes as it is.
    """

    layer: LayerSpec
    inflated: Inflated | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of the archive: its name, its size in bytes and where its content comes from."""

    name: str
    size: int
    content: bytes | Blob


def archive_entries(
    image: ResolvedImage,
    name: str,
    omit: Collection[ImageDigest] = (),
    inflated: Mapping[ImageDigest, Inflated] | None = None,
) -> list[Entry]:
    """List the files of the archive for *image*, the small documents first.

    Args:
        image: the image; its layers are in the store.
        name: the full name, with tag, that the engine shall give it.
        omit: layers to leave out since the engine holds them.
        inflated: layers to send inflated, for an engine that can't read their compression. Such an
            archive is a ``docker save`` archive only, since the manifest names the compressed blobs.
    """
    inflated = inflated or {}
    documents = [
        _document(image.manifest_digest, image.raw_manifest),
        _document(image.manifest.config.digest, image.raw_config),
    ]
    layout = [
        Entry("oci-layout", *_sized(b'{"imageLayoutVersion":"1.0.0"}')),
        Entry("index.json", *_sized(_index(image, name))),
    ]
    layers = [_layer_entry(layer, inflated.get(layer.digest)) for layer in image.layers]
    save = Entry("manifest.json", *_sized(_save_manifest(image, name, [entry.name for entry in layers])))
    head = [save, documents[1]] if inflated else [*layout, save, *documents]
    sent = {
        entry.name: entry
        for layer, entry in zip(image.layers, layers, strict=True)
        if layer.digest not in omit
    }
    return [*head, *sent.values()]


def _sized(data: bytes) -> tuple[int, bytes]:
    return len(data), data


def _blob_name(digest: ImageDigest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _document(digest: ImageDigest, raw: bytes) -> Entry:
    return Entry(_blob_name(digest), len(raw), raw)


def _layer_entry(layer: LayerSpec, inflated: Inflated | None) -> Entry:
    if inflated is None:
        return Entry(_blob_name(layer.digest), layer.size, Blob(layer))
    return Entry(_blob_name(inflated.diff_id), inflated.size, Blob(layer, inflated))


def _index(image: ResolvedImage, name: str) -> bytes:
    descriptor = {
        "mediaType": image.manifest.media_type or "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest_digest,
        "size": len(image.raw_manifest),
        # containerd and Podman read the first; the second is image-layout.md's own, a tag or a name.
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
    }
    return msgspec.json.encode({"schemaVersion": 2, "manifests": [descriptor]}, enc_hook=str)


def _save_manifest(image: ResolvedImage, name: str, layers: Sequence[str]) -> bytes:
    config = _blob_name(image.manifest.config.digest)
    return msgspec.json.encode([{"Config": config, "RepoTags": [name], "Layers": layers}])


def archive_size(entries: Sequence[Entry]) -> int:
    """Tell how many bytes `stream_archive` gives for *entries*."""
    return sum(len(_header(entry)) + _padded(entry.size) for entry in entries) + 2 * _BLOCK


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.name)
    info.size = entry.size
    info.mode = 0o644
    # GNU keeps sizes over 8 GiB in base 256, in one header block.
    return info.tobuf(tarfile.GNU_FORMAT)


async def stream_archive(
    entries: Sequence[Entry], read_blob: Callable[[Blob], AsyncGenerator[bytes]]
) -> AsyncGenerator[bytes]:
    """Give the bytes of the archive, a piece at a time.

    Args:
        entries: what goes in.
        read_blob: opens the content of a layer; it must give exactly the entry's size, or raise.
    """
    for entry in entries:
        yield _header(entry)
        if isinstance(entry.content, bytes):
            yield entry.content
        else:
            async with aclosing(read_blob(entry.content)) as pieces:
                async for piece in pieces:
                    yield piece
        if padding := _padded(entry.size) - entry.size:
            yield bytes(padding)
    yield bytes(2 * _BLOCK)
