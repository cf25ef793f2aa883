"""The file system of an image as an engine makes it, entry by entry: a container's, exported unstarted."""

from __future__ import annotations

import io
import stat
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioruntime.engine.client import EngineClient

CAPABILITY = "security.capability"
"""The one extended attribute that engines export."""
_KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
Seen = dict[str, tuple[object, ...]]


async def exported(client: EngineClient, image: str) -> Seen:
    """What the engine makes of *image*: mode, owner, content, capability and other names, by path."""
    created = await client.json("POST", "/containers/create", body={"Image": image, "Cmd": ["none"]})
    path = f"/containers/{created['Id']}"
    try:
        async with client.stream("GET", f"{path}/export") as response:
            archive = await response.read()
    finally:
        await client.json("DELETE", path, params={"force": "1"})
    return _seen(archive)


def _seen(archive: bytes) -> Seen:
    found: Seen = {}
    linked: dict[str, list[str]] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            name = member.name
            if member.islnk():
                linked.setdefault(member.linkname, [member.linkname]).append(name)
                found[name] = found[member.linkname]
                continue
            if member.type not in _KINDS:
                continue
            content: object = member.linkname if member.issym() else None
            if member.isreg():
                file = members.extractfile(member)
                assert file is not None
                content = (file.read(), int(member.mtime))
                linked[name] = [name]
            capability = member.pax_headers.get(f"SCHILY.xattr.{CAPABILITY}", "")
            attributes = {CAPABILITY: capability.encode("utf-8", "surrogateescape")} if capability else {}
            found[name] = (_KINDS[member.type] | member.mode, member.uid, member.gid, content, attributes)
    for names in linked.values():
        for name in names:
            found[name] += (tuple(sorted(names)),)
    return found
