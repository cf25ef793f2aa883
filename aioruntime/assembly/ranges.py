"""Decide which layers are fetched as ranges at once, and which ranges those are (L3, pure)."""

from __future__ import annotations

__all__ = ("SEGMENT", "SEGMENTS_KEPT", "in_segments", "segments_of")

SEGMENT = 2 * 2**20
"""Bytes of a segment: long beside the way to the registry, short beside what memory may hold."""

SEGMENTS_KEPT = 24
"""Segments of all layers together that may be under way or wait for their turn to be written."""


def in_segments(rest: int) -> bool:
    """Tell whether a layer of which *rest* bytes are missing is to be fetched as several ranges at once.

    All of some size are: as one stream, whichever of them begins late would run alone at the end.
    """
    return rest > 2 * SEGMENT


def segments_of(offset: int, size: int) -> list[tuple[int, int]]:
    """Return offset and length of each segment of a layer of *size* bytes from *offset* on, in order."""
    return [(start, min(SEGMENT, size - start)) for start in range(offset, size, SEGMENT)]
