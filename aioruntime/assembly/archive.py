"""The one archive that every engine loads, written as a stream (L3).

It is an OCI image layout (``image-layout.md``) and a ``docker save`` archive at once: ``manifest.json``
points at the same ``blobs/sha256`` files. Docker with graph drivers reads ``manifest.json``; Podman and
Docker with the containerd store read the layout, and accept it with blobs left out that they hold. Every
engine takes the files in any order.
"""

from __future__ import annotations

__all__ = ("Entry", "archive_size", "blob_name", "document_entries", "stream_archive")

import tarfile
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence

    from aioruntime.oci.digest import ImageDigest
    from aioruntime.oci.image import ResolvedImage

    Source: TypeAlias = Callable[[], AsyncGenerator[bytes]]

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of the archive: its name, its size in bytes, and its content or what opens that."""

    name: str
    size: int
    content: bytes | Source


def blob_name(digest: ImageDigest) -> str:
    """Return where the archive has a blob."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def document_entries(
    image: ResolvedImage, name: str, layers: Sequence[str], *, layout: bool = True
) -> list[Entry]:
    """List the small files of the archive for *image*, all but its layers.

    Args:
        image: the image.
        name: the full name, with tag, that the engine shall give it.
        layers: names of the files that its layers are, base first.
        layout: whether the archive is an image layout too. It is not if its layers are not the blobs that
            the manifest names.
    """
    config = _file(blob_name(image.manifest.config.digest), image.raw_config)
    saved = {"Config": config.name, "RepoTags": [name], "Layers": list(layers)}
    save = _file("manifest.json", msgspec.json.encode([saved]))
    if not layout:
        return [save, config]
    return [
        _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        _file("index.json", _index(image, name)),
        save,
        _file(blob_name(image.manifest_digest), image.raw_manifest),
        config,
    ]


def _file(name: str, content: bytes) -> Entry:
    return Entry(name, len(content), content)


def _index(image: ResolvedImage, name: str) -> bytes:
    descriptor = {
        "mediaType": image.manifest.media_type or "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest_digest,
        "size": len(image.raw_manifest),
        # containerd and Podman read the first; the second is image-layout.md's own, a tag or a name.
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
    }
    return msgspec.json.encode({"schemaVersion": 2, "manifests": [descriptor]}, enc_hook=str)


def archive_size(entries: Iterable[Entry]) -> int:
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


async def stream_archive(entries: AsyncIterator[Entry]) -> AsyncGenerator[bytes]:
    """Give the bytes of the archive, a piece at a time.

    Args:
        entries: what goes in, each asked for when all before it has been given. What a content's source
            gives has to have exactly the entry's size, or it has to raise.
    """
    async for entry in entries:
        yield _header(entry)
        if isinstance(entry.content, bytes):
            yield entry.content
        else:
            async with aclosing(entry.content()) as pieces:
                async for piece in pieces:
                    yield piece
        if padding := _padded(entry.size) - entry.size:
            yield bytes(padding)
    yield bytes(2 * _BLOCK)
