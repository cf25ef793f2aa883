"""Decide which layers are fetched as ranges at once, and which ranges those are (L3, pure)."""

from __future__ import annotations

__all__ = ("SEGMENT", "SEGMENTS_KEPT", "in_segments", "segments_of")

SEGMENT = 2 * 2**20
"""Bytes of a segment: long beside the way to the registry, short beside what memory may hold."""

SEGMENTS_KEPT = 16
"""Segments of all layers together that may be under way or wait for their turn to be written."""

_LARGE = 16 * 2**20


def in_segments(rest: int, waiting: int, free: float) -> bool:
    """Tell whether a layer is to be fetched as several ranges at once.

    A large one is, so that it does not run alone at the end; and one of some size when there are more
    connections than layers that could use them.

    Args:
        rest: bytes of the layer that are missing.
        waiting: layers that wait for a connection.
        free: connections that are free.
    """
    return rest > _LARGE or (rest > 2 * SEGMENT and waiting <= free)


def segments_of(offset: int, size: int) -> list[tuple[int, int]]:
    """Return offset and length of each segment of a layer of *size* bytes from *offset* on, in order."""
    return [(start, min(SEGMENT, size - start)) for start in range(offset, size, SEGMENT)]
