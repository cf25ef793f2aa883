"""Read zstd data of any number of frames, in bounded memory and time (L3).

Follows RFC 8878, 3: frames stand one after another, and some of them hold nothing. Podman's ``zstd:chunked``
has a frame a file, so there may be very many; but not of a few bytes each.
"""

from __future__ import annotations

__all__ = ("ZstdFrames",)

import io
import sys
from typing import TYPE_CHECKING

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from typing import BinaryIO

# 128 MiB, what the zstd program itself accepts unasked; a larger window is a memory bomb.
_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): 27}
_PIECE = 128 * 1024
_FIRST_BITE = 256
# To begin a frame takes some 10 microseconds: a million empty ones, in 9 MB, are a time bomb.
_MANY_FRAMES = 20_000
_LEAST_BYTES = 32


class ZstdFrames(io.RawIOBase):
    """What is inside *blob*; closing it leaves *blob* open."""

    def __init__(self, blob: BinaryIO) -> None:
        self._blob = blob
        self._piece = b""
        self._at = 0
        self._bite = _FIRST_BITE
        self._taken = 0
        self._frames = 0
        self._frame: zstd.ZstdDecompressor | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to *size* bytes; none at the end.

        Raises:
            EOFError: a frame is cut short.
            ZstdError: what is there is no zstd data, or too many frames.
        """
        while True:
            data = b""
            if self._frame is None or self._frame.needs_input:
                data = self._take()
                if not data and self._frame is None:
                    return b""
                if not data:
                    raise EOFError("it ends within a zstd frame")
            if self._frame is None:
                self._frame = self._begin()
            inflated = self._frame.decompress(data, size)
            if self._frame.eof:
                self._at -= len(self._frame.unused_data)
                self._taken -= len(self._frame.unused_data)
                self._frame = None
            if inflated:
                return inflated

    def _take(self) -> bytes:
        """Take the next bytes: few at a frame's beginning, since those behind its end are copied."""
        if self._at == len(self._piece):
            self._piece, self._at = self._blob.read(_PIECE), 0
        self._bite = _FIRST_BITE if self._frame is None else min(2 * self._bite, _PIECE)
        data = self._piece[self._at : self._at + self._bite]
        self._at += len(data)
        self._taken += len(data)
        return data

    def _begin(self) -> zstd.ZstdDecompressor:
        self._frames += 1
        if self._frames > _MANY_FRAMES and self._taken < self._frames * _LEAST_BYTES:
            raise zstd.ZstdError(f"it has {self._frames} frames in its first {self._taken} bytes")
        return zstd.ZstdDecompressor(options=_OPTIONS)
