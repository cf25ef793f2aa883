"""Tell an image that an engine has no room for from one that it does not take (L2)."""

from __future__ import annotations

__all__ = ("load_failure",)

import os
from typing import TYPE_CHECKING

from aioruntime.errors import EngineDiskFull, ImageLoadFailed, StreamTruncated
from aioruntime.tasks import in_thread

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient
    from aioruntime.errors import EngineError

# ENOSPC and EDQUOT, as Go writes them.
_DISK_FULL = ("no space left on device", "disk quota exceeded")


async def load_failure(client: EngineClient, error: EngineError, sent: int) -> ImageLoadFailed:
    """Make the error for an image that the engine did not take.

    Args:
        client: the engine.
        error: how the engine refused, or broke off.
        sent: bytes of the image that it got.

    Returns:
        `EngineDiskFull` if the engine says so, or if it is on this machine and its disk has less room than
        what it got; else `ImageLoadFailed`.
    """
    told = f"the engine did not take the image: {error}"
    place = client.capabilities.data_root
    full = any(words in error.message.lower() for words in _DISK_FULL)
    # Podman may only tell that what it got is no image.
    if not full and not isinstance(error, StreamTruncated) and client.endpoint.socket and place:
        free = await in_thread(_free_bytes, place)
        full = free is not None and free < sent
        told += f"; its disk has {free} bytes free, it was sent {sent}" if full else ""
    if not full:
        return ImageLoadFailed(told, status=error.status)
    remedy = f"make room where it keeps images ({place}), as with `{client.capabilities.kind} system prune`"
    return EngineDiskFull(f"{told}; {remedy}", status=error.status)


def _free_bytes(path: str) -> int | None:
    try:
        disk = os.statvfs(path)
    except OSError:  # of another machine, behind a forwarded socket; or not ours to see
        return None
    return disk.f_bavail * disk.f_frsize
