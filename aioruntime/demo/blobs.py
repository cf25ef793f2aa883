"""Write a layer's tar while hashing and compressing it in one pass."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ("CHUNK", "Compression", "Layer", "LayerWriter")

CHUNK = 1 << 20
"""How much is read, compressed and written at a time."""

Compression = Literal["gzip", "zstd", "none"]
"""How a layer's tar is compressed."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as a registry would hold it.

    Attributes:
        digest: The hash of the compressed bytes, "sha256:...".
        size: Their number.
        diff_id: The hash of the tar inside.
        compression: How it is compressed.
        content: The file that holds the bytes, or the bytes themselves.
    """

    digest: str
    size: int
    diff_id: str
    compression: Compression
    content: Path | bytes

    def copy_to(self, target: Path) -> None:
        """Write the compressed bytes to a new file."""
        if isinstance(self.content, bytes):
            target.write_bytes(self.content)
        else:
            shutil.copyfile(self.content, target)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Uncompressed:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(compression: Compression) -> _Compressor:
    if compression == "none":
        return _Uncompressed()
    if compression == "zstd":
        return zstd.ZstdCompressor(level=3)
    # As image builders do it; 31: with a gzip header, which then has neither time nor name.
    return zlib.compressobj(6, wbits=31)


class LayerWriter:
    """Take a tar's bytes in order; hash them, compress them, hash that too, and write it out."""

    def __init__(self, out: IO[bytes], compression: Compression) -> None:
        self._out = out
        self._compression = compression
        self._compressor = _compressor(compression)
        self._outer, self._inner = hashlib.sha256(), hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> int:
        """Take the tar's next bytes."""
        self._inner.update(data)
        self._emit(self._compressor.compress(data))
        return len(data)

    def _emit(self, data: bytes) -> None:
        self._outer.update(data)
        self._out.write(data)
        self._size += len(data)

    def finish(self, content: Path | bytes) -> Layer:
        """End the layer; *content* says where its bytes are to be found."""
        self._emit(self._compressor.flush())
        self._out.flush()
        return Layer(
            digest=f"sha256:{self._outer.hexdigest()}",
            size=self._size,
            diff_id=f"sha256:{self._inner.hexdigest()}",
            compression=self._compression,
            content=content,
        )

    def open_tar(self) -> tarfile.TarFile:
        """Begin the tar; close it before `finish`."""
        stream = cast("IO[bytes]", self)  # a stream archive only ever writes
        return tarfile.open(mode="w|", fileobj=stream, format=tarfile.PAX_FORMAT, bufsize=CHUNK)
